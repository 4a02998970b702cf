"""One round of requests: what was sent and what came of it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.fuzz.judge import Judge
from tests.fuzz.world import World


@dataclass
class Round:
    """By operation."""

    world: World
    cases: int
    seed: int
    sent: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    faults: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)
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
