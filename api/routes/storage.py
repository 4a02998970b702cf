"""/storage: the local folder's own links, signed by `api.storage`. They need no key."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import AService
from api.responses import stored_file
from tunery.errors import InvalidRequest

router = APIRouter(prefix="/storage")


@router.get("/{key:path}")
def download(key: str, until: int, signature: str, request: Request, service: AService) -> Response:
    service.storage.verify_link("GET", key, until, signature)
    name = key.rpartition("/")[2]
    return stored_file(
        request,
        service.storage,
        key,
        name=name,
        etag=key,
    )


@router.put("/{key:path}", status_code=204)
async def upload(
    key: str,
    until: int,
    size: Annotated[int, Query(ge=0)],
    sha256: str,
    signature: str,
    request: Request,
    service: AService,
) -> None:
    """Takes the very bytes the link was made for. Twice is once."""
    service.storage.verify_link("PUT", key, until, signature, size, sha256)
    with service.storage.receive(limit=size) as incoming:
        async for chunk in request.stream():
            incoming.write(chunk)
        if incoming.digest != sha256:
            raise InvalidRequest(f"The {incoming.size:,} bytes sent are not those announced.")
        incoming.keep(key)
