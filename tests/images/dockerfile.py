"""Just enough of Docker's formats for our own files: the Dockerfile's instructions by stage, and
what `.dockerignore` leaves in.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"ENV", "ARG", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "CMD"}


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """Raises `ValueError` for an instruction that is not known here: none is passed over."""
    found: dict[str, Stage] = {}
    for line in lines(text):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, base)
        elif word in KNOWN:
            stage.steps.append((word, rest.strip()))
        else:
            raise ValueError(f"Dockerfile: {word} is not known here")
    return found


def lines(text: str) -> Iterator[str]:
    """With those that end in a backslash joined, without comments."""
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        whole += line.removesuffix("\\")
        if not line.endswith("\\") and whole.strip():
            yield whole.strip()
            whole = ""


def variables(rest: str) -> dict[str, str]:
    """Of an ENV or ARG."""
    pairs = (word.partition("=") for word in shlex.split(rest))
    return {name: value for name, _, value in pairs}


def command(rest: str) -> list[str]:
    """Of a CMD in its JSON form."""
    return [str(word) for word in json.loads(rest)]


def context(folder: Path) -> list[Path]:
    """The files that a build sees, relative to the folder."""
    rules = [
        (line.removeprefix("!"), line.startswith("!"))
        for line in (folder / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    tops = {rule.partition("/")[0] for rule, kept in rules if kept}
    files = [
        path.relative_to(folder)
        for top in sorted(tops)
        for path in ([folder / top] if (folder / top).is_file() else (folder / top).rglob("*"))
        if path.is_file()
    ]
    return [path for path in files if is_kept(path, rules)]


def is_kept(path: Path, rules: list[tuple[str, bool]]) -> bool:
    """The last rule that matches the path or a folder above it decides."""
    kept = True
    for rule, keeps in rules:
        pattern = re.escape(rule).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(part)) for part in (path, *path.parents)):
            kept = keeps
    return kept
