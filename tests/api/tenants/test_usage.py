"""The report on usage, against a plain count over the rows of attempts."""

import csv
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from pydantic import ValidationError
from sqlalchemy import select, text, update

from api.admin import create_key
from api.db.session import Database
from api.settings import Pool, Settings
from api.tables import Answered, ApiKey, Attempt, Job, Person, Project
from tests.api.speaking import claim
from tests.conftest import Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload, worker_facts
from tunery.cli import usage as cli
from tunery.states import AttemptEnd
from worker.client import Client

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
POOLS = (
    Pool.model_validate({"name": "cheap", "memory_bytes": "16GiB", "price_per_hour": 0.4}),
    Pool.model_validate({"name": "a100", "memory_bytes": "80GiB", "price_per_hour": 2.1}),
    Pool.model_validate({"name": "ours", "memory_bytes": "80GiB"}),
)
NAMES = ["project_id", "api_key_id", "user_id", "model", "pool"]


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    return serve_with(pools=POOLS)


@pytest.fixture
def history(server: Served, db: Database) -> None:
    """Two projects, keys and people, and attempts of all kinds around some days in March."""
    chance = random.Random(4)
    other = server.client_for(create_key(db, "other", ["read", "write"], name="=night"))
    jobs = [create_job(client).id for client in (server.client, server.client, other, other)]
    with db.as_control() as tx:
        tx.add(Person(id="person_1", issuer="i", subject="s", email="a@b.c", rights={}))
        tx.flush()
        person = {"person_id": "person_1", "key_id": None}
        tx.execute(update(Job).where(Job.id == jobs[1]).values(**person))
        for number in range(60):
            job = tx.get_one(Job, chance.choice(jobs))
            began = NOON + timedelta(hours=chance.uniform(-90, 90))
            pool = chance.choice(POOLS)
            priced = pool.price_per_hour is not None and number % 5
            tx.add(
                Attempt(
                    project_id=job.project_id,
                    job_id=job.id,
                    token=number + 1,
                    worker_id="w",
                    worker="w",
                    pool=pool.name,
                    price_per_hour=pool.price_per_hour if priced else None,
                    currency="USD" if priced else None,
                    started_at=began,
                    # Some run still, one over the whole time; and a clock has gone back.
                    ended_at=None
                    if number % 20 == 0
                    else began + timedelta(hours=chance.uniform(-1, 30)),
                    freed_at=began + timedelta(hours=chance.uniform(0, 20))
                    if number % 3 == 0
                    else None,
                )
            )
        tx.get_one(Job, jobs[0]).token = 2
        values = {"state": "failed", "finished_at": NOON, "trained_tokens": 500}
        tx.execute(update(Job).where(Job.id == jobs[0]).values(**values))
        for project in tx.scalars(select(Project)):
            for day in (9, 10):
                tx.add(
                    Answered(
                        project_id=project.id,
                        day=datetime(2026, 3, day, tzinfo=UTC).date(),
                        answers=day,
                        prompt_tokens=100,
                        completion_tokens=10,
                    )
                )
    assert server.http().delete(f"/v1/fine_tuning/jobs/{jobs[0]}").status_code == 200


def counted(
    db: Database, since: datetime, until: datetime, by: list[str]
) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Seconds and cost by the day and the group, the plain way."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    with db.as_control() as tx:
        rows = tx.execute(select(Attempt, Job).join(Job, Job.id == Attempt.job_id)).all()
    for attempt, job in rows:
        facts = {
            "project_id": job.project_id,
            "api_key_id": job.key_id,
            "user_id": job.person_id,
            "model": job.base_model_id,
            "pool": attempt.pool,
        }
        day = since.replace(hour=0, minute=0, second=0)
        while day < until:
            begin = max(day, since, attempt.started_at)
            end = min(day + timedelta(days=1), until, attempt.had_device_until or datetime.now(UTC))
            if end > begin:
                taken = (end - begin).total_seconds()
                sums = found[(max(day, since), *(facts[name] for name in by))]
                sums[0] += taken
                sums[1] += taken / 3600 * (attempt.price_per_hour or 0)
            day += timedelta(days=1)
    return {group: (sums[0], sums[1]) for group, sums in found.items()}


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("by", [[], ["project_id"], ["pool", "api_key_id"], NAMES])
def test_every_second_is_counted_once_and_only_inside_the_time(
    server: Served, db: Database, by: list[str]
) -> None:
    since, until = NOON - timedelta(hours=41.25), NOON + timedelta(hours=33.5)
    asked: dict[str, Any] = {
        "start_time": int(since.timestamp()),
        "end_time": int(until.timestamp()),
        "group_by": by,
    }
    told = {}
    pages = 0
    while True:
        answer = server.http(server.admin_key).get("/v1/admin/usage", params=asked | {"limit": 2})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages += 1
        for bucket in page["data"]:
            start = datetime.fromtimestamp(bucket["start_time"], UTC)
            for one in bucket["results"]:
                if one["device_seconds"]:
                    cost = one["amount"]["value"] if one["amount"] else 0
                    group = (start, *(one[name] for name in by))
                    assert group not in told, "once"
                    told[group] = (one["device_seconds"], cost)
        if not page["has_more"]:
            break
        asked["page"] = page["next_page"]
    assert pages == 2
    reference = counted(db, since, until, by)
    assert told.keys() == reference.keys()
    for group, (taken, cost) in reference.items():
        assert told[group] == (pytest.approx(taken, abs=0.01), pytest.approx(cost, abs=0.001))


@pytest.mark.usefixtures("history")
def test_a_report_has_names_tokens_and_answers_and_is_a_csv(
    server: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {
        "start_time": int((NOON - timedelta(days=1)).timestamp()),
        "end_time": int((NOON + timedelta(days=1)).timestamp()),
        "group_by": ["project_id", "user_id", "api_key_id"],
        "format": "csv",
    }
    answer = server.http(server.admin_key).get("/v1/admin/usage", params=asked)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert {"a@b.c", "'=night"} <= {row["user"] for row in rows} | {row["api_key"] for row in rows}
    assert {row["project"] for row in rows} == {"default", "other"}
    assert sum(int(row["trained_tokens"]) for row in rows) == 500, "of a deleted job too"
    answers = [row for row in rows if row["num_model_requests"] != "0"]
    assert [row["num_model_requests"] for row in answers] == ["10", "10"], "of whole days"
    assert {row["currency"] for row in rows if row["amount"]} == {"USD"}
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    monkeypatch.setenv("TUNERY_ADMIN_KEY", server.admin_key)
    cli.run("2026-03-08", "2026-03-12", ["project"], mine=False, as_csv=True, as_json=False)
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["num_model_requests"] for line in lines] == ["19", "19"], "a line for a project"
    assert {line["currency"] for line in lines} == {"USD"}
    cli.run("2026-03-08", "2026-03-12", ["key"], mine=False, as_csv=True, as_json=False)
    assert "'=night" in capsys.readouterr().out, "no formula for a spreadsheet"
    cli.run("2026-03-08", None, [], mine=True, as_csv=False, as_json=False)
    assert "device hours" in capsys.readouterr().out
    long = asked | {"end_time": asked["start_time"] + 40 * 86_400}
    refused = server.http(server.admin_key).get("/v1/admin/usage", params=long)
    assert "A CSV has no pages" in refused.json()["error"]["message"]


@pytest.mark.usefixtures("history")
def test_a_project_sees_its_own_usage_alone(server: Served) -> None:
    asked: dict[str, Any] = {
        "start_time": int((NOON - timedelta(days=2)).timestamp()),
        "end_time": int(NOON.timestamp()),
        "group_by": ["project_id"],
    }
    whole = server.http(server.admin_key).get("/v1/admin/usage", params=asked).json()
    own = server.http().get("/v1/project").json()["id"]
    shown = server.http().get("/v1/usage", params=asked).json()
    for all_of_it, mine in zip(whole["data"], shown["data"], strict=True):
        expected = [one for one in all_of_it["results"] if one["project_id"] == own]
        assert mine["results"] == [one | {"project": None} for one in expected]
    narrowed = asked | {"project_ids": [own]}
    some = server.http(server.admin_key).get("/v1/admin/usage", params=narrowed).json()
    assert {one["project_id"] for one in some["data"][1]["results"]} == {own}
    wrong = server.http().get("/v1/usage", params=asked | {"start_time": asked["end_time"]})
    assert wrong.json()["error"]["param"] == "start_time"


def test_an_attempt_keeps_the_price_that_its_pool_had_when_it_began(
    server: Served, worker: Client, db: Database
) -> None:
    create_job(server.client)
    assert worker.claim(worker_facts().model_copy(update={"pool": "a100"}))
    with db.as_control() as tx:
        (attempt,) = tx.scalars(select(Attempt))
        assert (attempt.price_per_hour, attempt.currency) == (2.1, "USD")
        (key_id,) = tx.scalars(select(Job.key_id))
        assert tx.get_one(ApiKey, key_id).scopes == ["read", "write"]


def test_a_project_that_has_spent_its_budget_begins_nothing_until_the_next_month(
    server: Served, worker: Client, db: Database
) -> None:
    admin = server.http(server.admin_key)
    path = f"/v1/admin/projects/{server.http().get('/v1/project').json()['id']}"
    first, second = create_job(server.client), create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, first.id, began=3_600, pool="a100")
        # The month may be younger than that.
        began = "greatest(date_trunc('month', now(), 'UTC'), now() - interval '1 hour')"
        priced = f"price_per_hour = 2.1, currency = 'USD', started_at = {began}"
        tx.execute(text(f"UPDATE attempt SET {priced}"))  # noqa: S608
        end_by_hand(tx, first.id, AttemptEnd.CANCELLED)
        took = "SELECT extract(epoch FROM ended_at - started_at) FROM attempt"
        cost = float(tx.execute(text(took)).scalar_one()) / 3600 * 2.1
    shown = admin.post(path, json={"limits": {"cost": cost + 1}}).json()
    assert (shown["currency"], shown["limits"]["cost"]) == ("USD", pytest.approx(cost + 1))
    assert shown["usage"]["cost"] == pytest.approx(cost, abs=0.01)
    file_id = upload(server.client).id
    create_job(server.client, file_id)
    admin.post(path, json={"limits": {"cost": cost / 2}})
    with pytest.raises(openai.RateLimitError, match="USD of this month") as refused:
        create_job(server.client, file_id)
    body: Any = refused.value.body
    assert body["code"] == "insufficient_quota"
    worker.heartbeat(worker_facts(), [])
    assert claim(worker) is None
    waits = server.http().get(f"/v1/fine_tuning/jobs/{second.id}").json()["tunery"]["queue"]
    assert (waits["waits_for"], "has spent its" in waits["reason"]) == ("own_quota", True)
    line = admin.get("/v1/admin/queue").json()["data"]
    assert {one["queue"]["waits_for"] for one in line} == {"own_quota"}
    admin.post(path, json={"limits": {"cost": None}})
    assert claim(worker)


def test_a_budget_without_prices_is_refused(serve_with: Callable[..., Served]) -> None:
    server = serve_with()
    path = f"/v1/admin/projects/{server.http().get('/v1/project').json()['id']}"
    answer = server.http(server.admin_key).post(path, json={"limits": {"cost": 5}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limits.cost")
    given: dict[str, Any] = {"database_url": "postgresql://x", "storage": "/x", "secret": "s" * 32}
    with pytest.raises(ValidationError, match="needs prices"):
        Settings.model_validate(given | {"project_cost": 5})
    euros = POOLS[0].model_copy(update={"name": "eu", "currency": "EUR"})
    with pytest.raises(ValidationError, match="EUR and USD"):
        Settings.model_validate(given | {"pools": [*POOLS, euros]})
