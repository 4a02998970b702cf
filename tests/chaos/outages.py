"""Stores that are killed or frozen, and a bad network between workers and the API."""

import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from collections.abc import Iterator

import httpx

from tests.chaos.bench import Bench
from tests.chaos.cluster import HOST, LEASE_SECONDS, LONG, SHORT, Cluster, wait_for
from tests.chaos.judge import Outcome, judge, settle
from tests.chaos.proxy import Proxy

AIM_SECONDS = 10.0
# A request that asked Redis would wait for its time-out of two seconds or more. The other bound is
# on the median, as the machine is busy training meanwhile.
SLOW_SECONDS, MOVED_SECONDS = 1.5, 0.1


def redis_killed(bench: Bench, rng: random.Random, count: int) -> Outcome:
    def outage(cluster: Cluster) -> None:
        cluster.stores.redis.kill()
        time.sleep(rng.uniform(0.5, 3))

    return without_redis(bench, rng, count, outage, lambda cluster: cluster.stores.redis.start())


def redis_frozen(bench: Bench, rng: random.Random, count: int, *, seconds: float = 30) -> Outcome:
    def outage(cluster: Cluster) -> None:
        cluster.stores.redis.freeze()
        time.sleep(seconds)

    return without_redis(bench, rng, count, outage, lambda cluster: cluster.stores.redis.thaw())


def without_redis(
    bench: Bench,
    rng: random.Random,
    count: int,
    outage: Callable[[Cluster], None],
    end: Callable[[Cluster], None],
) -> Outcome:
    """One worker runs a job meanwhile; the other is idle, and a job is created for it."""
    outcome = Outcome()
    outcome.expect_none("disturbed")
    with bench.cluster() as cluster, Probe(cluster) as probe:
        while outcome.count < count:
            busy = cluster.create(LONG)
            wait_for(lambda: begun(cluster, busy), 20, "the first step")
            time.sleep(rng.uniform(0, 0.5))
            usual = probe.take()
            outage(cluster)
            during = probe.take()
            waiting = cluster.create(rng.choice(SHORT))
            end(cluster)
            took = wait_for(lambda: claimed(cluster, waiting), 40, "a claim after Redis is back")
            outcome.count += 1
            outcome.took("to the claim", took, at_most=AIM_SECONDS)
            outcome.took("API request, usual (median)", statistics.median(usual), at_most=1)
            moved = statistics.median(usual) + MOVED_SECONDS
            outcome.took("API request, outage (median)", statistics.median(during), at_most=moved)
            outcome.took("API request, outage (worst)", max(during), at_most=SLOW_SECONDS)
            settle(cluster)
            if (attempts := cluster.job(busy)["tunery"]["attempts"]) != 1:
                outcome.miss("disturbed", f"{busy} took {attempts} attempts")
        judge(cluster, outcome, bench.references, may_be_cancelled=probe.made.__contains__)
    return outcome


class Probe:
    """A client that creates a job every half second and cancels it at once, and notes how
    long each request took.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.made: set[str] = set()
        self.taken: list[float] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.ask, daemon=True)

    def ask(self) -> None:
        while not self.ended.wait(0.5):
            began = time.monotonic()
            job_id = self.cluster.create(SHORT[0])
            created = time.monotonic()
            self.made.add(job_id)
            self.cluster.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
            self.taken += [created - began, time.monotonic() - created]

    def take(self) -> list[float]:
        """The times since the last call."""
        wait_for(lambda: len(self.taken) >= 4, 20, "a few requests")
        taken, self.taken = self.taken, []
        return taken

    def __enter__(self) -> "Probe":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def begun(cluster: Cluster, job_id: str) -> bool:
    return bool(cluster.job(job_id)["trained_tokens"])


def claimed(cluster: Cluster, job_id: str) -> bool:
    return bool(cluster.rows("SELECT token FROM job WHERE id = %s AND token > 0", job_id))


def postgres_killed(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """Killed with jobs in flight; back means that a new job is accepted and claims are heard."""
    outcome = Outcome()
    with bench.cluster() as cluster:
        while outcome.count < count:
            cluster.top_up(rng, 2)
            time.sleep(rng.uniform(0.1, 1.5))
            cluster.stores.postgres.kill()
            began = time.monotonic()
            cluster.stores.postgres.start()
            cluster.create(rng.choice(SHORT))
            wait_for(lambda: heard(cluster), 40, "a worker to be heard")
            outcome.count += 1
            outcome.took("to work again", time.monotonic() - began, at_most=AIM_SECONDS)
        judge(cluster, outcome, bench.references)
    return outcome


def heard(cluster: Cluster) -> bool:
    """Whether a lease has been given or renewed just now."""
    return bool(
        cluster.rows(
            "SELECT 1 FROM lease WHERE until > clock_timestamp() + make_interval(secs => %s)",
            LEASE_SECONDS / 2,
        )
    )


def bad_network(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """Between all workers and the API: slow, cut for up to two lease times, or reset."""
    outcome = Outcome()
    with bench.cluster(workers=0) as cluster, Proxy(HOST, cluster.port, rng) as proxy:
        for name in ("w1", "w2"):
            cluster.add_worker(name, f"http://{HOST}:{proxy.port}")
        while outcome.count < count:
            cluster.top_up(rng, 3)
            time.sleep(rng.uniform(0.2, 1.5))
            fault = rng.choice(("latency", "blackhole", "reset"))
            outcome.figures[fault] += 1
            outcome.count += 1
            if fault == "latency":
                proxy.latency = 0.2
                time.sleep(rng.uniform(0.5, 2))
                proxy.latency = 0
            elif fault == "blackhole":
                proxy.blackhole(on=True)
                time.sleep(rng.uniform(0.1, 2 * LEASE_SECONDS))
                proxy.blackhole(on=False)
            else:
                for _ in range(5):
                    proxy.reset()
                    time.sleep(rng.uniform(0, 0.2))
        judge(cluster, outcome, bench.references)
    return outcome
