"""/: the console, a page that stands on /v1. /ui: its files, and its sessions."""

from functools import cache
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from api.http import cookies
from api.http.dependencies import AServer
from api.http.routing import LinkRoute
from api.http.shapes import Request as Body
from api.http.shapes import Word
from api.tenants import sessions
from api.tenants.schemas import MeObject
from api.ui.assets import FOLDER, FOREVER, Assets
from tunery.errors import InvalidRequest, NotFound

# Not of the API: it may change with the page that uses it.
router = APIRouter(route_class=LinkRoute, include_in_schema=False)


@cache
def assets() -> Assets:
    return Assets(FOLDER)


@router.get("/")
async def page(request: Request) -> Response:
    """Returns the console."""
    return assets().page.answer(request, cached="no-cache")


@router.get("/ui/{version}/{name:path}")
async def asset(version: str, name: str, request: Request) -> Response:
    """Returns one of the console's files."""
    found = assets().by_name.get(name)
    if found is None or version != assets().version:
        raise NotFound("The console has no such file in this version of the service. Reload it.")
    return found.answer(request, cached=FOREVER)


class SignIn(Body):
    """What somebody shows to sign in: an API key, or the code of a link."""

    key: Annotated[Word | None, Field(min_length=1)] = None
    code: Annotated[Word | None, Field(min_length=1)] = None


# Whoever has no key yet makes the service read no more than a key takes.
@router.post("/ui/session", max_body_size=4 << 10)
async def sign_in(asked: SignIn, request: Request, server: AServer) -> Response:
    """Opens a session. Its key goes into a cookie, and is in no answer."""
    # Else another site's page could sign its reader in to a project of its own choice.
    cookies.require_header(request)
    if (asked.key is None) == (asked.code is None):
        raise InvalidRequest("Sign in with `key` or with `code`.", param="key")
    opened = await server.sign_in(request, asked.key, asked.code)
    answer = JSONResponse(MeObject.of(opened.caller).model_dump())
    cookies.give(request, answer, opened.key, seconds=sessions.HOURS * 3600)
    return answer


@router.delete("/ui/session")
async def sign_out(request: Request, server: AServer) -> Response:
    """Ends the session."""
    answer = Response(status_code=204)
    if key := cookies.key_of(request):
        await server.sign_out(request, key)
    cookies.take(answer)
    return answer
