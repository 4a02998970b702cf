"""A worker that has a key and a lease, and says what no worker says."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import httpx

from tests.api.jobs.queue.test_hostile_workers import SAID, VIEWS
from tests.attack.town import House, Town
from tests.chaos.judge import Outcome
from tests.chaos.races import Racer
from tests.factories import data_set

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 10**30, -1e308, 1e308, 0.5, "", "x", "=1+1", "\x1b[31m"),
    *("y" * 200_000, [], {}, [1], {"a": None}, {"a": "b" * 100_000}),
)


def hostile(town: Town, count: int) -> Outcome:
    """So many messages about a job of `a`'s, each with a value or two changed; now and then what
    its tenant sees of it is read.
    """
    outcome = Outcome(count=count)
    outcome.expect_none("5xx to the worker", "views lost", "b disturbed")
    rng = random.Random(0)
    with town.house(workers=0, lease_seconds=600) as house, Racer(house) as racer:
        job_id = house.a.create(house.a.upload(data_set()).json()["id"]).json()["id"]
        lease = racer.claim()
        assert lease
        said = httpx.Client(
            base_url=f"{house.url}/worker/v1/jobs/{job_id}/",
            headers={"authorization": f"Bearer {lease.secret}"},
            timeout=60,
        )
        taken = 0
        for number in range(count):
            route, body, _ = rng.choice(SAID)
            body = changed(rng, body)
            if body.get("first") == 0:
                body["first"] = taken
            answer = said.post(route, json=body)
            outcome.tally[f"answered {answer.status_code // 100}xx"] += 1
            if answer.status_code >= 500:
                outcome.miss("5xx to the worker", f"{route} {str(body)[:300]}: {answer.text}")
            if route == "events" and answer.status_code == 204:
                taken += len(body.get("events", ()))
            if number % 10 == 9:
                look(house, job_id, outcome)
        said.close()
    return outcome


def changed(rng: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    body = copy.deepcopy(body)
    for _ in range(rng.randint(0, 2)):
        where, key = rng.choice(list(places(body)))
        where[key] = copy.deepcopy(rng.choice(VALUES))
    return body


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Of each value in it: what holds it, and under which key."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def look(house: House, job_id: str, outcome: Outcome) -> None:
    for path in ("", *(f"/{job_id}{view}" for view in VIEWS)):
        answer = house.a.http.get(f"/v1/fine_tuning/jobs{path}")
        if answer.status_code != 200:
            outcome.miss("views lost", f"{path}: {answer.status_code} {answer.text[:300]}")
    if (listed := house.b.http.get("/v1/fine_tuning/jobs")).status_code != 200:
        outcome.miss("b disturbed", listed.text[:300])
