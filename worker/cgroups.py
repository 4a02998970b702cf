"""The control groups that bound this process's memory, of version 2 or 1 (cgroups(7))."""

from collections.abc import Iterator
from pathlib import Path


def of_memory(root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """(version, folder) of its own group and then of those around it, as far as this process sees
    them: a container may see its group as the root, or by a path that is not there.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a kernel without them
        return
    for group in groups:
        _, kinds, path = group.split(":", 2)
        if kinds == "":
            version, mount = 2, root / "sys/fs/cgroup"
        elif "memory" in kinds.split(","):
            version, mount = 1, root / "sys/fs/cgroup/memory"
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder.is_relative_to(mount):
            yield version, folder
            folder = folder.parent
