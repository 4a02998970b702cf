"""Messages in Redis that are doubled, forged or lost. A message only wakes: none may start a job
twice, and none is needed for long.
"""

import base64
import json
import random
import signal
import time
from functools import partial
from typing import Any

import redis
from celery import Celery

from tests.chaos.bench import Bench
from tests.chaos.cluster import SHORT, Cluster, wait_for
from tests.chaos.judge import Outcome, judge
from tunery.messages import WAKE_QUEUE, WAKE_TASK

AIM_SECONDS = 10.0


def stormy_wake_ups(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """Doubled, stale and forged messages, pushed in bursts while jobs come and go."""
    outcome = Outcome()
    outcome.expect_none("double starts")
    with bench.cluster() as cluster, redis.Redis.from_url(bench.stores.redis.url) as broker:
        wake_up = a_wake_up(bench.stores.redis.url, broker)
        while outcome.count < count:
            cluster.top_up(rng, 2)
            burst = min(rng.randint(1, 200), count - outcome.count)
            for _ in range(burst):
                broker.lpush(WAKE_QUEUE, rng.choice((wake_up, wake_up, forged(rng, wake_up))))
            outcome.count += burst
            wait_for(lambda: broker.llen(WAKE_QUEUE) < 100, 120, "the messages to be read")
        wait_for(lambda: not broker.llen(WAKE_QUEUE), 120, "the messages to be read")
        judge(cluster, outcome, bench.references)
        last = cluster.create(SHORT[0])
        took = wait_for(lambda: claimed(cluster, last), 120, "a claim after the storm")
        outcome.took("to the claim, after the storm", took, at_most=AIM_SECONDS)
        for row in cluster.rows("SELECT id, token FROM job WHERE token > 1"):
            outcome.miss("double starts", f"{row.id} was started {row.token} times")
    return outcome


def a_wake_up(url: str, broker: redis.Redis) -> bytes:
    """A message as the janitor sends it."""
    with Celery(broker=url) as sender:
        sender.send_task(WAKE_TASK, queue="scratch", ignore_result=True)
    message = broker.rpop("scratch")
    assert isinstance(message, bytes)
    return message


def forged(rng: random.Random, wake_up: bytes) -> bytes:
    message: dict[str, Any] = json.loads(wake_up)
    body = base64.b64encode(json.dumps([[], {}, {}]).encode()).decode()
    pickled = base64.b64encode(b"cos\nsystem\n(S'touch forged'\ntR.").decode()
    changed: list[Any] = [
        message | {"headers": message["headers"] | {"task": "os.system"}},
        message | {"headers": {}},
        message | {"content-type": "application/x-python-serialize", "body": pickled},
        message | {"content-encoding": "rot13"},
        message | {"content-type": "text/nonsense"},
        message | {"body": "!"},
        message | {"body": base64.b64encode(b"[1, 2").decode()},
        message | {"body": base64.b64encode(b'[["a"], {"b": 1}, null]').decode()},
        message | {"body": body * 200_000},
        message | {"properties": {}},
        {},
        [],
        "wake",
    ]
    return rng.choice([*(json.dumps(one).encode() for one in changed), b"", b"{", b"\x80\x02}q."])


def lost_wake_ups(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """The only wake-up for a job is taken from Redis by a worker that dies before it reads it, or
    is deleted. The sweep is as long as in production.
    """
    outcome = Outcome()
    with (
        bench.cluster(workers=1, sweep_seconds=5) as cluster,
        redis.Redis.from_url(bench.stores.redis.url) as broker,
    ):
        wait_for(lambda: len(cluster.pids("w1")) == 3, 120, "the worker")
        while outcome.count < count:
            time.sleep(rng.uniform(0.5, 1.5))
            main = cluster.roles["w1"].pid
            cluster.signal(main, signal.SIGSTOP)
            deleted = rng.random() < 0.5
            if deleted:
                time.sleep(1.2)  # until Redis no longer holds the worker's BRPOP
            job_id = cluster.create(SHORT[0])
            time.sleep(0.3)
            broker.delete(WAKE_QUEUE)
            if deleted:
                cluster.signal(main, signal.SIGCONT)
            else:
                cluster.kill_tree("w1")
            took = wait_for(partial(claimed, cluster, job_id), 120, "a claim")
            outcome.count += 1
            outcome.tally["deleted" if deleted else "died with their reader"] += 1
            outcome.took("to the claim", took, at_most=AIM_SECONDS)
            cluster.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
            wait_for(partial(ended, cluster, job_id), 120, "the cancel")
        judge(cluster, outcome, bench.references, may_be_cancelled=lambda _: True)
    return outcome


def claimed(cluster: Cluster, job_id: str) -> bool:
    return bool(cluster.rows("SELECT token FROM job WHERE id = %s AND token > 0", job_id))


def ended(cluster: Cluster, job_id: str) -> bool:
    return bool(
        cluster.rows("SELECT 1 FROM job WHERE id = %s AND finished_at > '-infinity'", job_id)
    )
