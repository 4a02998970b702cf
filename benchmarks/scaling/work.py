"""Days of jobs: when they come, of which project and base, and how long each trains, as our own
planner estimates it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log

from api.jobs.estimates.devices import Device
from tunery.plan.choice import choose
from tunery.plan.duration import reading_seconds, training_seconds
from tunery.plan.memory import Needs
from tunery.plan.shape import Shape
from tunery.spec import Lora

DAY = 86_400.0
# Of a working day, by the hour: what share of the busiest hour's submissions comes.
HOURS = (
    *(0.10, 0.08, 0.08, 0.08, 0.10, 0.15, 0.25, 0.45, 0.70, 0.90, 1.00, 0.95),
    *(0.70, 0.90, 1.00, 1.00, 0.90, 0.70, 0.45, 0.35, 0.30, 0.25, 0.20, 0.15),
)
BUSIEST_HOUR = 34.0
# A submission may be a sweep: so many jobs on the same data at once.
SWEEP_SHARE, SWEEP_JOBS = 0.06, 8
PROJECTS = 12
EPOCHS, BATCH = 3, 16
MEDIAN_ROWS, MEDIAN_TOKENS = 2_500, 350
LONGEST_ROW = 2_048
# Nobody submits more at once.
LONGEST_SECONDS = 8 * 3600.0
DEVICE = Device("NVIDIA A100-SXM4-80GB", int(79.1 * 2**30))


def qwen3(
    layers: int, hidden: int, inner: int, heads: int, *, tied: bool, kv_heads: int = 8
) -> Shape:
    return Shape(
        architecture="qwen3",
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        vocab=151_936,
        tied=tied,
    )


@dataclass(frozen=True)
class Base:
    name: str
    shape: Shape
    share: float

    @property
    def bytes(self) -> int:
        return 2 * self.shape.parameters

    @cached_property
    def needs(self) -> Needs:
        return Needs(self.shape, "bf16", Lora())

    @cached_property
    def least(self) -> dict[str, int]:
        """As a job's `memory_bytes`."""
        return {"bf16": self.needs.least("auto", LONGEST_ROW)}


BASES = (
    Base("0.6B", qwen3(28, 1024, 3072, 16, tied=True), 0.30),
    Base("4B", qwen3(36, 2560, 9728, 32, tied=True), 0.35),
    Base("8B", qwen3(36, 4096, 12288, 32, tied=False), 0.28),
    Base("32B", qwen3(64, 5120, 25600, 64, tied=False), 0.07),
)


@dataclass(eq=False)
class Job:
    """What the queue knows of it, and how it goes. `needs` is as a job's `memory_bytes`; `seconds`
    are those of its training.
    """

    number: int
    project: int
    base: Base
    arrived: float
    needs: dict[str, int]
    seconds: float
    # Of these, what need not be done again.
    done: float = 0.0
    available: float = field(init=False)
    began: float | None = None
    ended: float | None = None
    claims: int = 0

    def __post_init__(self) -> None:
        self.available = self.arrived


def jobs_of(days: int) -> list[Job]:
    """Submissions are a Poisson process whose rate follows the hours; sizes have long tails."""
    chance = random.Random("jobs")
    jobs: list[Job] = []
    now = 0.0
    while (now := now + chance.expovariate(BUSIEST_HOUR / 3600)) < days * DAY:
        if chance.random() > HOURS[int(now % DAY // 3600)]:
            continue
        # A few projects submit most of it.
        project = min(int(chance.paretovariate(0.8)) - 1, PROJECTS - 1)
        base = chance.choices(BASES, [base.share for base in BASES])[0]
        seconds = LONGEST_SECONDS
        while seconds >= LONGEST_SECONDS:
            rows = round(chance.lognormvariate(log(MEDIAN_ROWS), 1.1))
            row_tokens = min(LONGEST_ROW, round(chance.lognormvariate(log(MEDIAN_TOKENS), 0.6)))
            seconds = training(base, max(rows, 50), max(row_tokens, 40))
        for _ in range(SWEEP_JOBS if chance.random() < SWEEP_SHARE else 1):
            jobs.append(Job(len(jobs), project, base, now, base.least, seconds))
    return jobs


def training(base: Base, rows: int, row_tokens: int) -> float:
    """Seconds, in the middle of what the planner estimates."""
    assert DEVICE.memory_bytes  # noqa: S101
    plan = choose(
        base.needs,
        quantization="auto",
        longest=LONGEST_ROW,
        step_tokens=BATCH * row_tokens,
        memory_bytes=DEVICE.memory_bytes,
    )
    tokens = rows * row_tokens
    trained = training_seconds(
        base.shape, plan, device=DEVICE.name, tokens=EPOCHS * tokens, row_tokens=row_tokens
    )
    assert trained  # noqa: S101  (the device's speed is known)
    return sum(trained) / 2 + reading_seconds(rows, tokens)


def again(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs, none of them begun."""
    return [
        Job(one.number, one.project, one.base, one.arrived, one.needs, one.seconds) for one in jobs
    ]
