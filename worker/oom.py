"""How often the kernel has ended a process for want of memory, as far as it tells."""

from pathlib import Path

from worker import cgroups

VMSTAT = Path("/proc/vmstat")
# Where a control group counts, by its version.
COUNTS = {2: "memory.events", 1: "memory.oom_control"}


def oom_kills() -> int | None:
    """Among the processes of this one's control group, else of one around it, else on the whole
    machine; None if nothing tells.
    """
    groups = (folder / COUNTS[version] for version, folder in cgroups.of_memory())
    counts = (count_in(place) for place in (*groups, VMSTAT))
    return next((count for count in counts if count is not None), None)


def count_in(place: Path) -> int | None:
    try:
        lines = place.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
