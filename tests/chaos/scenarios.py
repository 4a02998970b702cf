"""The suite's faults: how often each is made in the three rounds."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.chaos import buckets, clocks, failpoints, kills, outages, races, wakeups
from tests.chaos.bench import Bench
from tests.chaos.judge import Outcome
from tests.chaos.nursery import ROOT

FORGETFUL = "test_a_training_that_forgets_a_part_of_its_state_is_noticed"


@dataclass(frozen=True)
class Scenario:
    """`few` faults in the short round, `usual` in `make chaos`, `full` with FULL=1, in slices."""

    name: str
    fault: str
    run: Callable[..., Outcome]
    few: int
    usual: int
    full: int
    slice: int


def forgotten_state(_: Bench, __: random.Random, count: int) -> Outcome:
    """The engine's own test of its test: with a part of the state left out of a checkpoint, the
    resumed training gives another adapter.
    """
    outcome = Outcome()
    outcome.expect_none("unnoticed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/engine/test_checkpoint.py", "-k", FORGETFUL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    outcome.count = int(passed[1]) if passed else 0
    if done.returncode or outcome.count < count:
        outcome.miss("unnoticed", done.stdout[-2000:])
    return outcome


ALL_PLACES = len(failpoints.names())

SCENARIOS = (
    Scenario(
        "kills",
        "`kill -9` at random moments: engine, Celery child, Celery main, API, janitor",
        kills.random_kills,
        *(4, 40, 1000, 50),
    ),
    Scenario(
        "forgotten",
        "a part of the state dropped from a checkpoint",
        forgotten_state,
        *(0, 4, 4, 4),
    ),
    Scenario(
        "failpoints",
        "`kill -9` at each failpoint of claim, checkpoint and publish",
        kills.kills_at_failpoints,
        *(2, ALL_PLACES, ALL_PLACES * 10, ALL_PLACES),
    ),
    Scenario("redis-killed", "Redis killed, its data lost", outages.redis_killed, *(1, 3, 50, 10)),
    Scenario(
        "redis-frozen",
        "Redis frozen for 30 s",
        outages.redis_frozen,
        *(0, 2, 20, 5),
    ),
    Scenario("postgres", "Postgres killed", outages.postgres_killed, *(1, 3, 50, 10)),
    Scenario(
        "storage",
        "storage away for 20 to 40 s, as a mount that is lost",
        outages.storage_away,
        *(0, 3, 30, 5),
    ),
    Scenario(
        "bucket",
        "storage in a bucket whose server is busy, cut off, slow, refuses or is gone",
        buckets.bad_bucket,
        *(0, 10, 100, 20),
    ),
    Scenario(
        "clock",
        "the database's clock set by 30 s to 36 h, forward or back, and then a node dies",
        clocks.clock_steps,
        *(0, 6, 100, 20),
    ),
    Scenario(
        "frozen",
        "a worker frozen for 3 lease times",
        kills.frozen_workers,
        *(1, 5, 100, 20),
    ),
    Scenario(
        "sigterm",
        "SIGTERM at random moments, grace 15 s",
        kills.asked_to_end,
        *(1, 8, 100, 20),
    ),
    Scenario(
        "wake-ups",
        "doubled, stale and forged wake-ups",
        wakeups.stormy_wake_ups,
        *(30, 1000, 10_000, 1000),
    ),
    Scenario("lost", "lost wake-ups", wakeups.lost_wake_ups, *(1, 20, 200, 20)),
    Scenario(
        "cancel-finish",
        "cancel against finish",
        races.cancel_against_finish,
        *(20, 200, 2000, 500),
    ),
    Scenario(
        "pause-claim",
        "pause against claim",
        races.pause_against_claim,
        *(20, 200, 2000, 500),
    ),
    Scenario(
        "network",
        "a slow, cut or reset network between workers and API",
        outages.bad_network,
        *(2, 15, 150, 30),
    ),
    Scenario(
        "node",
        "a node dies; a warm one trains on (lease 60 s)",
        kills.dead_nodes,
        *(0, 0, 40, 8),
    ),
)


def short_round() -> dict[str, Callable[[Bench, random.Random], Outcome]]:
    return {one.name: partial(one.run, count=one.few) for one in SCENARIOS if one.few}
