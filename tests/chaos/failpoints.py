"""Every failpoint of the product, found by reading its source, and what arms one: a file of its
name in a folder. The process that comes by takes the file away and dies, so each arming kills once.
"""

import os
import re
import signal
from functools import partial
from pathlib import Path

from tunery import failpoint

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"(?<!def )\bfailpoint\(([^)]*)\)")
NAME = re.compile(r'"([a-z_]+\.[a-z_]+)"')


def names() -> list[str]:
    """Raises ValueError for a call whose name cannot be read from the source."""
    found = []
    for package in ("api", "tunery", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for argument in CALL.findall(path.read_text()):
                match = NAME.fullmatch(argument)
                if match is None:
                    raise ValueError(f"{path}: failpoint({argument}) does not name its place")
                found.append(match[1])
    return sorted(set(found))


def install(folder: Path) -> None:
    for name in names():
        failpoint.armed[name] = partial(die_if_armed, folder / name)


def arm(folder: Path, name: str) -> None:
    (folder / name).touch()


def hit(folder: Path, name: str) -> bool:
    return (folder / f"{name}.hit").exists()


def die_if_armed(mark: Path) -> None:
    try:
        mark.rename(mark.with_name(f"{mark.name}.hit"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
