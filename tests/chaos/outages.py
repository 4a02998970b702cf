"""Stores that are killed or frozen, and a bad network between workers and the API."""

import random
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial

from tests.chaos.bench import Bench
from tests.chaos.cluster import HOST, LEASE_SECONDS, LONG, SHORT, Cluster, wait_for
from tests.chaos.judge import Outcome, check_rules, judge, settle
from tests.chaos.proxy import Proxy

AIM_SECONDS = 10.0
# A request that asked Redis would wait for its time-out of two seconds or more. The other bound is
# on the median, as the machine is busy training meanwhile.
SLOW_SECONDS, MOVED_SECONDS = 1.5, 0.1


def redis_killed(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """It comes back empty: it keeps nothing on disk."""
    redis = bench.stores.redis
    return without_redis(bench, count, redis.kill, redis.start, lambda: rng.uniform(1, 4))


def redis_frozen(bench: Bench, _: random.Random, count: int) -> Outcome:
    redis = bench.stores.redis
    return without_redis(bench, count, redis.freeze, redis.thaw, lambda: 30)


def without_redis(
    bench: Bench,
    count: int,
    begin: Callable[[], None],
    end: Callable[[], None],
    how_long: Callable[[], float],
) -> Outcome:
    """One worker runs a job when Redis goes; the other is idle, and a job is created for it."""
    outcome = Outcome()
    outcome.expect_none("disturbed")
    probed: set[str] = set()
    # No heartbeat is missing, however slow all of this is.
    with bench.cluster(lease_seconds=60) as cluster:
        while outcome.count < count:
            usual = request_times(cluster, probed)
            busy = cluster.create(LONG)
            wait_for(partial(begun, cluster, busy), 120, "the first step")
            began, seconds = time.monotonic(), how_long()
            begin()
            during = request_times(cluster, probed)
            # A worker that ends a job looks for the next one without being woken, so the job that
            # is to wait comes last.
            time.sleep(max(began + seconds - 1 - time.monotonic(), 0))
            wait_for(partial(only_claim, cluster, busy), 120, "an idle worker")
            waiting = cluster.create(SHORT[outcome.count % 2])
            time.sleep(1)
            asleep = not claimed(cluster, waiting)
            end()
            back = time.monotonic()
            wait_for(partial(claimed, cluster, waiting), 120, "a claim after Redis is back")
            if asleep:
                outcome.count += 1
                outcome.took("to the claim", time.monotonic() - back, at_most=AIM_SECONDS)
            else:
                outcome.tally["rounds not counted: claimed without Redis"] += 1
            outcome.took("API request, usual (median)", statistics.median(usual), at_most=1)
            moved = statistics.median(usual) + MOVED_SECONDS
            outcome.took("API request, outage (median)", statistics.median(during), at_most=moved)
            outcome.took("API request, outage (worst)", max(during), at_most=SLOW_SECONDS)
            settle(cluster)
            if (attempts := cluster.job(busy)["tunery"]["attempts"]) != 1:
                outcome.miss("disturbed", f"{busy} took {attempts} attempts")
        judge(cluster, outcome, bench.references, may_be_cancelled=probed.__contains__)
    return outcome


def request_times(cluster: Cluster, made: set[str]) -> list[float]:
    """How long it takes to create a job and to cancel it, a few times over."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        job_id = cluster.create(SHORT[0])
        created = time.monotonic()
        cluster.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
        taken += [created - began, time.monotonic() - created]
        made.add(job_id)
    return taken


def only_claim(cluster: Cluster, job_id: str) -> bool:
    return not cluster.rows("SELECT 1 FROM job WHERE state = 'running' AND id <> %s", job_id)


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
            wait_for(lambda: heard(cluster), 120, "a worker to be heard")
            outcome.count += 1
            outcome.took("to work again", time.monotonic() - began, at_most=AIM_SECONDS)
            check_rules(cluster, outcome)
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


def storage_away(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """A mount is lost, with jobs running, queued and created meanwhile, and comes back."""
    outcome = Outcome()
    with bench.cluster() as cluster:
        root = cluster.folder / "storage"
        away, left = cluster.folder / "away", cluster.folder / "left"
        while outcome.count < count:
            cluster.top_up(rng, 3)
            time.sleep(rng.uniform(0.3, 1.5))
            root.rename(away)
            if rng.random() < 0.5:
                root.mkdir()  # its mount point
            began = time.monotonic()
            cluster.create(rng.choice(SHORT))
            claims = cluster.rows("SELECT sum(token) AS claims FROM job")
            time.sleep(began + rng.uniform(20, 40) - time.monotonic())
            if cluster.rows("SELECT sum(token) AS claims FROM job") != claims:
                # A claim that was being made when storage went.
                outcome.tally["claims meanwhile"] += 1
            if root.exists():
                root.rename(left)
                made = list(left.iterdir())
                shutil.rmtree(left)
                if made:
                    outcome.miss("inconsistent", f"in the mount point there was made: {made}")
            away.rename(root)
            back = time.monotonic()
            wait_for(lambda: heard(cluster), 40, "a worker to be heard")
            outcome.count += 1
            outcome.took("to work again", time.monotonic() - back, at_most=AIM_SECONDS)
            check_rules(cluster, outcome)
        judge(cluster, outcome, bench.references)
    return outcome


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
            outcome.tally[fault] += 1
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
