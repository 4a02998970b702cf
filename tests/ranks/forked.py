"""One training in several processes: forks of this one, which has imported everything."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from tests.engine.conftest import Run
from worker.engine.errors import StopAsked
from worker.engine.model.base import WarmBase
from worker.engine.ranks import together
from worker.engine.train import train
from worker.protocol import REPORT, Entered, Report, Train

FORK = multiprocessing.get_context("fork")
SECONDS = 120


def go_on() -> None:
    """Nobody asks to stop."""


def run_by(ranks: int, stop: Callable[[list[Report]], None] | None = None) -> Run:
    """Trains a job in so many processes; returns what the first one reports, but for phases.
    `stop` is what that one is asked at each micro-step, given what it has reported.
    """

    def run(order: Train) -> list[Report]:
        said = order.folder.with_suffix(".said")
        others = [
            start(partial(take_part, order, rank, ranks, said, stop)) for rank in range(ranks)
        ]
        codes = [ended(other) for other in others]
        assert codes == [0] * ranks
        return [REPORT.validate_json(line) for line in said.read_text().splitlines()]

    return run


def start(work: Callable[[], None]) -> BaseProcess:
    def run() -> None:
        try:
            work()
        except BaseException:  # noqa: BLE001 (of pytest nothing is to run in here)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = FORK.Process(target=run)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(SECONDS)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    return process.exitcode


def take_part(
    order: Train,
    rank: int,
    ranks: int,
    said: Path,
    stop: Callable[[list[Report]], None] | None = None,
) -> None:
    meet(rank, ranks, order.folder.with_suffix(".meeting"))
    reports: list[Report] = []

    def report(line: Report) -> None:
        if rank == 0 and not isinstance(line, Entered):
            reports.append(line)
            with said.open("a") as file:
                file.write(line.model_dump_json() + "\n")

    def stop_if_asked() -> None:
        if stop and rank == 0:
            stop(reports)

    try:
        train(order, WarmBase(), report, stop_if_asked)
    except StopAsked:
        together.left_as_first()


def meet(rank: int, ranks: int, place: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # noqa: TID251
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=ranks)
