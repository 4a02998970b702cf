"""One process that has imported everything the service needs, and forks the service's parts on
request: a restart costs a tenth of a second, not ten seconds of imports.

`python -m tests.chaos.nursery FD PARENT` is that process; it dies with its parent, and its forks
with it. `Nursery` is the harness's side.
"""

import ctypes
import gc
import importlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tunery.cli.supervisor import die_with_parent

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
HEAVY = (
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "peft",
    "bitsandbytes",
    "uvicorn",
    "uvicorn.protocols.http.h11_impl",
    "celery.bin.worker",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "kombu.transport.redis",
    "worker.engine.child",
    "worker.build",
    "api.main",
    "api.janitor",
)


@dataclass(frozen=True)
class Order:
    """One process to fork: `env` is its whole environment, `log` takes what it prints. The file
    `failpoints`/NAME kills the process that next reaches the failpoint NAME.
    """

    role: str
    env: dict[str, str]
    log: str
    failpoints: str
    port: int = 0


class Nursery:
    """The parent process, from the harness's side. Enter it from the main thread: the kernel ends
    the parent with the thread that started it.
    """

    def __init__(self) -> None:
        self.answers: queue.Queue[int] = queue.Queue()
        self.one_at_a_time = threading.Lock()
        self.exits: queue.Queue[tuple[int, int]] = queue.Queue()

    def __enter__(self) -> Self:
        self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())],
            pass_fds=(theirs.fileno(),),
            cwd=ROOT,
            env={
                "PATH": os.defpath,
                "PYTHONUNBUFFERED": "1",
                # One thread in every library: a fork keeps only the thread that forks.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
            start_new_session=True,
        )
        theirs.close()
        self.lines = self.socket.makefile("r")
        if self.lines.readline() != "ready\n":
            raise RuntimeError(f"the nursery did not start: status {self.process.wait()}")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.lines.close()
        self.socket.close()

    def fork(self, order: Order) -> int:
        """The new process's id."""
        with self.one_at_a_time:
            self.socket.sendall(json.dumps(asdict(order)).encode() + b"\n")
            return self.answers.get(timeout=120)

    def read(self) -> None:
        for line in self.lines:
            said = json.loads(line)
            if "forked" in said:
                self.answers.put(said["forked"])
            else:
                self.exits.put((said["exited"], said["status"]))


def main() -> None:
    descriptor, parent = (int(word) for word in sys.argv[1:])
    die_with_parent(parent, signal.SIGKILL)
    # What its forks leave behind is taken in here: a container's first process may not do so.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with warnings.catch_warnings():
        # torch, transformers, peft and bitsandbytes warn about each other while they are imported.
        warnings.simplefilter("ignore")
        for name in HEAVY:
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads after the imports; a fork would lose all but one")
    gc.collect()
    gc.freeze()  # the forks share what is there now
    serve(socket.socket(fileno=descriptor))


def serve(harness: socket.socket) -> None:
    from tests.chaos import roles

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    harness.sendall(b"ready\n")
    unread = b""
    while True:
        readable, _, _ = select.select([harness.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            reap(harness)
        if harness.fileno() in readable:
            data = harness.recv(1 << 16)
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                order, parent = Order(**json.loads(line)), os.getpid()
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    roles.become(order, parent)
                harness.sendall(json.dumps({"forked": pid}).encode() + b"\n")


def reap(harness: socket.socket) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            harness.sendall(json.dumps({"exited": pid, "status": code}).encode() + b"\n")


if __name__ == "__main__":
    main()
