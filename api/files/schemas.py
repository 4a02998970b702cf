"""Files."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.http.shapes import OrAbsent, Request, seconds
from api.tables import File


class ExpiresAfter(Request):
    """Between an hour and 30 days after a file was created."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000, strict=True)]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: OrAbsent[str]
    expires_at: OrAbsent[int] = None
    sha256: str

    @classmethod
    def of(cls, file: File) -> "FileObject":
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
        )
