"""A worker without an engine: it claims what is asked, and says what it is told to say."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from tests.conftest import BASE, Served
from tests.factories import worker_facts
from tunery.completions import (
    ChoiceEnd,
    CompletionClaim,
    CompletionLease,
    CompletionPart,
    Piece,
    Usage,
)
from tunery.errors import LeaseLost
from worker.client import Client

Answer = Callable[[CompletionLease], Iterable[CompletionPart]]


def claim_of(name: str = "w1", **settings: Any) -> CompletionClaim:
    """Of a worker with the tiny base in its memory."""
    warm = {"room": 8, "warm_base": BASE, "warm_quantization": "none"}
    return CompletionClaim.model_validate(worker_facts(name).model_dump() | warm | settings)


def says(*texts: str) -> list[CompletionPart]:
    """An answer of one choice in so many parts, each a token."""
    parts = [
        CompletionPart(number=number, pieces=[Piece(text=text)])
        for number, text in enumerate(texts)
    ]
    usage = Usage(prompt_tokens=7, completion_tokens=len(texts))
    return [
        *parts,
        CompletionPart(number=len(texts), ends=[ChoiceEnd(reason="stop")], usage=usage),
    ]


def greet(_: CompletionLease) -> list[CompletionPart]:
    return says("Hello", " there", ".")


class AnsweringWorker:
    """Runs in a thread, one completion after the other. `leases` are those it was given, `lost` the
    ids of those that somebody took from it. `pause` seconds lie between two parts.
    """

    def __init__(
        self, server: Served, answer: Answer = greet, *, pause: float = 0, **claim: Any
    ) -> None:
        self.client = Client(server.url, server.worker_key)
        self.answer = answer
        self.pause = pause
        self.claim = claim_of(**claim)
        self.leases: list[CompletionLease] = []
        self.lost: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.client.http.close()

    def run(self) -> None:
        while not self.ended.is_set():
            lease = self.client.claim_completion(self.claim, wait=0.5)
            if lease is None:
                continue
            self.leases.append(lease)
            try:
                for part in self.answer(lease):
                    self.client.add_part(lease, part)
                    time.sleep(self.pause)
            except LeaseLost:
                self.lost.append(lease.id)
