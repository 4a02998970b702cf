"""Which keys in storage the rows of a database lead to, all of them."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator
from pydantic import BaseModel as Model
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.storage.kept import base_key, files_of, tokenizer_of
from api.storage.storage import require_key
from api.tables import Artifact, BaseModel, Checkpoint, File, Job, UploadPart
from tunery.facts import STORED, FileFacts

BATCH = 500


class Stored(Model):
    """Bytes in storage. `sha256` is None until they are read, for a part of an upload."""

    key: Annotated[str, AfterValidator(require_key)]
    bytes: int
    sha256: str | None


def stored(tx: Session) -> Iterator[Stored]:
    """Each key once."""
    yield from of_files(tx)
    for part in tx.execute(select(UploadPart.key, UploadPart.bytes)).all():
        yield Stored(key=part.key, bytes=part.bytes, sha256=None)
    yield from of_jobs(tx)
    yield from of_bases(tx)


def of_files(tx: Session) -> Iterator[Stored]:
    query = select(File.sequence, File.key, File.bytes, File.sha256).order_by(File.sequence)
    after = 0
    while batch := tx.execute(
        query.where(File.sequence > after, File.deleted_at.is_(None)).limit(BATCH)
    ).all():
        after = batch[-1].sequence
        for row in batch:
            yield Stored(key=row.key, bytes=row.bytes, sha256=row.sha256)


def of_jobs(tx: Session) -> Iterator[Stored]:
    """Of their checkpoints and artifacts, which share what is the same."""
    query = select(Job.sequence, Job.id).order_by(Job.sequence).limit(BATCH)
    after = 0
    while batch := tx.execute(query.where(Job.sequence > after)).all():
        after = batch[-1].sequence
        ids = [row.id for row in batch]
        found: dict[str, Stored] = {}
        artifacts = select(Artifact.key, Artifact.bytes, Artifact.sha256)
        for row in tx.execute(artifacts.where(Artifact.job_id.in_(ids))):
            found[row.key] = Stored(key=row.key, bytes=row.bytes, sha256=row.sha256)
        for checkpoint in tx.scalars(select(Checkpoint).where(Checkpoint.job_id.in_(ids))):
            found |= {key: of_fact(key, fact) for key, fact in files_of(checkpoint)}
        tx.expunge_all()
        yield from found.values()


def of_bases(tx: Session) -> Iterator[Stored]:
    """Of their tokenizers, and of those that were pushed."""
    found: dict[str, Stored] = {}
    for base in tx.scalars(select(BaseModel)):
        folder, files = tokenizer_of(base)
        found |= {f"{folder}/{one.name}": of_fact(f"{folder}/{one.name}", one) for one in files}
        if base.source == STORED:
            facts = [FileFacts.model_validate(file) for file in base.files]
            found |= {base_key(fact): of_fact(base_key(fact), fact) for fact in facts}
    yield from found.values()


def of_fact(key: str, fact: FileFacts) -> Stored:
    return Stored(key=key, bytes=fact.bytes, sha256=fact.sha256)
