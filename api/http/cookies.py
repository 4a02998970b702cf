"""The console's cookie: a session's key, where no script can read it. The browser sends it by
itself, so what changes something needs a header beside it, which no other site's page can send.
"""

from fastapi import Request, Response

from tunery.errors import Conflict, Forbidden

NAME = "tunery_session"
# Of a browser that has gone to the provider to sign in; only what ends that reads it.
BEGUN, BEGUN_PATH, BEGUN_SECONDS = "tunery_sign_in", "/ui/oidc", 15 * 60
HEADER = "x-tunery-console"
READS = {"GET", "HEAD"}
# The header may say the id of the project that the page shows.
OF_PROJECT = "proj_"


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


def require_shown(request: Request, project_id: str) -> None:
    """Raises `Conflict` for a page of another project than the session is in by now."""
    shown = request.headers.get(HEADER, "")
    if shown.startswith(OF_PROJECT) and shown != project_id and request.method not in READS:
        raise Conflict(
            "This window shows another project than the one that you have gone to since. Reload it."
        )


def give(request: Request, response: Response, key: str, *, seconds: int) -> None:
    response.set_cookie(
        NAME,
        key,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=is_encrypted(request),
    )


def take(response: Response) -> None:
    response.delete_cookie(NAME, httponly=True, samesite="strict")


def give_begun(request: Request, response: Response, sealed: str) -> None:
    response.set_cookie(
        BEGUN,
        sealed,
        max_age=BEGUN_SECONDS,
        path=BEGUN_PATH,
        httponly=True,
        samesite="strict",
        secure=is_encrypted(request),
    )


def take_begun(response: Response) -> None:
    response.delete_cookie(BEGUN, path=BEGUN_PATH, httponly=True, samesite="strict")


def is_encrypted(request: Request) -> bool:
    """A proxy in front may speak HTTPS without our knowing; a browser says where its page is
    from.
    """
    return request.headers.get("origin", str(request.url)).startswith("https:")
