"""What was answered, gathered from its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from api.serving.sse import Parts, closed
from tunery.completions import CompletionPart, TokenChance, TokenSaid, ToolCall, Usage
from tunery.errors import AnswerLost
from tunery.fields import Described

# As OpenAI writes it of a token that is out of the question.
UNLIKELY = -9999.0


@dataclass
class Answered:
    """One answer, as far as it has been said. `reason` is None until it ends."""

    text: str = ""
    tokens: list[TokenSaid] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    reason: str | None = None


async def whole(parts: Parts, *, n: int) -> tuple[list[Answered], Usage]:
    """All answers, and what they took. Raises what ends them early."""
    found = [Answered() for _ in range(n)]
    usage = Usage(prompt_tokens=0, completion_tokens=0)
    try:
        async for part in parts:
            add(found, part)
            usage = part.usage or usage
    finally:
        await closed(parts)
    if any(answer.reason is None for answer in found):
        raise AnswerLost("Whoever computed the answer did not come to its end. Ask again.")
    return found, usage


def add(answers: Sequence[Answered], part: CompletionPart) -> None:
    for piece in part.pieces:
        answer = answers[piece.choice]
        answer.text += piece.text
        answer.tokens += piece.tokens
        answer.calls += piece.tool_calls
    for end in part.ends:
        answers[end.choice].reason = end.reason


class UsageObject(Described):
    """What a completion took."""

    prompt_tokens: Annotated[int, Field(examples=[24])]
    """Number of tokens of the prompt."""
    completion_tokens: Annotated[int, Field(examples=[41])]
    """Number of tokens of all answers together."""
    total_tokens: Annotated[int, Field(examples=[65])]
    """Both together."""

    @classmethod
    def of(cls, usage: Usage) -> "UsageObject":
        total = usage.prompt_tokens + usage.completion_tokens
        return cls(**usage.model_dump(), total_tokens=total)


class TopLogprob(Described):
    """A token and how likely the model found it."""

    token: Annotated[str, Field(examples=["Hello"])]
    """The token as text."""
    bytes: Annotated[list[int], Field(examples=[[72, 101, 108, 108, 111]])]
    """Its UTF-8 bytes."""
    logprob: Annotated[float, Field(examples=[-0.31])]
    """Its log-probability in nats, before temperature and `top_p`."""

    @classmethod
    def of(cls, token: TokenChance) -> "TopLogprob":
        return cls(token=token.text, bytes=token.bytes, logprob=likelihood(token))


class Logprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]
    """The likeliest tokens at its place."""

    @classmethod
    def of_said(cls, token: TokenSaid) -> "Logprob":
        top = [TopLogprob.of(each) for each in token.top]
        return cls(**TopLogprob.of(token).model_dump(), top_logprobs=top)


def likelihood(token: TokenChance) -> float:
    return UNLIKELY if token.logprob is None else token.logprob
