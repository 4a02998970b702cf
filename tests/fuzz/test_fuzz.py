"""0 answers of 5xx and 0 that /openapi.json does not document, whatever is sent and by whom.

A short round that is the same each time; `--fuzz N` (make fuzz) is a long one, N cases to a route,
and prints a table. Only the long one has what schemathesis makes: it takes long to make anything.
"""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.db.session import Database
from tests.answering_worker import AnsweringWorker
from tests.conformance.life import CHECKED_AT_ONCE
from tests.conftest import Served
from tests.fuzz import hostile
from tests.fuzz.round import Round
from tests.fuzz.world import World
from worker.client import Client

# Cases to a route in a short round, of each kind.
FEW = 4


@pytest.fixture
def fuzzing(
    serve_with: Callable[..., Served], db: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Round]:
    asked, seed = (request.config.getoption(name) for name in ("--fuzz", "--fuzz-seed"))
    server = serve_with(check_at_once_bytes=CHECKED_AT_ONCE, webhooks_to_private_addresses=True)
    worker = Client(server.url, server.worker_key)
    if seed is None:
        seed = int(time.time()) if asked else 0
    found = Round(World(server, worker, tmp_path, db), asked or FEW, seed)
    with AnsweringWorker(server):
        yield found
    found.http.close()
    worker.http.close()
    print(f"\n{found.table()}, seed {seed}")  # noqa: T201


def test_whatever_is_sent_the_answer_is_a_documented_one(
    fuzzing: Round, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--fuzz"):
        from tests.fuzz.made import send_what_schemathesis_makes

        send_what_schemathesis_makes(fuzzing)
    send_what_is_hostile(fuzzing)
    send_what_is_of_a_wrong_kind(fuzzing)
    told = [f"{name}: {fault}\n    {what}" for (name, fault), what in fuzzing.faults.items()]
    assert not told, "\n".join(told)
    server = fuzzing.world.server
    for text in hostile.RAW:
        assert not write_raw(server.url, text).startswith(b"HTTP/1.1 5")
    assert fuzzing.http.get("/healthz").status_code == 200
    kept = {path.relative_to(server.settings.folder) for path in server.settings.folder.rglob("*")}
    assert not [path for path in kept if "passwd" in path.name or "canary" in path.name]


def send_what_is_hostile(fuzzing: Round) -> None:
    world = fuzzing.world
    bodies = world.bodies()
    for method, path, operation in fuzzing.operations():
        world.lend_for(path)
        parameters = [
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"
        ]
        good = {name: world.known.get(name, ["x"])[-1] for name in parameters}
        asked = list(hostile.on_route(method, path, good))
        for bad in hostile.NAMES:
            texts = hostile.in_each_text(bodies.get(f"{method} {path}", ()), bad)
            asked += [(path.format(**good), {"json": body}) for body in texts]
        for address, sent in fuzzing.some(asked):
            fuzzing.send(method, path, address, **sent)
    for kind, content in fuzzing.some(list(hostile.forms())):
        headers = {"content-type": kind}
        fuzzing.send("POST", "/v1/files", "/v1/files", content=content, headers=headers)


def send_what_is_of_a_wrong_kind(fuzzing: Round) -> None:
    """Each a good body with one value replaced, so that the route's schema refuses it."""
    world = fuzzing.world
    bodies = world.bodies()
    for method, path, operation in fuzzing.operations():
        if (name := f"{method} {path}") not in bodies:
            continue
        world.lend_for(path)
        good = {known: values[-1] for known, values in world.known.items()}
        wrong = [
            body
            for kind in hostile.VALUES
            for body in hostile.in_each_place(bodies[name], kind)
            if fuzzing.judge.refuses(operation, body)
        ]
        for body in fuzzing.some(wrong):
            answer = fuzzing.send(method, path, path.format(**good), json=body)
            if answer.is_success:
                fuzzing.blame(name, "takes what its schema refuses", f"{name} {body!r}")


def write_raw(url: str, text: bytes) -> bytes:
    """What the server answers within half a second."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=0.5) as wire:
        try:
            wire.sendall(text)
            return wire.recv(100)
        except (TimeoutError, ConnectionError):
            return b""
