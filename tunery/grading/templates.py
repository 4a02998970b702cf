"""The placeholders in a grader's texts: `{{ item.FIELD }}`, a field of the row, and
`{{ sample.output_text }}`, `{{ sample.output_json }}` and `{{ sample.output_tools }}`, the answer.
Behind them may stand a path: `{{ sample.output_json.address.lines[0] }}`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
from pydantic_core import to_json

# What is filled in is cut here: what compares texts takes time with their product.
MOST_CHARACTERS = 65_536

PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
STEP = re.compile(r"\.([^\s.\[\]{}]+)|\[([0-9]{1,6})\]")
OUTPUTS = ("output_text", "output_json", "output_tools")

Path = tuple[str | int, ...]


class NoSuchValue(Exception):
    """The row or the answer has nothing at a placeholder's path."""


class NoJson(Exception):
    """The answer is no JSON, and a placeholder reads it as that."""


@dataclass(frozen=True)
class Sample:
    """A model's answer: its text, and the tools that it calls as OpenAI's messages have them."""

    text: str
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def json(self) -> Any:  # noqa: ANN401 (whatever the model wrote)
        """Read once, however many placeholders ask for it. Raises `NoJson`."""
        try:
            return orjson.loads(self.text)
        except orjson.JSONDecodeError as error:
            raise NoJson(f"The answer is no JSON: {error}.") from error


@dataclass
class Filler:
    """Fills placeholders from one row and one answer. `cut`: a text was too long and ends early."""

    item: Mapping[str, Any]
    sample: Sample
    cut: bool = False

    def fill(self, template: str) -> str:
        """Raises `NoSuchValue` and `NoJson`."""
        text, at = "", 0
        for found in PLACEHOLDER.finditer(template):
            if len(text) > MOST_CHARACTERS:  # a short template may ask for a long value often
                break
            text += template[at : found.start()] + text_of(self.value(path_of(found[1])))
            at = found.end()
        else:
            text += template[at:]
        self.cut |= len(text) > MOST_CHARACTERS
        return text[:MOST_CHARACTERS]

    def value(self, path: Path) -> Any:  # noqa: ANN401 (whatever stands there)
        root, *rest = path
        if root == "item":
            return follow(self.item, rest, "item")
        output, *rest = rest
        match output:
            case "output_text":
                return self.sample.text
            case "output_json":
                return follow(self.sample.json, rest, "sample.output_json")
            case _:
                return follow(self.sample.tool_calls, rest, "sample.output_tools")


def follow(value: Any, path: list[str | int], walked: str) -> Any:  # noqa: ANN401
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise NoSuchValue(f"{walked} has nothing at {step!r}.") from None
        walked += f"[{step}]" if isinstance(step, int) else f".{step}"
    return value


def text_of(value: Any) -> str:  # noqa: ANN401
    """What is not text is written as JSON. Raises `NoJson` for what is nested too deep for that."""
    try:
        return value if isinstance(value, str) else to_json(value).decode()
    except ValueError as error:
        raise NoJson("The answer's JSON is nested too deep to be read.") from error


def path_of(expression: str) -> Path:
    """Raises `ValueError` for what is no placeholder here."""
    written = expression.strip()
    root = written.split(".", 1)[0].split("[", 1)[0]
    steps: list[str | int] = [root]
    at = len(root)
    while at < len(written):
        found = STEP.match(written, at)
        if not found:
            break
        steps.append(found[1] if found[1] is not None else int(found[2]))
        at = found.end()
    if at < len(written) or root not in {"item", "sample"}:
        raise ValueError(
            f"has {{{{{expression[:64]}}}}}; write {{{{ item.FIELD }}}} or "
            "{{ sample.output_text }}, with a path behind it if need be"
        )
    if root == "sample" and (len(steps) < 2 or steps[1] not in OUTPUTS):
        raise ValueError(
            f"has {{{{{expression[:64]}}}}}; of the sample there are {', '.join(OUTPUTS)}"
        )
    if steps[1:2] == ["output_text"] and len(steps) > 2:
        raise ValueError(f"has {{{{{expression[:64]}}}}}; output_text is a text without fields")
    return tuple(steps)


def paths_in(template: str) -> Iterator[Path]:
    """Raises `ValueError` as `path_of`."""
    for found in PLACEHOLDER.finditer(template):
        yield path_of(found[1])


def readable(template: str) -> str:
    """The template itself. Raises `ValueError` as `path_of`."""
    for _ in paths_in(template):
        pass
    return template
