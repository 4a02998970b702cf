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
    TokenChance,
    TokenSaid,
    ToolCall,
    Usage,
)
from tunery.errors import LeaseLost
from worker.client import Client

Answer = Callable[[CompletionLease], Iterable[CompletionPart]]


def claim_of(name: str = "w1", **settings: Any) -> CompletionClaim:
    """Of a worker with the tiny base in its memory."""
    warm = {"warm_base": BASE, "warm_quantization": "none"}
    return CompletionClaim.model_validate(worker_facts(name).model_dump() | warm | settings)


def says(*texts: str, n: int = 1) -> list[CompletionPart]:
    """`n` times the same answer in so many parts, each a token."""
    parts = [
        CompletionPart(
            number=number, pieces=[Piece(choice=choice, text=text) for choice in range(n)]
        )
        for number, text in enumerate(texts)
    ]
    usage = Usage(prompt_tokens=7, completion_tokens=n * len(texts))
    ends = [ChoiceEnd(choice=choice, reason="stop") for choice in range(n)]
    return [*parts, CompletionPart(number=len(texts), ends=ends, usage=usage)]


def greet(lease: CompletionLease) -> list[CompletionPart]:
    return says("Hello", " there", ".", n=lease.sampling.n)


def speaks(lease: CompletionLease) -> list[CompletionPart]:
    """As `greet`, with log-probabilities, and with a call in a conversation that has tools."""
    text = TokenChance(text="Hello", bytes=[*b"Hello"], logprob=-0.5)
    token = TokenSaid(**text.model_dump(), id=1, top=[text])
    first, *others = greet(lease)
    for piece in first.pieces:
        piece.tokens = [token]
        if lease.prompt.type == "chat" and lease.prompt.tools:
            piece.tool_calls = [ToolCall(name="weather", arguments="{}")]
    return [first, *others]


# Of whoever asks: those that wait for its transaction.
LOCKS_WAITED_FOR = (
    "SELECT count(*) FROM pg_locks "
    "WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
)


def wait_until(what: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


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
