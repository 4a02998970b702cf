"""Answers: JSON as it is, and stored files, with ranges and an ETag by content."""

import re
from typing import Any

from fastapi import Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from api.http import errors
from api.storage import Storage
from tunery.errors import NotFound

# For /openapi.json.
STORED_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The bytes"},
    206: {"content": {"application/octet-stream": {}}, "description": "The bytes of the range"},
    304: {"description": "The client has them: `If-None-Match` names this content"},
    **errors.documented(416),
}


def in_json(answer: BaseModel) -> Response:
    """An answer as it is. FastAPI would check it once more and turn to another thread for that,
    which counts where many ask often.
    """
    return Response(answer.model_dump_json(), media_type="application/json")


class StoredFile(FileResponse):
    # Starlette's 64 KiB chunks cost four times the CPU.
    chunk_size = 1 << 20


def stored_file(request: Request, storage: Storage, key: str, *, name: str, etag: str) -> Response:
    """200, 206 for a range, or 304 when the client has this very content. `etag` names it. `name`
    is a user's: who saves the file under it must not end up in another folder.
    """
    etag = f'"{etag}"'
    known = request.headers.get("if-none-match", "").split(",")
    if any(tag.strip() in {etag, "*"} for tag in known):
        return Response(status_code=304, headers={"etag": etag})
    path = storage.path(key)
    if not path.exists():
        raise NotFound("The file's bytes are gone from storage.", code="content_gone")
    return StoredFile(
        path,
        media_type="application/octet-stream",
        filename=re.sub(r"[/\\]", "_", name),
        headers={"etag": etag},
    )
