"""What reads strangers' data cannot look into what holds keys."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHILD = """
import sys
from pathlib import Path
from tunery import privileges
privileges.give_up()
for name in ("environ", "mem"):
    try:
        with Path("/proc", sys.argv[1], name).open("rb") as file:
            file.read(1)
        print(name)
    except PermissionError:
        pass
"""
PARENT = f"""
import os, subprocess, sys
from tunery import privileges
privileges.shut()
child = [sys.executable, "-c", {CHILD!r}, str(os.getpid())]
subprocess.run(child, env={{"PYTHONPATH": {str(ROOT)!r}}})
"""


def test_a_child_reads_neither_its_parents_environment_nor_its_memory() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", PARENT],
        env={"PYTHONPATH": str(ROOT), "TUNERY_WORKER_KEY": "secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (asked.stdout, asked.stderr) == ("", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than root has nothing to give up")
@pytest.mark.parametrize(
    "program",
    ["worker.engine", "tunery.data.check", "tunery.data.tokens", "api.trackers.wandb_run"],
)
def test_what_reads_strangers_data_has_no_rights_of_root_but_those_to_files(
    program: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"  # nobody writes to it: whoever reads it waits
    os.mkfifo(fifo)
    commands, ours = os.pipe()
    arguments = {
        "worker.engine": ["--commands", str(commands), "--reports", "1"],
        "tunery.data.check": [str(fifo)],
        "tunery.data.tokens": [str(fifo), "data.jsonl", str(ROOT / "models" / "tiny"), *"9990"],
    }
    with subprocess.Popen(
        [sys.executable, "-m", program, *arguments.get(program, [])],
        stdin=commands,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[commands],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    ) as child:
        try:
            until = time.monotonic() + 60
            while rights(child.pid) & ~6:
                assert child.poll() is None, "it ended before"
                assert time.monotonic() < until, "it has kept them"
                time.sleep(0.01)
        finally:
            child.kill()
            os.close(ours)
            os.close(commands)


def rights(pid: int) -> int:
    """A process's permitted capabilities (capabilities(7)), as bits."""
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    (held,) = [line.split()[1] for line in lines if line.startswith("CapPrm")]
    return int(held, 16)
