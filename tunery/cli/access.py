"""Which service a command talks to, and with which key. Every client is made here: nothing is sent
to an address that nobody named, and nothing to OpenAI.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    OpenAI,
    OpenAIError,
)

from tunery.cli import profile
from tunery.cli.env_files import read_env

OPENAI_HOSTS = re.compile(r"(.+\.)?openai\.com|.+\.openai\.azure\.com")
NOBODY = (
    "No service is known here. Start one with `tunery up`, log in to yours with `tunery login "
    "URL`, or set TUNERY_URL and TUNERY_KEY."
)


class NoAccess(Exception):
    """No address or no key that may be used; the message says what to do."""


@dataclass(frozen=True)
class Access:
    """`url` ends in /v1. The last two say where it and the key come from."""

    url: str
    key: str = field(repr=False)
    url_from: str = "the command line"
    key_from: str = "the command line"

    def client(self) -> OpenAI:
        # A proxy that the shell names is the way to other machines. It has no business with what
        # stays on this one.
        http = DefaultHttpxClient(trust_env=not is_local(self.url))
        return OpenAI(base_url=self.url, api_key=self.key, http_client=http)

    def asking_client(self) -> AsyncOpenAI:
        """For somebody who waits in front of it: a refusal comes at once, and is not sent again."""
        http = DefaultAsyncHttpxClient(trust_env=not is_local(self.url))
        return AsyncOpenAI(base_url=self.url, api_key=self.key, http_client=http, max_retries=0)


@contextmanager
def service(*, admin: bool = False) -> Iterator[OpenAI]:
    """A client of the service; with the `admin` key where there is one. What goes wrong with it, or
    with a file, ends the command with a sentence.
    """
    try:
        access = find(admin=admin)
    except (NoAccess, profile.BrokenProfile) as error:
        sys.exit(f"tunery: {error}")
    try:
        with access.client() as client:
            yield client
    except OpenAIError as error:
        sys.exit(f"tunery: {in_words(error, access)}")
    except OSError as error:
        sys.exit(f"tunery: {error}")


def find(*, admin: bool = False) -> Access:
    """What the shell names for Tunery, else the profile, else what it names for OpenAI's SDK: there
    OPENAI_API_KEY alone is not enough, because it is OpenAI's.

    Raises:
        NoAccess: nothing is named, half of it, or an address that cannot be meant.
        BrokenProfile: the profile cannot be read.

    """
    kept = None if shell("TUNERY_URL") and not admin else profile.read()
    if given := shell("TUNERY_URL"):
        url_name, key_name, key = "TUNERY_URL", "TUNERY_KEY", shell("TUNERY_KEY")
    elif shell("TUNERY_KEY"):
        raise NoAccess("TUNERY_KEY is set and TUNERY_URL is not: for which service is it?")
    elif kept:
        given, key, url_name = kept.url, kept.key, str(profile.path())
        key_name = url_name
    elif given := shell("OPENAI_BASE_URL"):
        url_name, key_name, key = "OPENAI_BASE_URL", "OPENAI_API_KEY", shell("OPENAI_API_KEY")
    else:
        unused = " OPENAI_API_KEY alone is not used: it may be for OpenAI."
        raise NoAccess(NOBODY + (unused if shell("OPENAI_API_KEY") else ""))
    url = url_of(given, url_name)
    if admin and shell("TUNERY_ADMIN_KEY"):
        key, key_name = shell("TUNERY_ADMIN_KEY"), "TUNERY_ADMIN_KEY"
    elif admin and kept and kept.data_dir and kept.url == url:
        key, key_name = admin_key_of(kept.data_dir) or key, str(kept.data_dir / "server.env")
    if not key:
        raise NoAccess(f"{url_name} is set and {key_name} is not: set it to a key of that service.")
    return Access(url, key_of(key, key_name), url_name, key_name)


def shell(name: str) -> str:
    return os.environ.get(name, "").strip()  # noqa: TID251


def key_of(text: str, name: str) -> str:
    """Raises `NoAccess` for what no header can hold."""
    if not re.fullmatch(r"[!-~]+", text):
        raise NoAccess(f"{name} is not a key: it holds spaces or letters outside ASCII.")
    return text


def url_of(text: str, name: str) -> str:
    """The address with its /v1. Raises `NoAccess` if it is none, or OpenAI's."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise NoAccess(f"{name} is not an address: {text!r}. Write it as http://HOST:PORT.")
    if parts.username is not None or parts.query or parts.fragment:
        raise NoAccess(f"{name} holds more than an address. Write it as http://HOST:PORT.")
    if OPENAI_HOSTS.fullmatch(host.rstrip(".")):
        raise NoAccess(
            f"{name} is {host}, which is OpenAI. Tunery sends nothing there: name a Tunery service."
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix('/v1')}/v1"


def is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def admin_key_of(data_dir: Path) -> str | None:
    """The one that `tunery up` made for its data folder."""
    with suppress(OSError):
        return read_env(data_dir / "server.env").get("TUNERY_ADMIN_KEY")
    return None


def in_words(error: OpenAIError, access: Access) -> str:
    """A sentence that names the address."""
    if isinstance(error, APITimeoutError):
        return f"{access.url} did not answer in time. Try again."
    if isinstance(error, APIConnectionError):
        cause = str(error.__cause__ or error)
        return (
            f"{access.url} does not answer ({cause}). Is it running? The address is from "
            f"{access.url_from}."
        )
    if isinstance(error, APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        if not isinstance(body.get("message"), str):
            return f"{access.url} answers {error.status_code}, and not as Tunery does."
        told = f"{access.url} answers: {body['message']}"
        if error.status_code == 401:
            return f"{told} The key is from {access.key_from}."
        if error.status_code == 403 and "'admin'" in body["message"]:
            return f"{told} Set TUNERY_ADMIN_KEY to one that has it."
        return told
    return f"{access.url}: {error}"
