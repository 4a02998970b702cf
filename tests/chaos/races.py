"""Two requests about one job that arrive at the same moment: one of them is first."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from tests.chaos.bench import Bench
from tests.chaos.cluster import SHORT, Cluster
from tests.chaos.judge import DONE, REPEATABLE, Outcome, judge
from tunery import messages
from tunery.base_model import file_facts
from worker.client import Client

CANCELLED = "The job was cancelled"
CLOSE_SECONDS = 0.004


class Racer:
    """A worker that says what it is told to, without an engine."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = Client(cluster.url, cluster.worker_key)
        self.facts = messages.WorkerFacts(protocol=messages.PROTOCOL, worker="racer", id="racer")
        self.files = [cluster.folder / name for name in (*REPEATABLE, "manifest.json")]
        for path in self.files:
            path.write_text(path.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.http.close()

    def claim(self) -> messages.Lease | None:
        ask = messages.ClaimRequest(**self.facts.model_dump())
        answer = self.client.call("claim", ask, self.cluster.worker_key)
        return messages.Lease.model_validate_json(answer.content) if answer.content else None

    def told(self, lease: messages.Lease) -> str:
        beat = messages.LeaseBeat(job_id=lease.job_id, token=lease.token, step=0)
        ask = messages.HeartbeatRequest(worker=self.facts, leases=[beat])
        answer = self.client.call("heartbeat", ask, self.cluster.worker_key)
        return messages.HeartbeatReply.model_validate_json(answer.content).leases[0].directive

    def upload(self, lease: messages.Lease) -> messages.Succeeded:
        for path in self.files:
            self.client.upload(lease, path, file_facts(path), patience=5)
        facts = [file_facts(path) for path in self.files]
        return messages.Succeeded(trained_tokens=1, files=facts, metrics_csv="metrics.csv")

    def finish(self, lease: messages.Lease, result: messages.Succeeded | messages.Released) -> None:
        self.client.finish(lease, messages.FinishRequest(result=result), patience=5)

    def wish(self, job_id: str, wish: str) -> int:
        """The answer's status."""
        return self.cluster.request("POST", f"/v1/fine_tuning/jobs/{job_id}/{wish}").status_code


def at_once(rng: random.Random, *acts: Callable[[], Any]) -> list[Any]:
    """What each returned; they begin within a few milliseconds of each other."""
    barrier = threading.Barrier(len(acts))
    given: list[Any] = [None] * len(acts)

    def run(index: int, pause: float) -> None:
        barrier.wait()
        time.sleep(pause)
        try:
            given[index] = acts[index]()
        except Exception as error:  # noqa: BLE001
            given[index] = error

    threads = [
        threading.Thread(target=run, args=(index, rng.uniform(0, CLOSE_SECONDS)))
        for index in range(len(acts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in given:
        if isinstance(one, Exception):
            raise one
    return given


def cancel_against_finish(bench: Bench, rng: random.Random, count: int) -> Outcome:
    outcome = Outcome(count=count)
    outcome.expect_none("two outcomes")
    with bench.cluster(workers=0, lease_seconds=60) as cluster, Racer(cluster) as racer:
        for _ in range(count):
            job_id = cluster.create(SHORT[0])
            lease = racer.claim()
            assert lease
            assert lease.job_id == job_id
            gives_up = rng.random() < 0.3
            result = messages.Released() if gives_up else racer.upload(lease)
            status, _ = at_once(
                rng,
                partial(racer.wish, job_id, "cancel"),
                partial(racer.finish, lease, result),
            )
            job, ends = state_and_ends(cluster, job_id)
            outcome.tally[f"cancel answered {status}, {job.state}"] += 1
            right = "cancelled" if gives_up else "succeeded"
            if job.state != right or len(ends) != 1:
                outcome.miss("two outcomes", f"{job_id}: {status}, {job.state}, {ends}")
        judge(cluster, outcome, {}, may_be_cancelled=lambda _: True)
    return outcome


def pause_against_claim(bench: Bench, rng: random.Random, count: int) -> Outcome:
    outcome = Outcome(count=count)
    outcome.expect_none("two outcomes")
    with bench.cluster(workers=0, lease_seconds=60) as cluster, Racer(cluster) as racer:
        for _ in range(count):
            job_id = cluster.create(SHORT[0])
            status, lease = at_once(rng, partial(racer.wish, job_id, "pause"), racer.claim)
            if lease:
                told = racer.told(lease)
                if told != "pause":
                    outcome.miss("two outcomes", f"{job_id} was claimed and told {told}")
                racer.finish(lease, messages.Released())
            job, _ = state_and_ends(cluster, job_id)
            outcome.tally["claim first" if lease else "pause first"] += 1
            if status != 200 or job.state != "paused" or job.token != bool(lease):
                outcome.miss("two outcomes", f"{job_id}: {status}, {job.state}, claim {lease}")
            racer.wish(job_id, "cancel")
        judge(cluster, outcome, {}, may_be_cancelled=lambda _: True)
    return outcome


def state_and_ends(cluster: Cluster, job_id: str) -> tuple[Any, list[str]]:
    (job,) = cluster.rows("SELECT state, token FROM job WHERE id = %s", job_id)
    events = cluster.rows("SELECT message FROM event WHERE job_id = %s", job_id)
    return job, [event.message for event in events if event.message in {*DONE, CANCELLED}]
