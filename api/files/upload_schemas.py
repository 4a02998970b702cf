"""Files that come in parts."""

from typing import Annotated, Literal

from pydantic import Field

from api.files.schemas import ColumnNames, ExpiresAfter, FileObject, SentName
from api.http.shapes import FileName, Request, Word, seconds
from api.tables import Upload, UploadPart
from tunery.fields import Bytes, CreatedAt, Described, Kind, UnixTime

MOST_PARTS = 10_000


PART_ID = Field(description="Id of the part.", examples=["part_RTvetw0tESulEETldq8b8Vw2"])
UploadId = Annotated[
    str, Field(description="Id of the upload.", examples=["upload_89Sm995ytbxAk7jqevt0MLaM"])
]
WholeBytes = Annotated[Bytes, Field(description="Size of the whole file in bytes.")]
PURPOSE = Field(description="What the file is for: always `fine-tune`.", examples=["fine-tune"])


class CreateUpload(Request):
    """A file to upload in parts."""

    filename: Annotated[FileName, Field(examples=["cows.jsonl"])]
    """Name of the file, at most 255 bytes in UTF-8."""
    purpose: Annotated[Word, PURPOSE]
    bytes: Annotated[WholeBytes, Field(ge=1, lt=2**63, strict=True)]
    mime_type: Annotated[Word, Field(examples=["application/jsonl"])]
    """As OpenAI's API requires it. It is ignored: the content of the file decides."""
    expires_after: ExpiresAfter | None = None
    """When the file is deleted automatically; null: never."""
    columns: ColumnNames | None = None
    """The file's own names for the fields of a row, by ours; null: they have our names."""


class CompleteUpload(Request):
    """The parts that make up the file."""

    part_ids: Annotated[list[Annotated[Word, PART_ID]], Field(min_length=1, max_length=MOST_PARTS)]
    """Ids of the parts, in the order of their bytes in the file."""
    md5: (
        Annotated[
            str,
            Field(
                max_length=32,
                pattern=r"^[0-9a-fA-F]{32}$",
                examples=["9b9570b53c70670a92b758ec1eff8d6e"],
            ),
        ]
        | None
    ) = None
    """MD5 of the whole file in hex, to be verified; null: it is not verified."""


class UploadObject(Described):
    """A file that comes in parts."""

    id: UploadId
    object: Kind[Literal["upload"]] = "upload"
    bytes: WholeBytes
    created_at: CreatedAt
    expires_at: UnixTime
    """When the upload expires unless it is completed, in Unix seconds (UTC)."""
    filename: SentName
    purpose: Annotated[str, PURPOSE]
    status: Annotated[str, Field(examples=["pending"])]
    """`pending`, `completed`, `cancelled` or `expired`."""
    file: FileObject | None
    """The file that the parts made; null until the upload is completed."""

    @classmethod
    def of(cls, upload: Upload, file: FileObject | None = None) -> "UploadObject":
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=seconds(upload.created_at),
            expires_at=seconds(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.state,
            file=file,
        )


class PartObject(Described):
    """A part of an upload."""

    id: Annotated[str, PART_ID]
    object: Kind[Literal["upload.part"]] = "upload.part"
    created_at: CreatedAt
    upload_id: UploadId

    @classmethod
    def of(cls, part: UploadPart) -> "PartObject":
        return cls(id=part.id, created_at=seconds(part.created_at), upload_id=part.upload_id)
