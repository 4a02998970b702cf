"""Where in storage the bytes of a row lie, and which of them rows lead to."""

import hashlib

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.storage.storage import Storage
from api.tables import Artifact, BaseModel, Checkpoint, File, Job, UploadPart
from tunery.facts import STORED, TOKENIZER_FILES, FileFacts, FileLink
from tunery.messages import DirectTarget, UploadTarget
from tunery.states import JobState


def blob_key(job_id: str, token: int, file: FileFacts) -> str:
    """Under the claim's own prefix, so that a stale worker can only write beside, never over."""
    return f"jobs/{job_id}/{token}/{file.sha256}"


def files_of(checkpoint: Checkpoint) -> list[tuple[str, FileFacts]]:
    """Its files with their keys, which those of the same content share."""
    facts = [FileFacts.model_validate(file) for file in checkpoint.files]
    return [(blob_key(checkpoint.job_id, checkpoint.token, fact), fact) for fact in facts]


def keys_of(checkpoint: Checkpoint) -> set[str]:
    return {key for key, _ in files_of(checkpoint)}


def links_to(storage: Storage, files: list[tuple[str, FileFacts]]) -> list[FileLink]:
    """To files with their keys."""
    return [link_to(storage, key, fact) for key, fact in files]


def link_to(storage: Storage, key: str, fact: FileFacts) -> FileLink:
    url = storage.download_url(key, digest=fact.sha256)
    return FileLink(**fact.model_dump(), url=url, direct=storage.link_for_worker(key))


def target_for(storage: Storage, key: str, file: FileFacts) -> UploadTarget:
    """Where to send the file, unless it is there already."""
    if storage.has(key, file.bytes):
        return UploadTarget(url=None)
    direct = storage.target(key, size=file.bytes, digest=file.sha256)
    return UploadTarget(
        url=storage.upload_url(key, size=file.bytes, digest=file.sha256),
        direct=DirectTarget(url=direct.url, headers=direct.headers) if direct else None,
        part_bytes=storage.part_bytes(file.bytes),
    )


def kept_keys(tx: Session, job_id: str) -> set[str]:
    """Those of all its checkpoints and artifacts."""
    checkpoints = tx.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id))
    keys = set(tx.scalars(select(Artifact.key).where(Artifact.job_id == job_id)))
    return keys.union(*map(keys_of, checkpoints))


def tokenizer_of(base: BaseModel) -> tuple[str, list[FileFacts]]:
    """The files that the API keeps to count tokens, and the folder in storage that holds them.
    Bases with the same tokenizer share it.
    """
    files = [
        FileFacts.model_validate(file) for file in base.files if file["name"] in TOKENIZER_FILES
    ]
    return tokenizer_folder(files), files


def base_key(file: FileFacts) -> str:
    """Of a base model's file, which those of the same content share."""
    return f"bases/{file.sha256}"


def base_keys(tx: Session) -> set[str]:
    """The keys of all base models' files in storage."""
    rows = tx.scalars(select(BaseModel.files).where(BaseModel.source == STORED))
    return {base_key(FileFacts.model_validate(file)) for files in rows for file in files}


def tokenizer_folder(files: list[FileFacts]) -> str:
    lines = sorted(f"{file.sha256}  {file.name}\n" for file in files)
    return f"tokenizers/{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def tokenizer_keys(tx: Session) -> set[str]:
    """The keys of all tokenizers' files."""
    kept = map(tokenizer_of, tx.scalars(select(BaseModel)))
    return {f"{folder}/{file.name}" for folder, files in kept for file in files}


def digests_of(tx: Session, keys: set[str]) -> dict[str, str]:
    """SHA-256 of what lies under those of the keys for which a row says it."""
    files = select(File.key, File.sha256).where(File.key.in_(keys))
    found = {row.key: row.sha256 for row in tx.execute(files)}
    found |= {key: key.rpartition("/")[2] for key in keys if key.startswith(("jobs/", "bases/"))}
    if any(key.startswith("tokenizers/") for key in keys):
        for folder, files_of_it in map(tokenizer_of, tx.scalars(select(BaseModel))):
            found |= {f"{folder}/{file.name}": file.sha256 for file in files_of_it}
    return found


def led_to(tx: Session, keys: set[str]) -> set[str]:
    """Those of the keys that a file, a part of one, a checkpoint, an artifact or a base model has,
    or that may be the results of a job that still runs.
    """
    found = set(tx.scalars(select(File.key).where(File.key.in_(keys), File.deleted_at.is_(None))))
    found |= set(tx.scalars(select(UploadPart.key).where(UploadPart.key.in_(keys))))
    if any(key.startswith("tokenizers/") for key in keys):
        found |= keys & tokenizer_keys(tx)
    if any(key.startswith("bases/") for key in keys):
        found |= keys & base_keys(tx)
    # Theirs are found by the job, by which they are in order.
    jobs = {key.split("/")[1] for key in keys if key.startswith("jobs/")}
    found |= set(tx.scalars(select(Artifact.key).where(Artifact.job_id.in_(jobs))))
    for checkpoint in tx.scalars(select(Checkpoint).where(Checkpoint.job_id.in_(jobs))):
        found |= keys_of(checkpoint)
    running = set(tx.scalars(select(Job.id).where(Job.id.in_(jobs), Job.state == JobState.RUNNING)))
    return keys & found | {key for key in keys if key.split("/")[1] in running}
