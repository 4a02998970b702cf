"""`python -m worker.bases.fetch`: fetches the files of a base model into a folder. A child of the
agent, which may be ended at any moment; the next one goes on from the bytes that are there.

It takes an `Order` as a line on stdin, which its agent keeps open for as long as it lives, and
prints an `End`.
"""

import hashlib
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from tunery import hub, privileges
from tunery.errors import HubAway, TuneryError
from tunery.facts import FileFacts
from worker.bases.order import End, Order, Repository

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
# The service reads a file through before it sends the first byte.
PROOF_SECONDS = 300.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
PART = ".part"


@dataclass(frozen=True)
class Place:
    """Where a file's bytes are sent from, just now."""

    url: str
    headers: dict[str, str]


class NotThese(TuneryError):
    """The source has other bytes than were registered."""


class Unreachable(Exception):
    """The source did not answer, or broke off: trying again may help; of one that `refuses` it does
    not.
    """

    def __init__(self, why: str, pause: float = 0, *, refuses: bool = False) -> None:
        super().__init__(why)
        self.pause = pause
        self.refuses = refuses


def main() -> None:
    privileges.shut()
    privileges.give_up()
    order = Order.model_validate_json(sys.stdin.readline())
    threading.Thread(target=die_with_agent, daemon=True).start()
    # Links that are signed are nobody's business.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    end = End(error=None)
    read = READ_SECONDS if order.repository else PROOF_SECONDS
    timeout = httpx.Timeout(read, connect=CONNECT_SECONDS)
    try:
        with httpx.Client(timeout=timeout, follow_redirects=True) as http:
            for file in sorted(order.files, key=lambda file: file.bytes):
                fetch(http, order, file)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        end = End(error=in_words(error, order))
    sys.stdout.write(end.model_dump_json())
    sys.stdout.flush()
    os._exit(0)


def die_with_agent() -> None:
    sys.stdin.read()
    os._exit(1)


def in_words(error: Exception, order: Order) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"It cannot be written to the worker's disk: {error.strerror}."
    it = order.repository
    if it is None:
        told = error.message if isinstance(error, TuneryError) else type(error).__name__
        return f"From the service's storage: {told}"
    return hub.in_words(error, it.name, it.endpoint, has_token=it.token is not None).message


def place_of(order: Order, file: FileFacts) -> Place:
    if order.repository is None:
        return Place(url=order.ways[0][file.name], headers={})
    return on_hub(order.repository, file)


def on_hub(it: Repository, file: FileFacts) -> Place:
    """A hub sends large files from elsewhere, by a link of an hour or so: it is asked each time.
    Only the hub itself is told the token.
    """
    url = hf_hub_url(it.name, file.name, revision=it.revision, endpoint=it.endpoint)
    token = it.token or False
    try:
        found = get_hf_file_metadata(url, token=token, endpoint=it.endpoint)
    except HfHubHTTPError as error:
        if error.response.status_code == 429 or error.response.status_code >= 500:
            raise Unreachable(f"HTTP {error.response.status_code}", pause_of(error)) from error
        raise
    except Exception as error:
        if hub.is_network(error):
            raise Unreachable(type(error).__name__) from error
        raise
    if found.commit_hash is None:
        raise ValueError("no commit")
    # A mirror may lead to the public hub.
    trusted = {origin(it.endpoint), origin(hub.PUBLIC)}
    known = it.token and origin(found.location) in trusted
    headers = {"authorization": f"Bearer {it.token}"} if known else {}
    return Place(url=found.location, headers=headers)


def origin(url: str) -> tuple[str, bytes]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.netloc


def pause_of(error: HfHubHTTPError) -> float:
    told = error.response.headers.get("retry-after", "")
    return float(told) if told.isdigit() else 0


def fetch(http: httpx.Client, order: Order, file: FileFacts) -> None:
    """One file, whole and compared with what was registered. What is there already is not fetched
    again.

    Raises:
        NotThese: the source has other bytes.
        HubAway: it does not go on sending.
        OSError: the disk does not take it.

    """
    whole, part = order.folder / file.name, order.folder / f"{file.name}{PART}"
    if whole.exists():
        return
    for again in (True, False):
        resumed = part.exists()
        receive(http, order, file, part)
        if digest_of(part) == file.sha256:
            break
        part.unlink()
        if not (again and resumed):
            raise NotThese(f"{file.name} has another content there than was registered.")
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.rename(whole)


def receive(http: httpx.Client, order: Order, file: FileFacts, part: Path) -> None:
    """Until all bytes are there, and tries again for as long as some still come. Where one way does
    not lead there, the rest comes by the next one.
    """
    part.touch()
    until, pause = time.monotonic() + order.patience_seconds, FIRST_PAUSE_SECONDS
    while (size := part.stat().st_size) < file.bytes:
        try:
            go_on(http, place_of(order, file), file, part)
            continue
        except Unreachable as error:
            trouble = error
        except httpx.TransportError as error:
            unconnected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            trouble = Unreachable(type(error).__name__, refuses=unconnected)
        now = time.monotonic()
        if part.stat().st_size > size:
            until, pause = now + order.patience_seconds, FIRST_PAUSE_SECONDS
        wait = max(pause, trouble.pause)
        if (trouble.refuses or now + wait > until) and len(order.ways) > 1:
            order.ways.pop(0)
            until, pause = now + order.patience_seconds, FIRST_PAUSE_SECONDS
            continue
        if now + wait > until:
            raise HubAway(f"{file.name} cannot be fetched just now ({trouble}).")
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def go_on(http: httpx.Client, place: Place, file: FileFacts, part: Path) -> None:
    """Adds what the source sends of the file from where the part ends."""
    start = part.stat().st_size
    headers = {**place.headers, "accept-encoding": "identity"}
    if start:
        headers["range"] = f"bytes={start}-"
    with http.stream("GET", place.url, headers=headers) as response, part.open("r+b") as written:
        if response.status_code == 416:
            written.truncate(0)
            raise Unreachable("it has no such range")
        if not response.is_success:
            refuses = response.status_code < 500
            raise Unreachable(f"HTTP {response.status_code}", refuses=refuses)
        from_start = response.status_code != 206
        if not from_start and not is_from(response, start):
            raise Unreachable("it sent another range")
        written.seek(0 if from_start else start)
        written.truncate()
        size = written.tell()
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > file.bytes:
                written.truncate(0)
                raise NotThese(f"{file.name} is larger there than was registered.")
            written.write(chunk)
    if size < file.bytes:
        raise Unreachable("it broke off")


def is_from(response: httpx.Response, start: int) -> bool:
    told: str = response.headers.get("content-range", "")
    return told.startswith(f"bytes {start}-")


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
