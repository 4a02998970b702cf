"""What a project is told of its jobs and its budgets, written in the transaction of what it tells
of. Deliveries follow in their own time (`deliveries`, `courier`).
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.db.session import WAKE_CHANNEL
from api.ids import new_id
from api.tables import (
    NOW,
    Job,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from tunery.states import JobState


class EventType(StrEnum):
    """OpenAI's three, and ours in the same form."""

    SUCCEEDED = "fine_tuning.job.succeeded"
    FAILED = "fine_tuning.job.failed"
    CANCELLED = "fine_tuning.job.cancelled"
    STARTED = "fine_tuning.job.started"
    CHECKPOINT = "fine_tuning.job.checkpoint"
    PAUSED = "fine_tuning.job.paused"
    SERVED = "fine_tuning.job.served"
    EVALUATED = "fine_tuning.job.evaluated"
    BUDGET = "project.budget_warning"


TOLD = {
    JobState.SUCCEEDED: EventType.SUCCEEDED,
    JobState.FAILED: EventType.FAILED,
    JobState.CANCELLED: EventType.CANCELLED,
    JobState.RUNNING: EventType.STARTED,
    JobState.PAUSED: EventType.PAUSED,
}

VERDICTS = {EventType.SUCCEEDED, EventType.EVALUATED}


def announce(tx: Session, job: Job, event_type: EventType) -> None:
    """It tells of the job's newest event."""
    tell(tx, job.project_id, event_type, data_of(event_type, job.id, job.evaluation), job)


def tell(
    tx: Session,
    project_id: str,
    event_type: EventType,
    data: dict[str, Any],
    job: Job | None = None,
) -> None:
    """For the endpoints of the project that ask for it; nothing if there is none."""
    subscribed = tx.scalars(
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.project_id == project_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.event_types.contains([event_type]),
        )
        # None is disabled before its delivery is there.
        .with_for_update(read=True)
    ).all()
    if not subscribed:
        return
    event_id = new_id("evt_")
    event = WebhookEvent(
        id=event_id,
        project_id=project_id,
        job_id=job.id if job else None,
        number=job.event_count if job else None,
        body=body_of(event_id, event_type, data, tx.scalars(select(NOW)).one()),
    )
    tx.add(event)
    tx.flush()
    for endpoint_id in subscribed:
        tx.add(
            WebhookDelivery(
                id=new_id("whd_"),
                project_id=project_id,
                endpoint_id=endpoint_id,
                event_id=event_id,
            )
        )
    tx.flush()
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))


def data_of(
    event_type: EventType, job_id: str, evaluation: dict[str, Any] | None = None
) -> dict[str, Any]:
    verdict = evaluation and event_type in VERDICTS
    return {"id": job_id, "evaluation": evaluation} if verdict else {"id": job_id}


def sample_of(event_type: EventType) -> dict[str, Any]:
    """Data as an event of this type has them."""
    if event_type is EventType.BUDGET:
        spent = {"budget": "cost", "used": 412.5, "limit": 500.0, "currency": "USD"}
        return {"id": "proj_sample", **spent}
    return data_of(event_type, "ftjob-sample")


def body_of(event_id: str, event_type: EventType, data: dict[str, Any], at: datetime) -> str:
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(at.timestamp()),
        "type": event_type,
        "data": data,
    }
    return orjson.dumps(event).decode()
