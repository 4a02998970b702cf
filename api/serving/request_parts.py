"""What the requests for answers have in common."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from api.http.shapes import Metadata, Request, Word
from tunery.completions import MOST_CHOICES, Sampling
from tunery.fields import MODEL_NAME

MOST_STOPS = 4
MOST_CHARACTERS = 1 << 20
MOST_MESSAGES = 4_096
MOST_TOOLS = 128

AMessage = Annotated[dict[str, Any], Field(max_length=64)]
ATool = Annotated[dict[str, Any], Field(max_length=64)]
EXAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class NotOffered:
    """Of a parameter of OpenAI's that cannot be followed: only null is taken. `why` is told."""

    why: str

    def check(self, given: Any) -> Any:  # noqa: ANN401
        if given is not None:
            raise ValueError(f"is not offered: {self.why}")
        return given

    def __get_pydantic_core_schema__(
        self,
        kind: Any,  # noqa: ANN401
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(kind))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"description": f"Not offered: {self.why}. Leave it out, or null."}


def only_false(why: str) -> BeforeValidator:
    """A switch that cannot be turned on."""

    def check(given: Any) -> Any:  # noqa: ANN401
        if given is True:
            raise ValueError(f"is not offered: {why}; leave it out, or false")
        return given

    return BeforeValidator(check)


def stop_texts(given: Any) -> Any:  # noqa: ANN401
    """As a list."""
    texts = [given] if isinstance(given, str) else given
    good = isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)
    if not good or len(texts) > MOST_STOPS:
        raise ValueError(
            f"must be a text, or a list of up to {MOST_STOPS} texts, none of them empty"
        )
    return texts


def unlike_text(given: Any) -> Any:  # noqa: ANN401
    """A choice that is neither a word nor an object."""
    if isinstance(given, (str, dict)):
        return given
    raise ValueError('must be "auto", "none", "required", or an object that names a function')


AText = Annotated[str, Field(min_length=1, max_length=1_024)]
Texts = Annotated[list[AText], Field(max_length=MOST_STOPS)]
StopTexts = Annotated[Texts, BeforeValidator(stop_texts, json_schema_input_type=AText | Texts)]
ToolChoice = Annotated[
    Annotated[str, Field(max_length=16)] | Annotated[dict[str, Any], Field(max_length=64)],
    BeforeValidator(unlike_text),
]


class StreamOptions(Request):
    """How an answer is sent as it is written."""

    include_usage: bool | None = None
    """Whether one more event comes at the end, with the number of tokens; null: no."""
    include_obfuscation: Annotated[
        bool | None,
        only_false("events are not padded"),
    ] = None
    """Only false: events are not padded."""


class Asking(Request):
    """What each of the three routes takes."""

    model_config = ConfigDict(strict=True)

    model: Annotated[Word, MODEL_NAME]
    temperature: Annotated[float | None, Field(ge=0, le=2, examples=[0.7])] = None
    """How freely the next token is chosen, 0 to 2; at 0 always the likeliest one. Null: 1."""
    top_p: Annotated[float | None, Field(ge=0, le=1, examples=[0.9])] = None
    """Only the likeliest tokens that have this probability together are chosen from, 0 to 1. Null:
    1.
    """
    stream: bool | None = None
    """Whether the answer is sent as it is written, as server-sent events; null: no."""
    user: Annotated[Word | None, Field(examples=["user-1"])] = None
    """Without effect."""


class Sampled(Asking):
    """What chats and texts take besides."""

    n: Annotated[int | None, Field(ge=1, le=MOST_CHOICES, examples=[1])] = None
    """How many answers are given to one prompt, 1 to 16; null: 1."""
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63, examples=[42])] = None
    """The same seed gives the same answer on the same machine; null: chance decides."""
    stop: Annotated[StopTexts | None, Field(examples=[["\n\n"]])] = None
    """Up to 4 texts, or one, that end an answer, which does not have them; null: none."""
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2, examples=[0.5])] = None
    """What a token's score loses for each time that it was said, -2 to 2; null: 0."""
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2, examples=[0.5])] = None
    """What a token's score loses once it was said, -2 to 2; null: 0."""
    logit_bias: Annotated[
        dict[
            Annotated[int, Field(ge=0, strict=False)],
            Annotated[float, Field(ge=-100, le=100)],
        ]
        | None,
        Field(max_length=1_024, examples=[{"50256": -100}]),
    ] = None
    """What is added to the scores of tokens, -100 to 100, by their ids in the model's tokenizer;
    null: nothing.
    """
    stream_options: StreamOptions | None = None
    """How an answer is sent as it is written; null: as usual."""


class OpenAIsOwn(Request):
    """What chats and responses take, and has no effect here."""

    metadata: Metadata | None = None
    """Without effect: no answer is kept that could be found by it."""
    safety_identifier: Annotated[Word | None, Field(examples=["user-1"])] = None
    """Without effect."""
    prompt_cache_key: Annotated[Word | None, Field(examples=["user-1"])] = None
    """Without effect."""
    service_tier: Annotated[Literal["auto", "default"] | None, Field(examples=["auto"])] = None
    """Only `auto` and `default`, which are the same: all answers are computed alike."""
    store: Annotated[
        bool | None,
        only_false("answers are not kept here"),
    ] = None
    """Only false: answers are not kept here."""
    parallel_tool_calls: Annotated[bool | None, Field(examples=[True])] = None
    """Whether an answer may call several functions; null: yes. Where it may not, only the first
    call is passed on.
    """


def sampling_of(asked: Sampled, *, max_tokens: int | None, top_logprobs: int | None) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        n=asked.n or 1,
        stop=asked.stop or [],
        top_logprobs=top_logprobs,
        frequency_penalty=asked.frequency_penalty or 0.0,
        presence_penalty=asked.presence_penalty or 0.0,
        logit_bias=asked.logit_bias or {},
    )
