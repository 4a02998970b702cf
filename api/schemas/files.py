"""Files."""

from typing import Literal

from pydantic import BaseModel

from api.schemas.shapes import OrAbsent, seconds
from api.tables import File


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
            sha256=file.sha256,
        )
