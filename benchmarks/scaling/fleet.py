"""Some days of a fleet: nodes that start and are paid, workers on them, jobs that they run."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from api.jobs.queue.leases import HOLDERS_SECONDS
from benchmarks.scaling import work
from benchmarks.scaling.autoscalers import Autoscaler, Fixed, ScaledJob, ScaledObject
from benchmarks.scaling.queue import Queue
from benchmarks.scaling.work import DAY, Job

POOL = "a100"
# A node with a GPU, from the request to a kubelet that is ready; its median, and how it spreads.
NODE_SECONDS, NODE_SPREAD = 150.0, 0.35
# The worker's image of 5 GB at 60 MB/s, unpacked; and imports until the engine is ready.
PULL_SECONDS, ENGINE_SECONDS = 85.0, 15.0
# A cluster autoscaler leaves an empty node for so long.
NODE_IDLE_SECONDS = 600.0
# Bytes a second: a base from the hub or from storage; from the disk to the GPU.
FETCH, LOAD = 150e6, 1.5e9
# The same where nodes share a volume with the bases.
FROM_VOLUME = 1.5e9
# A checkpoint, its upload and the release; the end of a job, with its files.
RELEASE_SECONDS, PUBLISH_SECONDS = 8.0, 8.0
CHECKPOINT_SECONDS, LEASE_SECONDS = 300.0, 65.0
# Spot: a node's mean life, and of how many it is said before.
SPOT_LIFE_SECONDS, SPOT_NOTICED = 6 * 3600.0, 0.8


@dataclass(eq=False)
class Node:
    since: float
    free_since: float | None = None
    until: float | None = None


@dataclass(eq=False)
class Worker:
    node: Node
    always: bool
    ready_at: float | None = None
    idle_since: float = 0.0
    holds: set[str] = field(default_factory=set)
    warm: str | None = None
    job: Job | None = None
    trains_from: float = 0.0
    gone: bool = False


@dataclass(frozen=True)
class Spot:
    """Nodes are taken away. Jobs go on from where they were or their last checkpoint, or from the
    beginning.
    """

    resume: bool


@dataclass
class Outcome:
    node_seconds: float
    busy_seconds: float
    lost_seconds: float  # of the busy ones, what had to be trained again
    waits: list[float]
    turnarounds: list[float]
    interruptions: int
    most_workers: int


class Simulation:
    """Events in order of time. Everything by chance comes from one seed."""

    def __init__(
        self,
        jobs: Sequence[Job],
        autoscaler: Autoscaler,
        *,
        days: int,
        spot: Spot | None = None,
        fetch: float = FETCH,
    ) -> None:
        self.jobs, self.autoscaler, self.spot, self.fetch = jobs, autoscaler, spot, fetch
        self.until = days * DAY
        self.chance = random.Random("nodes")
        self.queue = Queue({POOL: work.DEVICE})
        self.workers: list[Worker] = []
        self.nodes: list[Node] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.now = 0.0
        self.left = len(jobs)
        self.busy = self.lost = 0.0
        # When the idle workers ask next.
        self.asked = float("-inf")
        self.interruptions = self.most = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def run(self) -> Outcome:
        for job in self.jobs:
            self.at(job.arrived, partial(self.arrive, job))
        match self.autoscaler:
            case Fixed(workers=count):
                for _ in range(count):
                    self.begin(always=True, at_once=True)
            case ScaledJob(always=count):
                for _ in range(count):
                    self.begin(always=True, at_once=True)
                self.at(0.0, self.poll_jobs)
            case ScaledObject():
                self.autoscaler.replicas = self.autoscaler.least
                self.follow(at_once=True)
                self.at(0.0, self.poll_object)
                self.at(0.0, self.adjust_object)
        while self.events and (self.left or self.now < self.until):
            self.now, _, event = heapq.heappop(self.events)
            event()
        end = max(self.now, self.until)
        return Outcome(
            node_seconds=sum((end if n.until is None else n.until) - n.since for n in self.nodes),
            busy_seconds=self.busy,
            lost_seconds=self.lost,
            waits=[(job.began or end) - job.arrived for job in self.jobs],
            turnarounds=[(job.ended or end) - job.arrived for job in self.jobs],
            interruptions=self.interruptions,
            most_workers=self.most,
        )

    # Jobs

    def arrive(self, job: Job) -> None:
        self.queue.waiting.append(job)
        self.hand_out()

    def hand_out(self) -> None:
        """Every idle worker asks for a job; it polls all the time."""
        if not self.queue.waiting:
            return
        given = [one for one in self.workers if one.ready_at is not None]
        for worker in [one for one in given if one.job is None]:
            elsewhere = set[str]().union(*(one.holds for one in given if one is not worker))
            job = self.queue.claim(self.now, POOL, worker.warm, worker.holds, elsewhere)
            if job:
                self.start(worker, job)
        waiting = self.queue.waiting
        if waiting and self.asked <= self.now and any(one.job is None for one in given):
            later = [job.available for job in waiting if job.available > self.now]
            self.asked = min([self.now + HOLDERS_SECONDS, *later])
            self.at(self.asked, self.hand_out)

    def start(self, worker: Worker, job: Job) -> None:
        before = 1.0
        if job.base.name not in worker.holds:
            before += job.base.bytes / self.fetch
            worker.holds.add(job.base.name)
        if worker.warm != job.base.name:
            before += job.base.bytes / LOAD
            worker.warm = job.base.name
        worker.job, worker.trains_from = job, self.now + before
        job.began = worker.trains_from if job.began is None else job.began
        takes = job.seconds - job.done
        job.claims = claim = job.claims + 1
        end = worker.trains_from + takes + PUBLISH_SECONDS
        self.at(end, partial(self.end, worker, job, claim, takes))

    def end(self, worker: Worker, job: Job, claim: int, takes: float) -> None:
        if worker.job is not job or job.claims != claim:
            return  # it was interrupted
        del self.queue.running[job]
        self.busy += takes
        job.ended, worker.job, worker.idle_since = self.now, None, self.now
        self.left -= 1
        self.rest(worker)
        self.hand_out()

    def interrupt(self, worker: Worker, *, noticed: bool, resume: bool = True) -> None:
        """Its job goes back to the queue, with what is kept of it."""
        job = worker.job
        if job is None:
            return
        trained = max(0.0, self.now - worker.trains_from)
        lost = 0.0 if noticed else min(trained, self.chance.uniform(0, CHECKPOINT_SECONDS))
        if not resume:
            lost, job.done = trained + job.done, 0.0
        else:
            job.done += trained - lost
        self.lost += lost
        self.busy += trained
        self.interruptions += 1
        worker.job = None
        back_at = self.now + (RELEASE_SECONDS if noticed else LEASE_SECONDS)
        self.queue.back(job, back_at)
        self.at(back_at, self.hand_out)

    # Workers and nodes

    def begin(self, *, always: bool = False, at_once: bool = False) -> None:
        warm = [node for node in self.nodes if node.free_since is not None and node.until is None]
        if warm:
            node, takes = warm[0], ENGINE_SECONDS
            node.free_since = None
        else:
            node = Node(self.now)
            self.nodes.append(node)
            start = self.chance.lognormvariate(0, NODE_SPREAD) * NODE_SECONDS
            takes = 0.0 if at_once else start + PULL_SECONDS + ENGINE_SECONDS
            if self.spot:
                life = self.chance.expovariate(1 / SPOT_LIFE_SECONDS)
                self.at(self.now + takes + life, lambda: self.take_away(node))
        worker = Worker(node, always)
        self.workers.append(worker)
        self.most = max(self.most, len(self.workers))
        self.at(self.now + takes, lambda: self.be_ready(worker))

    def be_ready(self, worker: Worker) -> None:
        if not worker.gone:
            worker.ready_at = worker.idle_since = self.now
            self.rest(worker)
            self.hand_out()

    def rest(self, worker: Worker) -> None:
        """A worker on demand ends by itself when it has had no work for long enough."""
        if isinstance(self.autoscaler, ScaledJob) and not worker.always:
            tired = partial(self.leave_if_idle, worker, worker.idle_since)
            self.at(self.now + self.autoscaler.idle_exit, tired)

    def leave_if_idle(self, worker: Worker, since: float) -> None:
        if worker.job is None and worker.idle_since == since:
            self.leave(worker)

    def leave(self, worker: Worker) -> None:
        if worker.gone:
            return
        worker.gone = True
        self.workers.remove(worker)
        node = worker.node
        node.free_since = since = self.now
        self.at(self.now + NODE_IDLE_SECONDS, lambda: self.give_back(node, since))

    def give_back(self, node: Node, since: float) -> None:
        if node.free_since == since and node.until is None:
            node.until = self.now

    def take_away(self, node: Node) -> None:
        """A spot node goes. Its worker's place is filled as the autoscaler would."""
        if node.until is not None:
            return
        for worker in [one for one in self.workers if one.node is node]:
            noticed = self.chance.random() < SPOT_NOTICED
            resume = self.spot is None or self.spot.resume
            self.interrupt(worker, noticed=noticed and resume, resume=resume)
            worker.gone = True
            self.workers.remove(worker)
            if worker.always or isinstance(self.autoscaler, ScaledObject):
                self.begin(always=worker.always)
        node.until = self.now

    # Autoscalers

    def demand(self) -> int:
        return self.queue.demand(self.now)[POOL]

    def poll_jobs(self) -> None:
        assert isinstance(self.autoscaler, ScaledJob)  # noqa: S101
        on_demand = sum(not worker.always for worker in self.workers)
        for _ in range(self.autoscaler.more(self.demand(), on_demand)):
            self.begin()
        self.at(self.now + self.autoscaler.polling, self.poll_jobs)

    def poll_object(self) -> None:
        assert isinstance(self.autoscaler, ScaledObject)  # noqa: S101
        self.autoscaler.poll(self.now, self.demand())
        self.follow()
        self.at(self.now + self.autoscaler.polling, self.poll_object)

    def adjust_object(self) -> None:
        assert isinstance(self.autoscaler, ScaledObject)  # noqa: S101
        self.autoscaler.adjust(self.now, self.demand())
        self.follow()
        self.at(self.now + self.autoscaler.sync, self.adjust_object)

    def follow(self, *, at_once: bool = False) -> None:
        """A Deployment ends pods that are not ready first, then the youngest: it does not know
        which of them train.
        """
        assert isinstance(self.autoscaler, ScaledObject)  # noqa: S101
        while len(self.workers) < self.autoscaler.replicas:
            self.begin(at_once=at_once)
        while len(self.workers) > self.autoscaler.replicas:
            youngest = max(
                self.workers,
                key=lambda one: float("inf") if one.ready_at is None else one.ready_at,
            )
            self.interrupt(youngest, noticed=True)
            self.leave(youngest)
