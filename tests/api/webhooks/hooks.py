"""What tests of webhooks do with them."""

from typing import Any

import openai
from openai.types.webhooks import WebhookEndpoint as Shown
from sqlalchemy import text

from api.db.session import Database
from api.webhooks.courier import Courier
from api.webhooks.outbox import EventType
from tests.conftest import Served
from tests.factories import create_job, upload

URL = "https://hooks.example.com/tunery"
ALL: list[Any] = list(EventType)


def subscribe(client: openai.OpenAI, url: str = URL, types: list[Any] | None = None) -> Any:
    return client.webhooks.create(name="ours", url=url, event_types=types or ALL)


def deliveries_of(server: Served, endpoint: Any, **query: Any) -> list[dict[str, Any]]:
    """Newest first."""
    answer = server.http().get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries", params=query)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def replay(server: Served, endpoint: Any, delivery: dict[str, Any]) -> Any:
    path = f"/v1/webhook_endpoints/{endpoint.id}/deliveries/{delivery['id']}/replay"
    return server.http().post(path)


def deliver_due(server: Served, db: Database) -> int:
    """As the janitor does, one after the other."""
    courier, made = Courier(server.settings, db), 0
    while claimed := courier.claim():
        courier.deliver(*claimed)
        made += 1
    return made


def make_due(db: Database) -> None:
    """As if every pause, and every claim of a courier, were over."""
    with db.as_control() as tx:
        tx.execute(text("UPDATE webhook_delivery SET next_at = now() WHERE next_at IS NOT NULL"))
        tx.execute(text("UPDATE webhook_endpoint SET free_at = now()"))


def cancelled(client: openai.OpenAI, jobs: int = 1) -> list[str]:
    """The ids of so many jobs, each told of once."""
    file = upload(client)
    made = [create_job(client, file.id).id for _ in range(jobs)]
    for job_id in made:
        client.fine_tuning.jobs.cancel(job_id)
    return made


def count(db: Database, table: str) -> int:
    with db.as_control() as tx:
        return int(tx.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608


def is_enabled(endpoint: Shown) -> bool:
    return bool(endpoint.to_dict()["tunery"]["enabled"])  # type: ignore[index]


def pending(db: Database) -> int:
    with db.as_control() as tx:
        waiting = "SELECT count(*) FROM webhook_delivery WHERE state = 'pending'"
        return int(tx.execute(text(waiting)).scalar_one())
