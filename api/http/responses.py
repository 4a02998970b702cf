"""Answers: JSON as it is, and stored files, with ranges and an ETag by content."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from api.http import errors
from api.http.dependencies import Server
from api.storage import scrub
from api.tenants.places import WHOSE, in_thread
from tunery.errors import BytesDamaged, BytesGone

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


async def proven(server: Server, key: str, digest: str) -> Path:
    """As `Storage.prove`, without keeping others waiting."""
    try:
        prove = partial(server.storage.prove, key, digest)
        return await server.proofs.run(WHOSE.get(), prove)
    except (BytesGone, BytesDamaged) as error:
        await in_thread(scrub.note, server.db, key, error)
        raise


async def stored_file(
    request: Request, server: Server, key: str, *, name: str, digest: str
) -> Response:
    """200, 206 for a range, or 304 when the client has this very content, whose SHA-256 is
    `digest`: no other leaves. `name` is a user's: who saves the file under it must not end up in
    another folder. Raises as `Storage.prove`.
    """
    etag = f'"{digest}"'
    known = request.headers.get("if-none-match", "").split(",")
    if any(tag.strip() in {etag, "*"} for tag in known):
        return Response(status_code=304, headers={"etag": etag})
    path = await proven(server, key, digest)
    return StoredFile(
        path,
        media_type="application/octet-stream",
        filename=re.sub(r"[/\\]", "_", name),
        headers={"etag": etag},
    )
