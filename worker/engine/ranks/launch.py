"""Starts the processes of one training: torchrun, in this process. The pipes stay open here until
all of them have ended, so the agent reads an end only then.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch.distributed import run

# What torchrun waits for processes that are to end because another has, before it kills them.
LAST_SECONDS = 10


def launch(ranks: int, commands: int, reports: int, kernels: str) -> None:
    """Until the last of them has ended. If one fails, torchrun ends all; an agent's lease brings
    them back, and torchrun does not.

    Raises:
        ChildFailedError: one of them failed.

    """
    signal.signal(signal.SIGUSR1, pass_on)
    cores = len(os.sched_getaffinity(0))
    environment = os.environ  # noqa: TID251 - for the processes, as their libraries read it
    # All of them are on this machine, and its network has no business with them.
    for library in ("GLOO", "NCCL"):
        environment.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    # torchrun wants a folder for what processes may say of their end. Ours say it to the agent.
    scratch = tempfile.mkdtemp(prefix="tunery-ranks-")
    run.main(
        [
            *("--standalone", "--nnodes=1", f"--nproc-per-node={ranks}", "--max-restarts=0"),
            # Each process sees one GPU, its own, as if there were no other.
            *(["--virtual-local-rank"] if torch.cuda.is_available() else []),
            f"--shutdown-timeout={LAST_SECONDS}",
            *("--log-dir", scratch, "--module", "worker.engine.ranks.rank"),
            *("--commands", str(commands), "--reports", str(reports), "--scratch", scratch),
            *("--kernels", kernels),
        ]
    )


def pass_on(number: int, _frame: FrameType | None) -> None:
    """The agent asks an engine that hangs for its stacks."""
    for pid in children():
        os.kill(pid, number)


def children() -> Iterator[int]:
    for thread in Path("/proc/self/task").iterdir():
        yield from map(int, (thread / "children").read_text().split())
