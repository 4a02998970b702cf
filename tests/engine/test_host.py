"""The memory that there is: the machine's, or what a control group leaves of it."""

from pathlib import Path

import pytest

from worker.engine.host import available_memory, total_memory

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"
GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def group(folder: str, limit: str, used: int, *, version: int, files: int = 0) -> dict[str, str]:
    if version == 1:
        names = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": f"{used}\n"}
        return {f"{folder}/{name}": said for name, said in names.items()} | {
            f"{folder}/memory.stat": f"cache 7\ntotal_inactive_file {files}\n"
        }
    names = {"memory.max": f"{limit}\n", "memory.current": f"{used}\n"}
    return {f"{folder}/{name}": said for name, said in names.items()} | {
        f"{folder}/memory.stat": f"anon 7\ninactive_file {files}\n"
    }


@pytest.mark.parametrize(
    ("own", "files", "total", "available"),
    [
        pytest.param("0::/\n", {}, None, 8_000_000 << 10, id="no limit"),
        pytest.param(
            "0::/\n",
            group("sys/fs/cgroup", str(2 * GIB), GIB, version=2, files=GIB // 4),
            2 * GIB,
            GIB + GIB // 4,
            id="a container's own",
        ),
        pytest.param(
            "0::/house/room\n",
            group("sys/fs/cgroup/house/room", "max", GIB, version=2)
            | group("sys/fs/cgroup/house", str(3 * GIB), 2 * GIB, version=2),
            3 * GIB,
            GIB,
            id="the one around it",
        ),
        pytest.param(
            "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
            group("sys/fs/cgroup/memory", str(GIB), GIB // 2, version=1),
            GIB,
            GIB // 2,
            id="version 1, its path not to be seen",
        ),
        pytest.param(
            "4:memory:/\n",
            group("sys/fs/cgroup/memory", str(2**63 - 4096), GIB, version=1),
            None,
            8_000_000 << 10,
            id="version 1 without a limit",
        ),
    ],
)
def test_a_control_groups_limit_is_seen(
    tmp_path: Path, own: str, files: dict[str, str], total: int | None, available: int
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": own, **files})
    assert total_memory(root) == (total_memory(tmp_path / "none") if total is None else total)
    assert available_memory(root) == available


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    root = write(tmp_path, {})
    assert total_memory(root) > 0
    assert available_memory(root) == 8_000_000 << 10
