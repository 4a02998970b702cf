"""/: the console, a page that stands on /v1. /ui: its files, and its sessions."""

from functools import cache
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import AfterValidator, Field

from api.http import cookies
from api.http.dependencies import AServer
from api.http.routing import LinkRoute, ReturnRoute
from api.http.shapes import Request as Body
from api.http.shapes import Word, storable
from api.tenants import sessions
from api.tenants.schemas import MeObject, NewKeyObject
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
    return opened_as(request, opened, seconds=sessions.HOURS * 3600)


def opened_as(request: Request, opened: sessions.Opened, *, seconds: float) -> Response:
    answer = JSONResponse(MeObject.of(opened.caller).model_dump())
    cookies.give(request, answer, opened.key, seconds=int(seconds))
    return answer


class Switch(Body):
    """The project that a person goes to."""

    project_id: Annotated[Word, Field(min_length=1)]


@router.post("/ui/session/project", max_body_size=4 << 10)
async def switch(asked: Switch, request: Request, server: AServer) -> Response:
    """Goes on in another project of the person's, until the session would have ended."""
    key = cookies.key_of(request)
    if not key:
        raise InvalidRequest("Only a session of the console has a project to leave.")
    opened, left = await server.switch(request, key, asked.project_id)
    return opened_as(request, opened, seconds=left)


@router.delete("/ui/session")
async def sign_out(request: Request, server: AServer) -> Response:
    """Ends the session. A person is told where they end the one at their provider."""
    answer = Response(status_code=204)
    if key := cookies.key_of(request):
        place = await server.sign_out(request, key)
        if place:
            answer = JSONResponse({"url": place})
    cookies.take(answer)
    return answer


@router.get("/ui/oidc")
async def provider(server: AServer) -> Response:
    """Says at which provider people sign in."""
    return JSONResponse({"name": server.provider.name if server.provider else None})


@router.post("/ui/oidc")
async def begin(request: Request, server: AServer) -> Response:
    """Says where the browser goes to sign in, and has it remember that it went."""
    cookies.require_header(request)
    begun = await server.require_provider().begin()
    answer = JSONResponse({"url": begun.url})
    cookies.give_begun(request, answer, begun.sealed)
    return answer


async def callback(request: Request) -> Response:
    """The provider sends the browser back here, and the page goes on: this is another site's
    request, to which the browser shows no cookie.
    """
    known = ("code", "state", "iss", "error", "error_description")
    said = {name: request.query_params[name] for name in known if name in request.query_params}
    return RedirectResponse(f"/#/sign-in?{urlencode(said)}", 303)


router.add_api_route(
    "/ui/oidc/callback", callback, methods=["GET"], route_class_override=ReturnRoute
)


class SignInDone(Body):
    """What the provider sent the browser back with."""

    code: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(storable)]
    state: Annotated[Word, Field(min_length=1)]
    iss: Word | None = None


@router.post("/ui/oidc/session", max_body_size=16 << 10)
async def finish(asked: SignInDone, request: Request, server: AServer) -> Response:
    """Opens a person's session."""
    cookies.require_header(request)
    sealed = request.cookies.get(cookies.BEGUN)
    opened = await server.finish_sign_in(request, sealed, asked.code, asked.state, asked.iss)
    seconds = server.settings.oidc_session_hours * 3600
    answer = opened_as(request, opened, seconds=seconds)
    cookies.take_begun(answer)
    return answer


class LetIn(Body):
    """A program that a person lets in: the challenge that it made (RFC 7636, S256)."""

    challenge: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]


@router.post("/ui/program", max_body_size=4 << 10)
async def let_in(asked: LetIn, request: Request, server: AServer) -> Response:
    """Gives the person's browser a code for `tunery login` on their machine."""
    key = cookies.key_of(request)
    if not key:
        raise InvalidRequest("Only a session of the console lets a program in.")
    return JSONResponse({"code": await server.let_in(request, key, asked.challenge)})


class ProgramKey(Body):
    """What the program shows that was let in."""

    code: Annotated[Word, Field(min_length=1)]
    verifier: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{43,128}$")]
    name: Annotated[Word, Field(max_length=100)]


@router.post("/ui/program/key", max_body_size=4 << 10)
async def make_key(asked: ProgramKey, request: Request, server: AServer) -> Response:
    """Makes a key of the person's for the program. It is shown this once."""
    row, key = await server.make_key(request, asked.code, asked.verifier, asked.name)
    return JSONResponse(NewKeyObject.made(row, key).model_dump())


@router.get("/ui/{version}/{name:path}")
async def asset(version: str, name: str, request: Request) -> Response:
    """Returns one of the console's files."""
    found = assets().by_name.get(name)
    if found is None or version != assets().version:
        raise NotFound("The console has no such file in this version of the service. Reload it.")
    return found.answer(request, cached=FOREVER)
