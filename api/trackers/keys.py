"""A project's key for its account at a tracker: kept sealed, and shown to nobody again."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api import sealing
from api.schemas.requests import CreateJob
from api.tables import NOW, TrackerKey
from tunery.errors import InvalidRequest, NotFound

WANDB = "wandb"
ROUTE = "/v1/project/integrations/wandb"


def put(tx: Session, secret: str, project_id: str, api_key: str) -> TrackerKey:
    """In place of the one there was. `secret` is the server's."""
    key = tx.get(TrackerKey, (project_id, WANDB), with_for_update=True)
    if key is None:
        key = TrackerKey(project_id=project_id, tracker=WANDB)
        tx.add(key)
    key.sealed = sealing.seal(secret, api_key, project_id=project_id, name=WANDB)
    key.updated_at = tx.scalars(select(NOW)).one()
    tx.flush()
    return key


def get(tx: Session, project_id: str) -> TrackerKey:
    key = tx.get(TrackerKey, (project_id, WANDB))
    if key is None:
        raise NotFound(f"This project has no key for Weights & Biases. Send one with PUT {ROUTE}.")
    return key


def delete(tx: Session, project_id: str) -> None:
    """What is still to be told of its jobs waits for another key, for a day."""
    tx.delete(get(tx, project_id))
    tx.flush()


def require(tx: Session, project_id: str, asked: CreateJob) -> None:
    """Raises `InvalidRequest` for a job that is to be followed in a project without the key."""
    if asked.integrations and tx.get(TrackerKey, (project_id, WANDB)) is None:
        raise InvalidRequest(
            "This project has no key for Weights & Biases. Send it once, with a key of the scope "
            f'admin, to PUT {ROUTE} as {{"api_key": ...}}, or leave `integrations` out.',
            param="integrations",
        )
