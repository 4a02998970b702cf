"""Answers: JSON as it is, and stored files, with ranges and an ETag by content."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from pydantic import BaseModel

from api.http import errors
from api.http.dependencies import Server
from api.storage import scrub
from api.tenants.places import WHOSE, in_thread
from tunery.errors import BytesDamaged, BytesGone

T = TypeVar("T")

# For /openapi.json.
STORED_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The bytes"},
    302: {"description": "The bytes are in object storage, where the link leads"},
    206: {"content": {"application/octet-stream": {}}, "description": "The bytes of the range"},
    304: {"description": "The client has them: `If-None-Match` names this content"},
    **errors.documented(416),
}


def in_json(answer: BaseModel) -> Response:
    """An answer as it is. FastAPI would check it once more and turn to another thread for that,
    which counts where many ask often.
    """
    return Response(answer.model_dump_json(), media_type="application/json")


def follows(request: Request) -> bool:
    """A script in a browser may read no other server's answer, unless that one says so; whoever
    saves a file there, and every program, follows a link.
    """
    fetched = request.headers.get("sec-fetch-mode", "navigate")
    return fetched == "navigate" or "sec-fetch-site" not in request.headers


class StoredFile(FileResponse):
    # Starlette's 64 KiB chunks cost four times the CPU.
    chunk_size = 1 << 20


async def proven(server: Server, key: str, digest: str) -> None:
    """As `Storage.prove`, without keeping others waiting."""
    await of_storage(server, key, digest, server.storage.prove)


async def of_storage(server: Server, key: str, digest: str, ask: Callable[[str, str], T]) -> T:
    """The answer, without keeping others waiting. What is found wrong is noted."""
    try:
        return await server.proofs.run(WHOSE.get(), partial(ask, key, digest))
    except (BytesGone, BytesDamaged) as error:
        await in_thread(scrub.note, server.db, key, error)
        raise


async def stored_file(
    request: Request, server: Server, key: str, *, name: str, digest: str, direct: bool = True
) -> Response:
    """200, 206 for a range, 302 to where the bytes lie unless they are not to come `direct`ly, or
    304 when the client has this very content, whose SHA-256 is `digest`: no other leaves. `name` is
    a user's: who saves the file under it must not end up in another folder. Raises as
    `Storage.prove`.
    """
    etag = f'"{digest}"'
    known = request.headers.get("if-none-match", "").split(",")
    if any(tag.strip() in {etag, "*"} for tag in known):
        return Response(status_code=304, headers={"etag": etag})
    await proven(server, key, digest)
    link = server.storage.link_for_user(key, name) if direct and follows(request) else None
    if link:
        return RedirectResponse(link, 302, headers={"cache-control": "no-store"})
    path = await of_storage(server, key, digest, server.storage.local)
    return StoredFile(
        path,
        media_type="application/octet-stream",
        filename=re.sub(r"[/\\]", "_", name),
        headers={"etag": etag},
    )
