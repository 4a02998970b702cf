"""One training in a process of its own, watched from outside: when each step was done, what it cost
the processor, how much memory it took.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from worker.protocol import Broke, Finished, Stepped, Train
from worker.warm_engine import WarmEngine

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Lines that come closer than this, in CPU seconds of who wrote them, are one burst. The shortest
# step takes ten times as long.
BURST_SECONDS = 0.003
PATIENCE = 900.0


@dataclass
class Watched:
    """What was seen of one process. `marks` are (steps done, CPU seconds, seconds since its start);
    `losses` has one entry a step.
    """

    pid: int
    began: float
    marks: list[tuple[int, float, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0
    peak_mib: float = 0

    def step(self, number: int, loss: float) -> None:
        cpu, now = cpu_seconds(self.pid), time.monotonic() - self.began
        if self.marks and cpu - self.marks[-1][1] < BURST_SECONDS:
            self.marks.pop()  # it was done by the time of this one
        self.marks.append((number, cpu, now))
        self.losses.append(loss)

    def saved(self) -> None:
        self.seconds = time.monotonic() - self.began
        status = Path(f"/proc/{self.pid}/status").read_text()
        (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        self.peak_mib = int(peak.split()[1]) / 1024

    @property
    def first_step(self) -> float:
        return self.marks[0][2]

    def between(self, first: int, last: int) -> tuple[float, float]:
        """(CPU seconds, seconds) from the end of step `first` to that of step `last`."""
        ends = {number: (cpu, seconds) for number, cpu, seconds in self.marks}
        return ends[last][0] - ends[first][0], ends[last][1] - ends[first][1]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process: the clock of clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def watch_script(module: str, *arguments: str | Path) -> Watched:
    """Runs an arm that says `step N LOSS` and `saved` on its standard output.

    Raises:
        RuntimeError: it failed.

    """
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    ) as child:
        assert child.stdout  # noqa: S101
        seen = Watched(child.pid, began)
        for line in child.stdout:
            match line.split():
                case ["step", number, loss]:
                    seen.step(int(number), float(loss))
                case ["saved"]:
                    seen.saved()
                    break
        _, said = child.communicate()
    if not seen.seconds:
        raise RuntimeError(said)
    return seen


def watch_engine(order: Train, log: Path) -> Watched:
    """Runs one order on an engine that is started for it."""
    engine = new_engine(log)
    began = time.monotonic()
    try:
        return train(engine, order, began)
    finally:
        engine.kill()


def new_engine(log: Path) -> WarmEngine:
    return WarmEngine([sys.executable, "-m", "worker.engine"], ENVIRONMENT, log)


def train(engine: WarmEngine, order: Train, began: float) -> Watched:
    """Raises:
    RuntimeError: the engine could not, or said nothing for too long.

    """
    engine.train(order)
    assert engine.child  # noqa: S101
    seen = Watched(engine.child.pid, began)
    while report := engine.read(order.job_id, order.token, seconds=PATIENCE):
        if isinstance(report, Stepped):
            assert report.metrics.train_loss is not None  # noqa: S101
            seen.step(report.metrics.step, report.metrics.train_loss)
        if isinstance(report, Finished):
            seen.saved()
            return seen
        if isinstance(report, Broke):
            raise RuntimeError(report.message)  # noqa: TRY004
    raise RuntimeError(f"nothing from the engine: {engine.log_tail()}")


def median_and_spread(values: list[float], form: str) -> str:
    middle = format(statistics.median(values), form)
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


def shared_steps(runs: list[Watched], warm_up: int) -> tuple[int, int]:
    """From the end of which step to that of which one all of them can be compared: the first that
    each has a mark of and that is not before `warm_up`, and the last.
    """
    marked = set.intersection(*({number for number, _, _ in seen.marks} for seen in runs))
    return min(step for step in marked if step >= warm_up), max(marked)
