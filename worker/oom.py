"""How often the kernel has ended a process for want of memory, as far as it tells."""

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def oom_kills() -> int | None:
    """Among the processes of this one's control group (cgroup v2 or v1), else on the whole machine;
    None if nothing tells.
    """
    try:
        groups = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    places = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places += [CGROUPS / path.lstrip("/") / "memory.events", CGROUPS / "memory.events"]
        elif "memory" in controllers.split(","):
            v1 = CGROUPS / "memory"
            places += [v1 / path.lstrip("/") / "memory.oom_control", v1 / "memory.oom_control"]
    for place in (*places, PROC / "vmstat"):
        count = count_in(place)
        if count is not None:
            return count
    return None


def count_in(place: Path) -> int | None:
    try:
        lines = place.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
