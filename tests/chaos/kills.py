"""Processes that die, freeze or are asked to end, at random moments."""

import random
import shutil
import signal
import time
from functools import partial
from typing import Any

import psutil

from api.storage.signing import lease_secret
from tests.chaos import failpoints
from tests.chaos.bench import Bench
from tests.chaos.cluster import (
    EPOCH_STEPS,
    LEASE_SECONDS,
    LONG,
    LONGEST,
    PARTS,
    SHORT,
    Cluster,
    wait_for,
)
from tests.chaos.judge import Outcome, check_rules, judge, settle
from tunery import messages
from tunery.facts import FileFacts
from tunery.measured import Metrics

GRACE_SECONDS = 15.0


# Places that a job comes by more often than once.
SEVERAL_TIMES = {name for name in failpoints.names() if name.startswith("checkpoint.")} | {
    "engine.step",
    "engine.evaluating",
    "agent.checkpoint_uploaded",
    "api.checkpoint_recorded",
}
OF_AN_EXPORT = {"api.export_publishing"} | {
    name for name in failpoints.names() if name.startswith("export.")
}
# Only while it has no quantized copy of the base does an engine come by the others.
ONCE_AN_ENGINE = {"engine.loading"} | {
    name for name in failpoints.names() if name.startswith("base.")
}


def random_kills(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """Any part of the service, at any moment, two or three jobs being in flight."""
    outcome = Outcome()
    with bench.cluster() as cluster:
        while outcome.count < count:
            cluster.top_up(rng, 3)
            time.sleep(rng.uniform(0.05, 0.8))
            victim = rng.choice(("engine", "celery child", "celery main", "api", "janitor"))
            if victim in PARTS:
                pid = cluster.pids(rng.choice(cluster.workers)).get(victim, 0)
            else:
                pid = cluster.roles[victim].pid
            if pid and cluster.signal(pid, signal.SIGKILL):
                outcome.count += 1
                outcome.tally[f"{victim} killed"] += 1
                check_rules(cluster, outcome)
        judge(cluster, outcome, bench.references)
    return outcome


def kills_at_failpoints(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """At named places of the product, two places at a time on two jobs: so that no job dies more
    often in vain than it may.
    """
    outcome = Outcome()
    outcome.expect_none("never reached")
    names = rng.sample(every := failpoints.names(), min(count, len(every)))
    with bench.cluster() as cluster:
        while names:
            armed, names = names[:2], names[2:]
            exports = ("merged",) if OF_AN_EXPORT & set(armed) else ()
            for name in armed:
                again = name in SEVERAL_TIMES and rng.random() < 0.5
                failpoints.arm(cluster.failpoints, name, passes=int(again))
            if ONCE_AN_ENGINE & set(armed):
                # Those that have loaded the base model already would not come by again. A job of
                # the round before must not die of that.
                settle(cluster)
                for worker in cluster.workers:
                    for copy in (cluster.folder / worker / "bases").glob("*"):
                        shutil.rmtree(copy, ignore_errors=True)
                    if engine := cluster.pids(worker).get("engine"):
                        cluster.signal(engine, signal.SIGKILL)
            for _ in armed:
                cluster.create(SHORT[1], exports=exports)
            for name in armed:
                hit_or_missed(cluster, outcome, name)
            if exports:
                # They keep nothing of an attempt that is cut off: one that died here twice must not
                # die of the next round as well.
                settle(cluster)
        judge(cluster, outcome, bench.references)
    return outcome


def hit_or_missed(cluster: Cluster, outcome: Outcome, name: str) -> None:
    try:
        wait_for(lambda: failpoints.hit(cluster.failpoints, name), 120, name)
    except TimeoutError:
        outcome.miss("never reached", name)
    else:
        outcome.count += 1


def frozen_workers(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """All processes of a worker stand still for three lease times in the middle of a job, and then
    go on, while another worker has the job.
    """
    outcome = Outcome()
    outcome.expect_none("not fenced", "stale writes accepted")
    # One alone is short: it is the one of the short round.
    kind = LONGEST if count > 1 else LONG
    with bench.cluster() as cluster:
        while outcome.count < count:
            job_id = cluster.create(kind)
            wait_for(partial(running, cluster, job_id), 120, "a claim")
            time.sleep(rng.uniform(0.2, 1.5))
            # One of an earlier round may be stuck, which the judge tells.
            (held,) = running(cluster, job_id)
            tree = list(cluster.pids(held.worker).values())
            for pid in tree:
                cluster.signal(pid, signal.SIGSTOP)
            time.sleep(3 * LEASE_SECONDS)
            (job,) = cluster.rows("SELECT * FROM job WHERE id = %s", job_id)
            for pid in tree:
                cluster.signal(pid, signal.SIGCONT)
            outcome.count += 1
            outcome.tally[f"{job.state} when it woke"] += 1
            if job.token == held.token:
                outcome.miss("not fenced", f"{job_id} is still claim {job.token}'s")
            else:
                write_stale(cluster, outcome, held)
            settle(cluster)
        judge(cluster, outcome, bench.references)
        outcome.tally["writes of workers refused"] += cluster.refused_writes()
    return outcome


def write_stale(cluster: Cluster, outcome: Outcome, lost: Any) -> None:
    """What the woken worker could write, and often does not, because it is told first that its
    claim is over: every kind of write, with its secret.
    """
    metrics = Metrics(step=1)
    writes = {
        "events": messages.EventBatch(first=9999, events=[messages.JobEvent(message="stale")]),
        "uploads": FileFacts(name="stale", bytes=1, sha256="0" * 64),
        "checkpoints": messages.CheckpointWritten(step=9999, epoch=0, metrics=metrics, files=[]),
        "finish": messages.FinishRequest(result=messages.Released()),
    }
    bearer = lease_secret(cluster.secret, lost.job_id, lost.token)
    for route, body in writes.items():
        answer = cluster.request(
            "POST",
            f"/worker/v1/jobs/{lost.job_id}/{route}",
            json=body.model_dump(mode="json"),
            headers={"authorization": f"Bearer {bearer}"},
        )
        if answer.status_code == 409:
            outcome.tally["stale writes refused"] += 1
        else:
            outcome.miss("stale writes accepted", f"{lost.job_id}: {route}: {answer.status_code}")


def running(cluster: Cluster, job_id: str | None = None) -> list[Any]:
    """The leases of running jobs, or of this one."""
    found = cluster.rows(
        "SELECT job_id, lease.token, worker FROM lease JOIN job ON job.id = job_id "
        "WHERE state = 'running'"
    )
    return [lease for lease in found if job_id in (None, lease.job_id)]


def asked_to_end(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """SIGTERM to a worker that runs a job, to its first process or, as systemd may, to all of them;
    afterwards its last reported step is saved. Between the ends of epochs no other checkpoint is
    due.
    """
    outcome = Outcome()
    outcome.expect_none("too late", "steps lost")
    with bench.cluster(
        grace_seconds=GRACE_SECONDS, checkpoint_seconds=300, lease_seconds=60
    ) as cluster:
        while outcome.count < count:
            cluster.top_up(rng, 3)
            time.sleep(rng.uniform(0.1, 2.0))
            (held,) = running(cluster)[:1] or (None,)
            if held is None:
                continue
            role = cluster.roles[held.worker]
            cluster.hold(held.worker)
            tree = [psutil.Process(pid) for pid in cluster.pids(held.worker).values()]
            to_all = rng.random() < 0.5
            outcome.tally["to the whole group"] += to_all
            began = time.monotonic()
            for process in tree if to_all else tree[:1]:
                cluster.signal(process.pid, signal.SIGTERM)
            # Whether it keeps to its grace is `took`'s affair: on a busy machine all is slower.
            if not role.ended.wait(4 * GRACE_SECONDS):
                outcome.miss("too late", f"{held.worker} does not end after SIGTERM")
                cluster.kill_tree(held.worker)
                role.ended.wait()
            outcome.count += 1
            outcome.took("to its end", time.monotonic() - began, at_most=GRACE_SECONDS)
            _, still = psutil.wait_procs(tree, timeout=15)
            (done,) = cluster.rows(
                "SELECT coalesce(max(step), 0) AS step FROM event "
                "WHERE job_id = %s AND origin LIKE %s || '/%%'",
                *(held.job_id, str(held.token)),
            )
            (saved,) = cluster.rows(
                "SELECT coalesce(max(step), 0) AS step FROM checkpoint WHERE job_id = %s",
                held.job_id,
            )
            if still:
                outcome.miss("too late", f"processes {still} of {held.worker} are left")
            outcome.tally["saved between epochs"] += bool(saved.step % EPOCH_STEPS)
            if saved.step < done.step:
                outcome.miss("steps lost", f"{held.job_id}: {done.step} done, {saved.step} saved")
            cluster.launch(held.worker)
        judge(cluster, outcome, bench.references)
    return outcome


def dead_nodes(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """A node dies for good in the middle of a job, and another, warm and idle, takes it over. The
    lease, the sweep and the pauses are those of production; four nodes die in each round.
    """
    outcome = Outcome()
    production = {"lease_seconds": 60, "sweep_seconds": 5, "retry_seconds": 5}
    with bench.cluster(workers=8, **production) as cluster:
        while outcome.count < count:
            for _ in range(min(4, count - outcome.count)):
                cluster.create(LONG)
            time.sleep(rng.uniform(1.5, 4))
            died = []
            for held in running(cluster):
                time.sleep(rng.uniform(0, 0.5))
                cluster.hold(held.worker)
                cluster.kill_tree(held.worker)
                died.append((held, time.time()))
            for held, when in died:
                wait_for(partial(training_again, cluster, held), 150, "training to go on")
                again = training_again(cluster, held)
                outcome.count += 1
                outcome.took("to the next step", again - when, at_most=90)
                cluster.launch(held.worker)
            settle(cluster)
        judge(cluster, outcome, bench.references)
    return outcome


def training_again(cluster: Cluster, lost: Any) -> float:
    """When the next claim reported a step, in seconds since 1970; 0 if it has not."""
    (row,) = cluster.rows(
        "SELECT coalesce(extract(epoch FROM min(created_at)), 0)::float AS at FROM event "
        "WHERE job_id = %s AND step > 0 AND origin LIKE %s || '/%%'",
        *(lost.job_id, str(lost.token + 1)),
    )
    return float(row.at)
