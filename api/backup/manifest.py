"""What a backup's folder holds.

manifest.json        what belongs together, written last: a backup is whole or is the one before
database-TIME.dump   as pg_dump writes it
stored-TIME.jsonl    a line for each key in storage that a row of the dump leads to
storage/KEY          its bytes
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from api.storage.rows import Stored
from tunery.disk import flush
from tunery.errors import InvalidRequest

MANIFEST = "manifest.json"


class Part(BaseModel):
    """A file of the backup itself."""

    name: str = Field(pattern=r"^(database|stored)-[\w-]+\.(dump|jsonl)$")
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """`secret` tells TUNERY_SECRET from others, and nothing of it. `lost` are keys that the backup
    lacks, because storage did not have their bytes any more.
    """

    format: Literal[1] = 1
    version: str
    revision: str
    made_at: str
    secret: str
    database: Part
    stored: Part
    files: int
    bytes: int
    lost: list[str]


def read_manifest(folder: Path) -> Manifest:
    """Raises `InvalidRequest` for what is no backup."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise InvalidRequest(f"{folder} has no {MANIFEST}: it is no backup.") from error
    except ValueError as error:
        raise InvalidRequest(
            f"{folder / MANIFEST} cannot be read: it is damaged, or of a newer version."
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """In the place of the one before, at once."""
    new = folder / f"{MANIFEST}.new"
    with new.open("w") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / MANIFEST)
    flush(folder)


def part_of(path: Path) -> Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return Part(name=path.name, bytes=path.stat().st_size, sha256=digest)


def prove_part(folder: Path, part: Part) -> Path:
    """Its path. Raises `InvalidRequest` if it is not what was written."""
    path = folder / part.name
    if not path.is_file() or part_of(path) != part:
        raise InvalidRequest(f"{path} is missing or damaged: this backup cannot be restored.")
    return path


def read_stored(path: Path) -> Iterator[Stored]:
    with path.open() as lines:
        for line in lines:
            yield Stored.model_validate_json(line)
