"""Texts to go on with: what is asked, and the answer in OpenAI's shape."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from api.serving.request_parts import MOST_CHARACTERS, NotOffered, Sampled
from api.serving.said import UsageObject
from tunery.completions import MOST_CHOICES
from tunery.fields import Described, Kind, ModelName, UnixTime

# As at OpenAI.
USUAL_TOKENS = 16
MOST_LOGPROBS = 5

APrompt = Annotated[str, Field(max_length=MOST_CHARACTERS)]
ATokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[ATokenId], Field(min_length=1, max_length=MOST_CHARACTERS)]


def each_prompt(given: Any) -> Any:  # noqa: ANN401
    """As a list of prompts, each a text or a list of tokens."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(is_token(each) for each in given):
            return [given]
        texts = all(isinstance(each, str) for each in given)
        if texts or all(
            isinstance(each, list) and each and all(map(is_token, each)) for each in given
        ):
            return given
    raise ValueError(
        "must be a text, a list of texts, a list of token ids, or a list of such lists"
    )


def is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class AskText(Sampled):
    """A text that the model is to go on with."""

    prompt: Annotated[
        list[APrompt | Ids],
        BeforeValidator(
            each_prompt,
            json_schema_input_type=APrompt
            | Annotated[list[APrompt], Field(min_length=1, max_length=MOST_CHOICES)]
            | Ids
            | Annotated[list[Ids], Field(min_length=1, max_length=MOST_CHOICES)],
        ),
        Field(examples=["Once upon a time"]),
    ]
    """The text, or its token ids; or several of them, each of which gets `n` answers."""
    max_tokens: Annotated[int | None, Field(ge=0, lt=2**31, examples=[64])] = None
    """The most tokens of one answer; null: 16. With 0 and `echo` the model only reads."""
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_LOGPROBS, examples=[3])] = None
    """Whether the answer has its tokens with their log-probabilities, and how many of the likeliest
    ones at each place, 0 to 5; null: no.
    """
    echo: bool | None = None
    """Whether the answer begins with the prompt, and `logprobs` with its tokens; null: no."""
    best_of: Annotated[int | None, Field(ge=1, le=MOST_CHOICES, examples=[1])] = None
    """Only as large as `n`: all answers are given, and none is left out."""
    suffix: Annotated[None, NotOffered("models here go on with a text, and fill no gaps")] = None

    @model_validator(mode="after")
    def can_be_followed(self) -> "AskText":
        asked = len(self.prompt) * (self.n or 1)
        if asked > MOST_CHOICES:
            raise ValueError(
                f"{len(self.prompt)} prompts with `n` {self.n or 1} ask for {asked} answers; one "
                f"request has at most {MOST_CHOICES}. Send several"
            )
        if self.best_of not in (None, self.n or 1):
            raise ValueError("`best_of` is not offered; leave it out, and choose among `n` answers")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("`max_tokens` 0 asks for nothing; it goes with `echo` alone")
        return self


class TextLogprobs(Described):
    """The tokens of a text, and how likely the model found them."""

    tokens: Annotated[list[str], Field(examples=[[" there", " was"]])]
    """The tokens as texts."""
    token_logprobs: Annotated[list[float | None], Field(examples=[[-0.1, -0.3]])]
    """Their log-probabilities in nats; null of the first token of a prompt."""
    top_logprobs: Annotated[
        list[dict[str, float] | None] | None, Field(examples=[[{" there": -0.1}]])
    ]
    """The likeliest tokens at each place; null if none are asked for."""
    text_offset: Annotated[list[int], Field(examples=[[0, 6]])]
    """Where each token begins in the text, in characters."""


class TextChoice(Described):
    """One answer."""

    index: Annotated[int, Field(examples=[0])]
    """Number of the answer, from 0: those of the first prompt first."""
    text: Annotated[str, Field(examples=[" there was a cow."])]
    """What follows; with `echo`, behind the prompt."""
    logprobs: TextLogprobs | None
    """The tokens with their log-probabilities; null: not asked for."""
    finish_reason: Literal["stop", "length"]
    """Why it ends: the model or a stop text ended it, or it has no more room."""


class TextCompletion(Described):
    """How the model goes on with texts."""

    id: Annotated[str, Field(examples=["cmpl-NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the completion. Nothing is kept under it."""
    object: Kind[Literal["text_completion"]] = "text_completion"
    created: Annotated[UnixTime, Field(description="When it was asked for, in Unix seconds (UTC).")]
    model: Annotated[ModelName, Field(description="The model, by the name that was asked for.")]
    choices: list[TextChoice]
    """The answers."""
    usage: UsageObject
    """What they took."""
    system_fingerprint: None = None
    """Always null."""
