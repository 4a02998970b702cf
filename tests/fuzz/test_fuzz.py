"""0 answers of 5xx and 0 that /openapi.json does not document, whatever is sent and by whom.

A short round that is the same each time; `--fuzz N` (make fuzz) is a long one, N cases to a route,
and prints a table.
"""

import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from api.db.session import Database
from tests.answering_worker import AnsweringWorker
from tests.conformance.life import CHECKED_AT_ONCE
from tests.conftest import Served
from tests.fuzz import hostile
from tests.fuzz.judge import Judge
from tests.fuzz.world import World
from worker.client import Client

# Cases to a route in a short round: of ours, and twice half of schemathesis's.
FEW = 3


@dataclass
class Round:
    """What was sent and what came of it, by operation."""

    world: World
    cases: int
    dice: Random
    sent: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    faults: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judge = Judge(self.world.document)
        self.http = httpx.Client(base_url=self.world.server.url, timeout=120)

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, methods in self.world.document["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def some(self, asked: list[Any]) -> list[Any]:
        return self.dice.sample(asked, min(self.cases, len(asked)))

    def send(self, method: str, path: str, address: str, **sent: Any) -> httpx.Response:
        """Sends it as one of the callers, and judges the answer; `path` is the route's."""
        headers = sent.pop("headers", {}) | self.world.authorization(path, self.dice)
        # As it is: httpx would take the dots out of a path.
        target = {"target": address.encode()}
        request = self.http.build_request(method, "/", headers=headers, extensions=target, **sent)
        answer = self.receive(request)
        name = f"{method} {path}"
        self.sent[name][answer.status_code] += 1
        operation = self.world.document["paths"][path][method.lower()]
        for fault in self.judge.faults(operation, answer):
            self.blame(name, fault, f"{method} {address} {request.content[:300]!r}")
        return answer

    def receive(self, request: httpx.Request) -> httpx.Response:
        answer = self.http.send(request, stream=True)
        if answer.headers.get("x-accel-buffering") == "no":
            answer.close()  # it would go on for as long as the job does
            return httpx.Response(answer.status_code, headers=answer.headers, request=request)
        answer.read()
        return answer

    def blame(self, name: str, fault: str, asked: str) -> None:
        self.faults.setdefault((name, fault), asked)

    def table(self) -> str:
        lines = [f"{'cases':>7}  answers"]
        for name, statuses in sorted(self.sent.items()):
            told = ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items()))
            lines.append(f"{statuses.total():7}  {name}: {told}")
        total = sum(statuses.total() for statuses in self.sent.values())
        return "\n".join([*lines, f"{total} cases, {len(self.faults)} faults"])


@pytest.fixture
def fuzzing(
    serve_with: Callable[..., Served], db: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Round]:
    asked = request.config.getoption("--fuzz")
    server = serve_with(check_at_once_bytes=CHECKED_AT_ONCE, webhooks_to_private_addresses=True)
    worker = Client(server.url, server.worker_key)
    seed = int(time.time()) if asked else 0
    found = Round(World(server, worker, tmp_path, db), asked or FEW, Random(seed))
    with AnsweringWorker(server):
        yield found
    found.http.close()
    worker.http.close()
    print(f"\n{found.table()}, seed {seed}")  # noqa: T201


def test_whatever_is_sent_the_answer_is_a_documented_one(fuzzing: Round) -> None:
    send_what_schemathesis_makes(fuzzing)
    send_what_is_hostile(fuzzing)
    told = [f"{name}: {fault}\n    {what}" for (name, fault), what in fuzzing.faults.items()]
    assert not told, "\n".join(told)
    server = fuzzing.world.server
    for text in hostile.RAW:
        assert not write_raw(server.url, text).startswith(b"HTTP/1.1 5")
    assert fuzzing.http.get("/healthz").status_code == 200
    kept = {path.relative_to(server.settings.folder) for path in server.settings.folder.rglob("*")}
    assert not [path for path in kept if "passwd" in path.name or "canary" in path.name]


def send_what_schemathesis_makes(fuzzing: Round) -> None:
    # Without the bearer: else most of its wrong requests are such as lack a key.
    document = deepcopy(fuzzing.world.document)
    for methods in document["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        fuzzing.world.lend_for(operation.path)
        for mode in GenerationMode:

            @settings(
                max_examples=fuzzing.cases // 2,
                derandomize=fuzzing.cases == FEW,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                verbosity=Verbosity.quiet,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Case[Any]) -> None:
                send_case(fuzzing, case)

            try:
                send()
            except Unsatisfiable:  # there is no wrong way to ask this
                continue


def send_case(fuzzing: Round, case: Case[Any]) -> None:
    world, dice = fuzzing.world, fuzzing.dice
    # In a form every value is a text, and so none is of a wrong type.
    wrong = case.media_type == "application/json" and any(
        place.value == "body" and part.mode.is_negative
        for place, part in (case.meta.components if case.meta else {}).items()
    )
    case.path_parameters = world.mix(case.path_parameters, dice)
    if isinstance(case.body, dict) and not wrong:
        case.body = world.mix(case.body, dice)
    case.query |= {name: 0 for name in ("wait", "follow") if name in case.query}
    made = requests.Request(**case.as_transport_kwargs(base_url="http://x")).prepare()
    answer = fuzzing.send(
        case.method,
        case.path,
        (made.url or "").removeprefix("http://x"),
        headers={name: value for name, value in made.headers.items() if name != "Content-Length"},
        content=made.body,
    )
    if wrong and answer.is_success:
        asked = f"{case.method} {case.path} {case.body!r}"
        fuzzing.blame(f"{case.method} {case.path}", "takes what its schema refuses", asked)


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


def write_raw(url: str, text: bytes) -> bytes:
    """What the server answers within half a second."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=0.5) as wire:
        try:
            wire.sendall(text)
            return wire.recv(100)
        except (TimeoutError, ConnectionError):
            return b""
