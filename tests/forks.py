"""Tests in several processes at once, for `pytest --forks NUMBER`: what they import is imported
once. Each process is a fork of the one that has collected the tests, and takes file after file.
"""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

from tunery.cli.supervisor import die_with_parent

FORK = get_context("fork")
# PyArrow's; a fork does its work without it.
UNHARMED = {"jemalloc_bg_thd"}
# Fixtures that take long to make: the files that use one are run by the same process.
DEAR = {"nursery", "up"}


def run(session: pytest.Session, number: int) -> None:
    """Runs what was collected, and passes on each report as if it were this process's own.

    Raises:
        RuntimeError: a process has ended before its tests had.

    """
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    threads = [name for name in names if name not in UNHARMED]
    if len(threads) != 1:
        raise RuntimeError(
            f"The imports have started threads, and a fork keeps one of {threads}. With "
            "OMP_NUM_THREADS=1 in the environment no library starts any."
        )
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    taken = FORK.Value("i", 0)
    forks, pipes = [], []
    for place in range(number):
        ours, theirs = FORK.Pipe(duplex=False)
        fork = FORK.Process(target=take_files, args=(session, taken, theirs, place, os.getpid()))
        fork.start()
        theirs.close()
        forks.append(fork)
        pipes.append(ours)
    try:
        hear(session, pipes)
    except BaseException:
        for fork in forks:
            os.kill(fork.pid or 0, signal.SIGINT)
        raise
    finally:
        for fork in forks:
            fork.join()


def hear(session: pytest.Session, pipes: list[Connection]) -> None:
    hook = session.config.hook
    begun = dict.fromkeys(pipes, "its first test")
    while pipes:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError as error:
                raise RuntimeError(f"a process of tests ended in {begun[pipe]}") from error
            match said:
                case None:
                    pipes.remove(pipe)
                case str():
                    begun[pipe] = said
                case _:
                    report = hook.pytest_report_from_serializable(config=session.config, data=said)
                    hook.pytest_runtest_logreport(report=report)
                    sys.stdout.flush()
            if session.shouldfail:
                raise session.Failed(session.shouldfail)


class Teller:
    """Tells the first process how the tests of this one go."""

    def __init__(self, config: pytest.Config, pipe: Connection) -> None:
        self.config = config
        self.pipe = pipe

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.pipe.send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.pipe.send(data)


def take_files(
    session: pytest.Session, taken: Any, pipe: Connection, place: int, parent: int
) -> None:
    """Runs the files that no other fork has taken; their number so far is in `taken`."""
    die_with_parent(parent, signal.SIGKILL)
    config = session.config
    plugins = config.pluginmanager
    plugins.unregister(name="terminalreporter")
    plugins.register(Teller(config, pipe))
    capture = plugins.getplugin("capturemanager")
    # Else all forks would write into one file. It stays open: some modules have kept it as stderr.
    shared, capture._global_capturing = capture._global_capturing, None
    capture.start_global_capturing()
    folders: Any = config._tmp_path_factory  # type: ignore[attr-defined]
    folders._basetemp = folders.mktemp(f"fork-{place}", numbered=False)
    with suppress(KeyboardInterrupt):
        try:
            for item, following in items(session, taken):
                config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        finally:
            session._setupstate.teardown_exact(None)
        pipe.send(None)
    del shared


def items(session: pytest.Session, taken: Any) -> Iterator[tuple[pytest.Item, pytest.Item | Any]]:
    """Each with the one whose fixtures are to outlive it. After a file's last test it is not known
    which comes next: what is the session's stays.
    """
    files = defaultdict(list)
    for item in session.items:
        shared = DEAR & set(getattr(item, "fixturenames", ()))
        files[min(shared) if shared else item.path].append(item)
    left = list(files.values())
    while True:
        with taken.get_lock():
            place = taken.value
            taken.value += 1
        if place >= len(left):
            return
        yield from zip(left[place], [*left[place][1:], session], strict=True)
