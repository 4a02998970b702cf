"""/storage: bytes by way of the API, for links that `api.storage.storage` signs. They need no
key.
"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from api.http.dependencies import AServer
from api.http.edge import ANY_SIZE
from api.http.responses import STORED_FILE, stored_file
from api.http.routing import LinkRoute
from api.tenants.places import WHOSE
from tunery.errors import Busy, InvalidRequest, RateLimited

router = APIRouter(prefix="/storage", route_class=LinkRoute, tags=["For workers"])

Key = Annotated[str, Path(description="Where the bytes lie in storage.")]
Until = Annotated[int, Query(description="When the link ends, in Unix seconds (UTC).")]
Digest = Annotated[str, Query(description="SHA-256 of the bytes, 64 lowercase hex digits.")]
Signature = Annotated[str, Query(description="The server's signature of the link.")]


@router.get("/{key:path}", response_class=Response, responses=STORED_FILE)
async def download(
    key: Key, until: Until, sha256: Digest, signature: Signature, request: Request, server: AServer
) -> Response:
    """Returns stored bytes by a signed link."""
    server.storage.verify_link("GET", key, until, signature, sha256)
    name = key.rpartition("/")[2]
    return await stored_file(request, server, key, name=name, digest=sha256, direct=False)


@router.put("/{key:path}", status_code=204, max_body_size=ANY_SIZE)
async def upload(
    key: Key,
    until: Until,
    size: Annotated[int, Query(ge=0, description="Bytes that the link was made for.")],
    sha256: Digest,
    signature: Signature,
    request: Request,
    server: AServer,
) -> None:
    """Takes the very bytes the link was made for. Idempotent."""
    server.storage.verify_link("PUT", key, until, signature, size, sha256)
    with server.storage.receive(limit=size) as incoming:
        async for chunk in request.stream():
            incoming.write(chunk)
        if incoming.digest != sha256:
            raise InvalidRequest(f"The {incoming.size:,} bytes sent are not those announced.")
        try:
            await server.keeps.run(WHOSE.get(), partial(incoming.keep, key))
        except RateLimited as error:  # which a worker would take for a refusal
            raise Busy(error.message) from error
