"""A project's key for its account at a tracker: kept sealed, and shown to nobody again."""

from importlib.util import find_spec

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db import sealing
from api.jobs.requests import CreateJob
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


def require_package() -> None:
    """Raises `InvalidRequest` where nothing could be told. The janitor tells; this looks beside the
    API, and the two are installed alike.
    """
    if find_spec(WANDB) is None:
        raise InvalidRequest(
            "This server lacks the package wandb, so nothing can be sent to Weights & Biases. The "
            'operator installs it for the API and the janitor: pip install "tunery[wandb]".',
            param="integrations",
            code="wandb_not_installed",
        )


def require(tx: Session, project_id: str, asked: CreateJob) -> None:
    """Raises `InvalidRequest` for a job that is to be followed and cannot be: the server lacks the
    package, or the project the key.
    """
    if asked.integrations:
        require_package()
    if asked.integrations and tx.get(TrackerKey, (project_id, WANDB)) is None:
        raise InvalidRequest(
            "This project has no key for Weights & Biases. Send it once, with a key of the scope "
            f'admin, to PUT {ROUTE} as {{"api_key": ...}}, or leave `integrations` out.',
            param="integrations",
        )
