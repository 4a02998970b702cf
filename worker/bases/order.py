"""What an agent tells the process that fetches a base model, and what it hears of the end. Of bytes
that come in, the folder speaks.
"""

from pathlib import Path

from pydantic import BaseModel

from tunery.facts import FileFacts


class Repository(BaseModel):
    """Where on a hub the files are."""

    name: str
    revision: str
    endpoint: str
    token: str | None


class Order(BaseModel):
    """Files to be fetched into a folder that is there: from a repository, else by links to the
    service's storage, which are by the files' names. The first of the `ways` there leads to the
    bytes where they lie, if the worker was given such links; the last one goes by the API. A source
    that sends nothing new for `patience_seconds` is away.
    """

    folder: Path
    files: list[FileFacts]
    patience_seconds: float
    repository: Repository | None
    ways: list[dict[str, str]]


class End(BaseModel):
    """Why the files are not all there; null: they are."""

    error: str | None
