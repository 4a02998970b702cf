"""What a worker says of a completion, to be told on in OpenAI's words."""

import json
from collections.abc import AsyncIterator
from typing import Any

from api.serving.sse import Writer
from tunery.completions import (
    ChoiceEnd,
    CompletionPart,
    Piece,
    TokenChance,
    TokenSaid,
    ToolCall,
    Usage,
)

USAGE = Usage(prompt_tokens=5, completion_tokens=3)
TEXTS = ("Ahoy", ", mate")
CALLS = [
    ToolCall(name="weather", arguments='{"city": "Oslo"}'),
    ToolCall(name="time", arguments="{}"),
]


def token(text: str, logprob: float | None = -0.5) -> TokenSaid:
    data = [*text.encode()]
    likeliest = [TokenChance(text=text, bytes=data, logprob=logprob)]
    return TokenSaid(id=1, text=text, bytes=data, logprob=logprob, top=likeliest)


def parts_of(
    *pieces: Piece, reason: str = "stop", choices: tuple[int, ...] = (0,)
) -> list[CompletionPart]:
    """A part for each piece, an empty one, which only keeps the lease, and the end."""
    ends = [ChoiceEnd.model_validate({"choice": n, "reason": reason}) for n in choices]
    said = [CompletionPart(number=n, pieces=[piece]) for n, piece in enumerate(pieces)]
    count = len(pieces)
    last = CompletionPart(number=count + 1, ends=ends, usage=USAGE)
    return [*said, CompletionPart(number=count), last]


def spoken(*, reason: str = "stop", choices: tuple[int, ...] = (0,)) -> list[CompletionPart]:
    pieces = [
        Piece(choice=choice, text=text, tokens=[token(text)])
        for text in TEXTS
        for choice in choices
    ]
    return parts_of(*pieces, reason=reason, choices=choices)


def called() -> list[CompletionPart]:
    return parts_of(Piece(text="Let me see."), Piece(tool_calls=CALLS), reason="tool_calls")


async def as_they_come(parts: list[CompletionPart]) -> AsyncIterator[CompletionPart]:
    for part in parts:
        yield part


def events_of(writer: Writer, parts: list[CompletionPart]) -> list[dict[str, Any]]:
    """The data of all events but `[DONE]`."""
    written = [each for part in parts for each in writer.said(part)] + [*writer.ended()]
    return data_of(b"".join(written))


def data_of(written: bytes) -> list[dict[str, Any]]:
    lines = written.decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]
