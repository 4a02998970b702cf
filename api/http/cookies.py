"""The console's cookie: a session's key, where no script can read it. The browser sends it by
itself, so what changes something needs a header beside it, which no other site's page can send.
"""

from fastapi import Request, Response

from tunery.errors import Forbidden

NAME = "tunery_session"
HEADER = "x-tunery-console"
READS = {"GET", "HEAD"}


def key_of(request: Request) -> str | None:
    """The session's key. Raises `Forbidden` where another site's page may have sent it."""
    key = request.cookies.get(NAME)
    if key and request.method not in READS:
        require_header(request)
    return key


def require_header(request: Request) -> None:
    """Raises `Forbidden` for what another site's page may have sent."""
    if HEADER not in request.headers:
        raise Forbidden(
            "What changes something by the console's cookie, and what opens a session, needs the "
            f"header `{HEADER}: 1`. Programs send an API key as `Authorization: Bearer KEY`."
        )


def give(request: Request, response: Response, key: str, *, seconds: int) -> None:
    # A proxy in front may speak HTTPS without our knowing; a browser says where its page is from.
    origin = request.headers.get("origin", str(request.url))
    response.set_cookie(
        NAME,
        key,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=origin.startswith("https:"),
    )


def take(response: Response) -> None:
    response.delete_cookie(NAME, httponly=True, samesite="strict")
