"""Signing in in a browser, for a key of one's own: the browser brings a code to an address of this
machine (RFC 8252), or somebody copies it, and only who made the challenge makes a key of it (RFC
7636).
"""

import hmac
import secrets
import socket
import sys
import time
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import typer
from rich.console import Console

from tunery import pkce
from tunery.cli.access import NoAccess, is_local

WAIT_SECONDS = 300
ANSWER_SECONDS = 30
DONE = "<!doctype html><title>Tunery</title><p>The program is let in. You can close this window."


def provider_of(url: str) -> str | None:
    """At which provider people sign in to this service; None: at none, or nobody says so."""
    try:
        answer = http(url).get("/ui/oidc")
        name = answer.json().get("name") if answer.status_code == HTTPStatus.OK else None
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


def new_key(url: str, console: Console, *, opens: bool) -> str:
    """A key of whoever signs in. `opens`: this machine's browser, which comes back by itself; else
    any browser, whose code is typed in here. Raises `NoAccess`.
    """
    verifier, name = pkce.new_verifier(), socket.gethostname()[:60]
    asked = {"challenge": pkce.challenge_of(verifier), "name": name}
    page = f"{home_of(url)}/#/program?"
    if opens:
        with Returning() as returning:
            link = page + urlencode(
                asked | {"port": returning.server_port, "state": returning.state}
            )
            console.print("Sign in in your browser. If none opens, go to:")
            console.print(link, soft_wrap=True)
            webbrowser.open(link)
            code = returning.wait()
    else:
        console.print("Sign in in a browser, let the program in, and copy the code:")
        console.print(page + urlencode(asked), soft_wrap=True)
        code = typer.prompt("Code") if sys.stdin.isatty() else sys.stdin.readline()
    return exchanged(url, code.strip(), verifier, f"tunery login on {name}")


class Returning(HTTPServer):
    """Where the browser comes back to: an address that only this machine reaches."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Return)
        self.state = secrets.token_urlsafe(16)
        self.code: str | None = None

    def wait(self) -> str:
        """The code. Raises `NoAccess` when it takes too long."""
        until = time.monotonic() + WAIT_SECONDS
        while self.code is None:
            self.timeout = until - time.monotonic()
            if self.timeout <= 0:
                raise NoAccess(f"Nobody has signed in within {WAIT_SECONDS // 60} minutes.")
            self.handle_request()
        return self.code


class Return(BaseHTTPRequestHandler):
    server: Returning
    # Whoever connects and says nothing holds up nobody for longer.
    timeout = 5

    def do_GET(self) -> None:
        said = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        ours = hmac.compare_digest(said.get("state", "").encode(), self.server.state.encode())
        if not ours or not said.get("code"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.server.code = said["code"]
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(DONE.encode())

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Nothing: a line would have the code in it."""


def exchanged(url: str, code: str, verifier: str, name: str) -> str:
    """The key that the code is good for. Raises `NoAccess`."""
    sent = {"code": code, "verifier": verifier, "name": name}
    try:
        answer = http(url).post("/ui/program/key", json=sent)
        said = answer.json()
        if answer.status_code == HTTPStatus.OK:
            return str(said["key"])
        raise NoAccess(f"{url} answers: {said['error']['message']}")
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise NoAccess(f"{url} has given no key ({error or type(error).__name__}).") from error


def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=home_of(url), timeout=ANSWER_SECONDS, trust_env=not is_local(url))


def home_of(url: str) -> str:
    """Where the console is."""
    return url.removesuffix("/v1")
