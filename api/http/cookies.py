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
    if key and request.method not in READS and HEADER not in request.headers:
        raise Forbidden(
            "This request bears the console's cookie and changes something: it needs the header "
            f"`{HEADER}: 1` too. Programs send an API key as `Authorization: Bearer KEY`."
        )
    return key


def give(request: Request, response: Response, key: str, *, seconds: int) -> None:
    response.set_cookie(
        NAME,
        key,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def take(response: Response) -> None:
    response.delete_cookie(NAME, httponly=True, samesite="strict")
