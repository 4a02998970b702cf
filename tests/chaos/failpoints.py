"""Every failpoint of the product, found by reading its source, and what arms one: a file of its
name in a folder. The process that comes by renames the file and dies, so each arming kills once.
"""

import os
import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from tunery import failpoint

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"(?<!def )\bfailpoint\(([^)]*)\)")
NAME = re.compile(r'f?"([a-z_]+|\{kind\})\.([a-z_]+)"')
# `worker.engine.sealed` writes them all in the same way.
KINDS = ("adapter", "base", "checkpoint", "export")


def names() -> list[str]:
    """Raises ValueError for a call whose name cannot be read from the source."""
    found = []
    for package in ("api", "tunery", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for argument in CALL.findall(path.read_text()):
                match = NAME.fullmatch(argument)
                if match is None:
                    raise ValueError(f"{path}: failpoint({argument}) does not name its place")
                places = KINDS if match[1] == "{kind}" else (match[1],)
                found += [f"{place}.{match[2]}" for place in places]
    return sorted(set(found))


def install(folder: Path) -> None:
    for name in names():
        failpoint.armed[name] = partial(die_if_armed, folder / name)


def arm(folder: Path, name: str, *, passes: int) -> None:
    """So many come by unharmed, then one dies."""
    (folder / name).write_text(str(passes))


def hit(folder: Path, name: str) -> bool:
    return (folder / f"{name}.hit").exists()


def die_if_armed(mark: Path) -> None:
    # Two processes may come by at once: then both pass, or both die.
    with suppress(FileNotFoundError):
        passes = int(mark.read_text() or 0)
        if passes:
            mark.write_text(str(passes - 1))
            return
        mark.rename(mark.with_name(f"{mark.name}.hit"))
        os.kill(os.getpid(), signal.SIGKILL)
