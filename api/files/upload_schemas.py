"""Files that come in parts."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.files.schemas import ExpiresAfter, FileObject
from api.http.shapes import FileName, Request, Word, seconds
from api.tables import File, Upload, UploadPart

MOST_PARTS = 10_000


class CreateUpload(Request):
    """`mime_type` is OpenAI's and decides nothing: the file itself says what it is."""

    filename: FileName
    purpose: Word
    bytes: Annotated[int, Field(ge=1, lt=2**63, strict=True)]
    mime_type: Word
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Request):
    """`md5` of the whole file, in hex."""

    part_ids: Annotated[list[Word], Field(min_length=1, max_length=MOST_PARTS)]
    md5: Annotated[str, Field(max_length=32, pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None

    @classmethod
    def of(cls, upload: Upload, file: File | None = None) -> "UploadObject":
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=seconds(upload.created_at),
            expires_at=seconds(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.state,
            file=FileObject.of(file) if file else None,
        )


class PartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> "PartObject":
        return cls(id=part.id, created_at=seconds(part.created_at), upload_id=part.upload_id)
