"""Texts to go on with: from OpenAI's request to what is asked, and from what is said to OpenAI's
answer. Several prompts in one request are several completions.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

from api.ids import new_id
from api.serving.asked import Asked
from api.serving.chunks import ChunkWriter
from api.serving.request_parts import sampling_of
from api.serving.said import Answered, UsageObject
from api.serving.sse import Parts, closed, next_of
from api.serving.text_schemas import (
    USUAL_TOKENS,
    AskText,
    TextChoice,
    TextCompletion,
    TextLogprobs,
)
from tunery.completions import CompletionPart, TextPrompt, TokenSaid, Usage


def asked_of(project_id: str, request: AskText) -> list[Asked]:
    """One for each prompt."""
    most = USUAL_TOKENS if request.max_tokens is None else request.max_tokens
    sampling = sampling_of(request, max_tokens=most, top_logprobs=request.logprobs)
    return [
        Asked(
            project_id,
            request.model,
            TextPrompt(
                text=prompt if isinstance(prompt, str) else None,
                ids=None if isinstance(prompt, str) else prompt,
                echo=bool(request.echo),
            ),
            sampling,
        )
        for prompt in request.prompt
    ]


async def open_all(asked: Sequence[Asked], open_: Callable[[Asked], Awaitable[Parts]]) -> Parts:
    """The parts of all of them as they come. Raises what opening one raises."""
    opened = [await open_(one) for one in asked]
    return opened[0] if len(opened) == 1 else merged(opened, n=asked[0].sampling.n)


async def merged(opened: Sequence[Parts], *, n: int) -> AsyncGenerator[CompletionPart, None]:
    """As one completion's: each of them has `n` answers, numbered behind those before. The usage
    comes last.
    """
    used: list[Usage] = []
    upcoming = {asyncio.create_task(next_of(parts)): at for at, parts in enumerate(opened)}
    try:
        while upcoming:
            done, _ = await asyncio.wait(upcoming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                at = upcoming.pop(task)
                part = task.result()
                if part is None:
                    continue
                upcoming[asyncio.create_task(next_of(opened[at]))] = at
                used += [part.usage] if part.usage else []
                yield renumbered(part, at * n)
        yield CompletionPart(
            number=0,
            usage=Usage(
                prompt_tokens=sum(each.prompt_tokens for each in used),
                completion_tokens=sum(each.completion_tokens for each in used),
            ),
        )
    finally:
        for task in upcoming:
            task.cancel()
        await asyncio.gather(*upcoming, return_exceptions=True)
        for parts in opened:
            await closed(parts)


def renumbered(part: CompletionPart, first: int) -> CompletionPart:
    """Its answers counted from `first`, and without the usage, which is not all."""
    pieces = [piece.model_copy(update={"choice": piece.choice + first}) for piece in part.pieces]
    ends = [end.model_copy(update={"choice": end.choice + first}) for end in part.ends]
    return part.model_copy(update={"pieces": pieces, "ends": ends, "usage": None})


def completion_of(request: AskText, answers: list[Answered], usage: Usage) -> TextCompletion:
    return TextCompletion(
        id=new_id("cmpl-"),
        created=int(time.time()),
        model=request.model,
        choices=[
            TextChoice(
                index=index,
                text=answer.text,
                logprobs=logprobs_of(request, answer.tokens, 0),
                finish_reason=answer.reason,
            )
            for index, answer in enumerate(answers)
        ],
        usage=UsageObject.of(usage),
    )


def logprobs_of(request: AskText, tokens: list[TokenSaid], start: int) -> TextLogprobs | None:
    """The first of the tokens begins at `start` of the text."""
    if request.logprobs is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    top = [
        {each.text: each.logprob for each in token.top if each.logprob is not None} or None
        for token in tokens
    ]
    return TextLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=top if request.logprobs else None,
        text_offset=offsets,
    )


class TextWriter(ChunkWriter):
    """The chunks of a streamed answer."""

    def __init__(self, request: AskText) -> None:
        super().__init__(request, prefix="cmpl-", kind="text_completion")
        self.request = request
        # How far each answer's tokens have come in its text.
        self.offsets = [0] * (len(request.prompt) * (request.n or 1))

    def choice(
        self, index: int, text: str, tokens: list[TokenSaid], reason: str | None = None
    ) -> bytes:
        logprobs = logprobs_of(self.request, tokens, self.offsets[index]) if tokens else None
        self.offsets[index] += sum(len(token.text) for token in tokens)
        told = logprobs.model_dump() if logprobs else None
        return self.chunk(
            [{"index": index, "text": text, "logprobs": told, "finish_reason": reason}]
        )

    def choices_of(self, part: CompletionPart) -> Iterator[bytes]:
        for piece in part.pieces:
            if piece.text or piece.tokens:
                yield self.choice(piece.choice, piece.text, piece.tokens)
        for end in part.ends:
            yield self.choice(end.choice, "", [], end.reason)
