"""The warning before a budget is spent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from api.db.session import Database
from api.tables import Attempt, Project, WebhookDelivery, WebhookEvent
from api.upkeep import budgets
from tests.api.tenants.test_usage import POOLS
from tests.conftest import Served
from tests.factories import create_job, end_by_hand, run_by_hand
from tunery.states import AttemptEnd

# So that it is of this month whenever the test runs.
BEGAN = "greatest(date_trunc('month', now(), 'UTC'), now() - interval '1 hour')"


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    return serve_with(pools=POOLS)


def test_a_project_is_told_once_a_month_of_each_budget_that_is_nearly_spent(
    server: Served, db: Database
) -> None:
    admin, own = server.http(server.admin_key), server.http()
    project_id = own.get("/v1/project").json()["id"]
    hook = {"name": "ci", "url": "https://hooks.example.com/x"}
    types = {"event_types": ["project.budget_warning", "fine_tuning.job.failed"]}
    assert own.post("/v1/webhook_endpoints", json=hook | types).status_code == 200
    job = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, job.id, began=3_600, pool="a100")
        priced = "price_per_hour = 1000, currency = 'USD'"
        tx.execute(text(f"UPDATE attempt SET {priced}, started_at = {BEGAN}"))  # noqa: S608
        end_by_hand(tx, job.id, AttemptEnd.CANCELLED)
        (attempt,) = tx.scalars(select(Attempt))
        assert attempt.ended_at
        cost = (attempt.ended_at - attempt.started_at).total_seconds() / 3600 * 1000

    def give(limit: float) -> list[str]:
        limits = {"limits": {"cost": limit}}
        shown = admin.post(f"/v1/admin/projects/{project_id}", json=limits).json()
        warnings: list[str] = shown["warnings"]
        return warnings

    def told() -> list[dict[str, Any]]:
        with db.as_control() as tx:
            budgets.warn(tx, server.settings)
        deliveries = own.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"]
        return [one["event"] for one in deliveries]

    (endpoint,) = [one["id"] for one in own.get("/v1/webhook_endpoints").json()["data"]]
    assert (give(cost / 0.79), told()) == ([], [])
    (warning,) = give(cost / 0.81)
    assert "USD of this month (UTC), 81 %" in warning
    (event,) = told()
    assert event["type"] == "project.budget_warning"
    assert event["data"] == {
        "id": project_id,
        "budget": "cost",
        "used": pytest.approx(cost, abs=0.01),
        "limit": pytest.approx(cost / 0.81),
        "currency": "USD",
    }
    assert len(told()) == 1, "once"
    now = int(attempt.ended_at.timestamp()) + 60
    asked = {"start_time": now - 7200, "end_time": now}
    assert own.get("/v1/usage", params=asked).json()["warnings"] == [warning]
    assert admin.get("/v1/admin/usage", params=asked).json()["warnings"] == [warning]
    assert "new jobs are rejected" in give(cost / 2)[0]
    assert len(told()) == 2, "another budget"
    with db.as_control() as tx:
        project = tx.get_one(Project, project_id)
        assert project.cost_warned_at
        project.cost_warned_at -= timedelta(days=32)
    assert len(told()) == 3, "another month"
    with db.as_control() as tx:
        assert [tx.scalars(select(WebhookEvent.job_id)).first()] == [None]
        assert len(tx.scalars(select(WebhookDelivery)).all()) == 3
    hours = {"limits": {"cost": None, "device_hours": 0}}
    shown = admin.post(f"/v1/admin/projects/{project_id}", json=hours).json()
    assert (shown["warnings"], len(told())) == ([], 3), "none is not nearly spent"
