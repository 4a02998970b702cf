"""Where a job's checkpoints and artifacts lie in storage."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.tables import Artifact, Checkpoint
from tunery.messages import FileFacts


def blob_key(job_id: str, token: int, file: FileFacts) -> str:
    """Under the claim's own prefix, so that a stale worker can only write beside, never over."""
    return f"jobs/{job_id}/{token}/{file.sha256}"


def files_of(checkpoint: Checkpoint) -> list[tuple[str, FileFacts]]:
    """Its files with their keys, which those of the same content share."""
    facts = [FileFacts.model_validate(file) for file in checkpoint.files]
    return [(blob_key(checkpoint.job_id, checkpoint.token, fact), fact) for fact in facts]


def keys_of(checkpoint: Checkpoint) -> set[str]:
    return {key for key, _ in files_of(checkpoint)}


def kept_keys(tx: Session, job_id: str) -> set[str]:
    """Those of all its checkpoints and artifacts."""
    checkpoints = tx.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id))
    keys = set(tx.scalars(select(Artifact.key).where(Artifact.job_id == job_id)))
    return keys.union(*map(keys_of, checkpoints))
