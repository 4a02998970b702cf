"""Chat templates as programs: read from a model's folder, compiled as transformers does, run in a
sandbox.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunery.data.bounds import rendering

# Some templates print today's date. Training must not depend on the day it runs.
TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)

# Around what `{% generation %}` holds, until the whole text is there: noncharacters of Unicode,
# which no text has.
OPEN, CLOSE = "\U0010fffe", "\U0010ffff"


class TemplateError(ValueError):
    """The base model's template cannot render this row, or not in a way that can be trained on."""


@dataclass(frozen=True)
class Rendered:
    """What a template made of a conversation, special tokens written out. `marks` are where
    `{% generation %}` begins and ends, in characters.
    """

    text: str
    marks: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, written: str) -> "Rendered":
        if OPEN not in written:
            return cls(written)
        parts: list[str] = []
        marks: list[tuple[int, int]] = []
        length = begun = 0
        for piece in written.replace(CLOSE, OPEN).split(OPEN):
            parts.append(piece)
            length += len(piece)
            if len(parts) % 2:
                begun = length
            elif marks and marks[-1][1] == begun:  # what ends the text behind the last answer
                marks[-1] = (marks[-1][0], length)
            else:
                marks.append((begun, length))
        return cls("".join(parts), tuple(marks))


class Generation(Extension):
    """`{% generation %}` around an answer, as transformers knows it."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Any) -> str:  # noqa: ANN401 - jinja2's macro
        return f"{OPEN}{caller()}{CLOSE}"


def template_sources(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """By name. Most models have one, `default`; some another for rows with tools, `tool_use`."""
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.exists() else config.get("chat_template")
    if isinstance(source, list):
        return {each["name"]: each["template"] for each in source}
    return {"default": source} if source else {}


def compile_template(source: str) -> jinja2.Template:
    """A chat template as transformers compiles one: sandboxed, trimmed blocks.

    Raises:
        TemplateError: it is not a template.
        TemplateTooCostly: as when it is rendered.

    """

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,  # noqa: ANN401
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    try:
        with rendering:  # what is constant is computed now
            return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"the base model's chat template is broken: {error}") from error
