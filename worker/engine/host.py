"""The memory of the machine, or of the part of it that the engine's container has."""

import os
from collections.abc import Iterator
from pathlib import Path

from worker import cgroups

# Where the control groups are, by their version: the limit, and what of it is in use.
VERSION_2 = ("memory.max", "memory.current")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
# A group's memory has the files it has read lately in it, which make way.
FILES = {VERSION_2: "inactive_file", VERSION_1: "total_inactive_file"}


def total_memory(root: Path = Path("/")) -> int:
    """Bytes in all."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit, _ in limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a process can still take, about."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    machine = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return max(0, min([machine, *(limit - used for limit, used in limits(root))]))


def resident_memory() -> int:
    """Bytes of RAM that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of each control group that this process is in and that has one."""
    for version, folder in cgroups.of_memory(root):
        yield from limit_in(folder, VERSION_2 if version == 2 else VERSION_1)


def limit_in(folder: Path, names: tuple[str, str]) -> Iterator[tuple[int, int]]:
    try:
        limit, used = ((folder / name).read_text().strip() for name in names)
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except OSError:  # not there, or the root, which has none
        return
    if limit != "max":
        yield int(limit), int(used) - int(statistics.get(FILES[names], 0))
