"""The service's queue in plain code: whose turn it is (`api.jobs.queue.turns`), and what is counted
to which pool (`api.jobs.queue.demand`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from api.jobs.estimates.devices import Device
from api.jobs.queue.leases import HOLDERS_SECONDS
from api.jobs.queue.turns import HEAD_START_SECONDS
from benchmarks.scaling.work import Job


@dataclass
class Queue:
    """Ready and running jobs. `pools` are their devices, in the order of preference."""

    pools: Mapping[str, Device]
    waiting: list[Job] = field(default_factory=list)
    # Of each job at work, the pool of its worker.
    running: dict[Job, str] = field(default_factory=dict)
    served: dict[int, float] = field(default_factory=dict)

    def demand(self, now: float) -> Counter[str]:
        """As `ft_gpu_demand`: running there, and ready jobs that it is the first to fit."""
        found = Counter(self.running.values())
        for job in self.waiting:
            if job.available <= now:
                fits = (name for name, device in self.pools.items() if device.holds(job.needs))
                found[next(fits, "none")] += 1
        return found

    def claim(
        self, now: float, pool: str, warm: str | None, holds: set[str], elsewhere: set[str]
    ) -> Job | None:
        """The next job of the project with the fewest running; among equals, of the one served
        longest ago. A job on the warm base has a head start. One whose base others have fetched is
        left to these for a while.
        """
        heads: dict[int, tuple[float, int, Job]] = {}
        for job in self.waiting:
            left_to_others = job.base.name in elsewhere - holds
            ready_at = job.available + (HOLDERS_SECONDS if left_to_others else 0.0)
            if ready_at > now or not self.pools[pool].holds(job.needs):
                continue
            since = job.available - HEAD_START_SECONDS * (job.base.name == warm)
            rank = (since, job.number, job)
            heads[job.project] = min(heads.get(job.project, rank), rank, key=lambda one: one[:2])
        if not heads:
            return None
        at_work = Counter(job.project for job in self.running)

        def turn(project: int) -> tuple[float, ...]:
            since, number, job = heads[project]
            served = self.served.get(project, float("-inf"))
            return (at_work[project], served - (job.available - since), since, number)

        job = heads[min(heads, key=turn)][2]
        self.waiting.remove(job)
        self.running[job] = pool
        self.served[job.project] = now
        return job

    def back(self, job: Job, available: float) -> None:
        del self.running[job]
        job.available = available
        self.waiting.append(job)
