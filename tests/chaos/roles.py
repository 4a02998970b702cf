"""What a fork of the nursery becomes: a part of the service, by its ordinary entry point. Only the
engine differs from production: its process is forked where production starts an interpreter.
"""

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from tests.chaos import failpoints
from tests.chaos.nursery import Order
from tunery.cli.supervisor import die_with_parent
from worker.warm_engine import WarmEngine


def become(order: Order, parent: int) -> NoReturn:
    """Runs the role in this process, a fresh fork of `parent`, and ends it."""

    def run() -> None:
        os.setsid()
        die_with_parent(parent, signal.SIGKILL)
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        keep_only([], log)
        os.environ.clear()  # noqa: TID251
        os.environ.update(order.env)  # noqa: TID251
        failpoints.install(Path(order.failpoints))
        ROLES[order.role](order)

    end_after(run)


def end_after(run: Callable[[], None]) -> NoReturn:
    """Ends this process as an interpreter would, without what the parent has registered to do."""
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def keep_only(descriptors: list[int], log: int) -> None:
    """Closes what was inherited; standard input is empty, the other two go to the log."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    first = 3
    for descriptor in sorted(descriptors):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1 << 16)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)


def api(order: Order) -> None:
    from api.__main__ import serve

    serve("127.0.0.1", order.port)


def janitor(_: Order) -> None:
    from api.janitor import main

    main()


def worker(_: Order) -> None:
    from worker import build

    vars(build)["real_engine"] = ForkedEngine.of
    from worker.app import app  # reads its settings: only now

    name = os.environ["TUNERY_WORKER_NAME"]  # noqa: TID251
    quiet = ["--without-mingle", "--without-gossip"]
    one = ["--concurrency", "1", "--loglevel", "INFO", "--hostname", f"{name}@chaos"]
    app.worker_main(["worker", *one, *quiet])


ROLES = {"api": api, "janitor": janitor, "worker": worker}


class ForkedChild:
    """A forked process with the words of `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (3600 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("engine", timeout or 0)
            time.sleep(0.005)
        return code


class ForkedEngine(WarmEngine):
    @classmethod
    def of(cls, environment: dict[str, str], log_file: Path, **_: object) -> WarmEngine:
        return cls([], environment, log_file)

    def launch(self, commands: int, reports: int, log: IO[bytes]) -> ForkedChild:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return ForkedChild(pid)

        def run() -> None:
            os.setsid()
            die_with_parent(parent, signal.SIGKILL)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            keep_only([commands, reports], log.fileno())
            os.environ.clear()  # noqa: TID251
            os.environ.update(self.environment)  # noqa: TID251
            from worker.engine.child import Engine

            Engine(commands, reports).run()

        end_after(run)
