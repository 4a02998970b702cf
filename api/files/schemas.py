"""Files."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.http.shapes import OrAbsent, Request, Word, seconds
from api.tables import File
from tunery.data.columns import FIELDS, checked
from tunery.fields import (
    COLUMNS,
    CreatedAt,
    Described,
    FileBytes,
    FileId,
    Kind,
    Sha256,
    UnixTime,
)

A_FAULT = (
    "line 3: messages[1].role: the last message is from 'user'. End the row with the assistant's "
    "answer. (2 more faults; see the report)"
)
SentName = Annotated[
    str, Field(description="Name of the file as it was uploaded.", examples=["cows.jsonl"])
]


ColumnNames = Annotated[
    dict[Word, Word], Field(max_length=len(FIELDS)), AfterValidator(checked), COLUMNS
]


class ExpiresAfter(Request):
    """When a file is deleted automatically."""

    anchor: Literal["created_at"]
    """The time that `seconds` are counted from: the creation of the file."""
    seconds: Annotated[int, Field(ge=3600, le=2_592_000, strict=True, examples=[86_400])]
    """Seconds from then until the file is deleted: an hour to 30 days."""


class FileExtras(Described):
    """What is known of a file beside its name and size."""

    rows: Annotated[int, Field(examples=[1200])] | None
    """Rows that the check found; null until it has found no fault."""
    format: Annotated[str, Field(examples=["chat"])] | None
    """How its rows are spelled, as its report has it under `formats`; null like `rows`."""
    jobs: Annotated[int, Field(examples=[3])]
    """Number of jobs that train on it, or are validated on it."""


class FileObject(Described):
    """A data set, or the result file of a job."""

    id: FileId
    object: Kind[Literal["file"]] = "file"
    bytes: FileBytes
    created_at: CreatedAt
    filename: SentName
    purpose: Annotated[str, Field(examples=["fine-tune"])]
    """What the file is for: `fine-tune`, or `fine-tune-results` for the metrics of a job."""
    status: Annotated[str, Field(examples=["processed"])]
    """`uploaded`: stored, the check is still running. `processed`: no faults were found. `error`:
    its report names the faults.
    """
    status_details: OrAbsent[Annotated[str, Field(examples=[A_FAULT])]]
    """The first fault of the check, and how many more there are; left out without one."""
    expires_at: OrAbsent[UnixTime] = None
    """When the file is deleted automatically, in Unix seconds (UTC); left out if never."""
    sha256: Sha256
    columns: OrAbsent[Annotated[dict[str, str], COLUMNS]] = None
    """The file's own names for the fields of a row, by ours; left out if they have our names."""
    tunery: FileExtras
    """What else is known of it."""

    @classmethod
    def of(cls, file: File, extras: FileExtras) -> "FileObject":
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=seconds(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            expires_at=seconds(file.expires_at) if file.expires_at else None,
            sha256=file.sha256,
            columns=file.columns,
            tunery=extras,
        )
