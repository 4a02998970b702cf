"""OpenAI's responses: what is asked, and the answer in its shape. Nothing of either is kept."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from api.http.shapes import OrAbsent, Request
from api.serving.chat_schemas import JsonSchema, MostTokens, ResponseFormat
from api.serving.request_parts import (
    MOST_CHARACTERS,
    MOST_MESSAGES,
    MOST_TOOLS,
    AMessage,
    Asking,
    ATool,
    NotOffered,
    OpenAIsOwn,
    ToolChoice,
    only_false,
)
from api.serving.said import Logprob
from tunery.completions import MOST_TOP_LOGPROBS
from tunery.fields import Described, Kind, ModelName, UnixTime

# The one thing that an answer can have besides.
LOGPROBS = "message.output_text.logprobs"
FLAT_TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
NOT_KEPT = "answers are not kept here; send the whole conversation in `input`"
CACHED = "prompts are kept by the service as it sees fit"


def text_or_items(given: Any) -> Any:  # noqa: ANN401
    if not isinstance(given, str) and not (
        isinstance(given, list) and given and all(isinstance(item, dict) for item in given)
    ):
        raise ValueError(
            "must be a text, or a list of messages and of functions' calls and outputs"
        )
    return given


def only_logprobs(given: Any) -> Any:  # noqa: ANN401
    for name in given if isinstance(given, list) else []:
        if name != LOGPROBS:
            raise ValueError(f"{str(name)[:64]!r} is not offered; only {LOGPROBS!r} is")
    return given


class TextFormat(JsonSchema):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    """Text; JSON; or JSON by a schema. A worker answers in text only, and the other two are
    refused; a server that is registered beside it may know them.
    """
    name: Annotated[str, Field(max_length=64, examples=["weather"])] | None = None  # type: ignore[assignment]
    """Name of the schema of `json_schema`; null with the other types."""

    @model_validator(mode="after")
    def whole(self) -> "TextFormat":
        if (self.type == "json_schema") != (self.name is not None):
            raise ValueError("`name` and `schema` go with the type json_schema, and with no other")
        return self

    @property
    def asked(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        schema = self.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        given = {"json_schema": schema} if self.type == "json_schema" else {}
        return ResponseFormat.model_validate({"type": self.type, **given}).asked


class TextSettings(Request):
    """What the text of an answer is to be like."""

    format: TextFormat | None = None
    """The form of the answer; null: text."""
    verbosity: Annotated[Literal["medium"] | None, Field(examples=["medium"])] = None
    """Only `medium`: a model answers at the length that it was trained to."""


class Reasoning(Request):
    """How a model thinks: as it was trained to."""

    effort: Annotated[None, NotOffered("a model thinks as it was trained to")] = None
    summary: Annotated[None, NotOffered("no thoughts are told apart from the text")] = None
    generate_summary: Annotated[None, NotOffered("no thoughts are told apart from the text")] = None


class ResponseStreamOptions(Request):
    """How an answer is sent as it is written."""

    include_obfuscation: Annotated[bool | None, only_false("events are not padded")] = None
    """Only false: events are not padded."""


class AskResponse(Asking, OpenAIsOwn):
    """What the model is to respond to."""

    input: Annotated[
        Annotated[str, Field(max_length=MOST_CHARACTERS)]
        | Annotated[list[AMessage], Field(min_length=1, max_length=MOST_MESSAGES)],
        BeforeValidator(text_or_items),
        Field(examples=["How do cows sleep?"]),
    ]
    """A text; or a list of messages, function calls (`function_call`) and what the functions gave
    (`function_call_output`), oldest first. A content is text, or a list of text parts.
    """
    instructions: (
        Annotated[str, Field(max_length=MOST_CHARACTERS, examples=["Be brief."])] | None
    ) = None
    """What is put in front of the input as the system's message; null: nothing."""
    max_output_tokens: MostTokens | None = None
    """The most tokens of the answer; null: as many as the model's context has room for."""
    top_logprobs: Annotated[int | None, Field(ge=0, le=MOST_TOP_LOGPROBS, examples=[3])] = None
    """How many of the likeliest tokens are told at each place, 0 to 20. With it the answer has its
    tokens with their log-probabilities.
    """
    include: (
        Annotated[
            list[Annotated[str, Field(max_length=64)]],
            Field(max_length=8, examples=[[LOGPROBS]]),
            BeforeValidator(only_logprobs),
        ]
        | None
    ) = None
    """Only `message.output_text.logprobs`: the tokens with their log-probabilities; null: none."""
    tools: Annotated[list[ATool], Field(max_length=MOST_TOOLS, examples=[[FLAT_TOOL]])] | None = (
        None
    )
    """Functions that the model may call, as OpenAI describes them; null: none. What a call's
    arguments are is the model's to know: `strict` has no effect.
    """
    tool_choice: Annotated[ToolChoice | None, Field(examples=["auto"])] = None
    """`auto`, `none`, `required`, a function to be called, or `allowed_tools`; null: `auto`."""
    text: TextSettings | None = None
    """What the text of the answer is to be like; null: plain text."""
    truncation: Annotated[Literal["disabled"] | None, Field(examples=["disabled"])] = None
    """Only `disabled`: an input that is too long is refused, and nothing is left out."""
    max_tool_calls: Annotated[int | None, Field(ge=1, lt=2**31, examples=[1])] = None
    """Without effect: it counts the calls of tools that a service has of its own."""
    stream_options: ResponseStreamOptions | None = None
    """How an answer is sent as it is written; null: as usual."""
    background: Annotated[bool | None, only_false("answers are not kept here")] = None
    """Only false: the answer comes in the response."""
    reasoning: Reasoning | None = None
    """Only null, or without a setting: a model thinks as it was trained to."""
    previous_response_id: Annotated[None, NotOffered(NOT_KEPT)] = None
    conversation: Annotated[None, NotOffered(NOT_KEPT)] = None
    context_management: Annotated[None, NotOffered(NOT_KEPT)] = None
    background_options: Annotated[None, NotOffered("answers are not kept here")] = None
    prompt: Annotated[None, NotOffered("no prompts are kept here; send it in `input`")] = None
    moderation: Annotated[None, NotOffered("nothing is moderated here")] = None
    access_programs: Annotated[None, NotOffered("there are none here")] = None
    image: Annotated[None, NotOffered("models here write text")] = None
    prompt_cache_options: Annotated[None, NotOffered(CACHED)] = None
    prompt_cache_retention: Annotated[None, NotOffered(CACHED)] = None

    @property
    def tells_logprobs(self) -> bool:
        return bool(self.include) or self.top_logprobs is not None


class OutputText(Described):
    """Text that the model says."""

    type: Literal["output_text"] = "output_text"
    """The kind of part."""
    text: Annotated[str, Field(examples=["Lying down, most of them."])]
    """The text."""
    annotations: Annotated[list[Any], Field(examples=[[]])] = Field(default_factory=list)
    """Always empty."""
    logprobs: list[Logprob] = Field(default_factory=list)
    """The tokens with their log-probabilities; empty: not asked for."""


ItemStatus = Annotated[
    Literal["in_progress", "completed", "incomplete"],
    Field(description="Whether it is whole: `incomplete` if there was no more room."),
]


class OutputMessage(Described):
    """What the model says."""

    type: Literal["message"] = "message"
    """The kind of item."""
    id: Annotated[str, Field(examples=["msg_NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the item. Nothing is kept under it."""
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    """Who says it."""
    content: list[OutputText]
    """Its text, as one part."""


class OutputCall(Described):
    """A function that the model calls."""

    type: Literal["function_call"] = "function_call"
    """The kind of item."""
    id: Annotated[str, Field(examples=["fc_NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the item. Nothing is kept under it."""
    status: ItemStatus
    call_id: Annotated[str, Field(examples=["call_NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the call, for the item that has what the function gave."""
    name: Annotated[str, Field(examples=["weather"])]
    """Name of the function."""
    arguments: Annotated[str, Field(examples=['{"city": "Oslo"}'])]
    """Its arguments, as JSON."""


class CachedTokens(Described):
    """Of the tokens of an input."""

    cached_tokens: Annotated[int, Field(examples=[0])] = 0
    """Always 0."""
    cache_write_tokens: Annotated[int, Field(examples=[0])] = 0
    """Always 0."""


class ReasoningTokens(Described):
    """Of the tokens of an answer."""

    reasoning_tokens: Annotated[int, Field(examples=[0])] = 0
    """Always 0: thoughts are counted as the text that they are."""


class ResponseUsage(Described):
    """What a response took."""

    input_tokens: Annotated[int, Field(examples=[24])]
    """Number of tokens of the input."""
    input_tokens_details: CachedTokens = CachedTokens()
    """Of these."""
    output_tokens: Annotated[int, Field(examples=[41])]
    """Number of tokens of the answer."""
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    """Of these."""
    total_tokens: Annotated[int, Field(examples=[65])]
    """Both together."""


class ResponseFault(Described):
    """What ended a response too early."""

    code: Literal["server_error"] = "server_error"
    """Always `server_error`; the event `error` before it has the service's own code."""
    message: Annotated[str, Field(examples=["The worker was lost while it answered."])]
    """What happened, in sentences for people."""


class Incomplete(Described):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"
    """There was no more room."""


class ResponseObject(Described):
    """A response, as OpenAI has it. What it was asked with is told again."""

    id: Annotated[str, Field(examples=["resp_NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the response. Nothing is kept under it."""
    object: Kind[Literal["response"]] = "response"
    created_at: Annotated[
        UnixTime, Field(description="When it was asked for, in Unix seconds (UTC).")
    ]
    completed_at: Annotated[
        UnixTime | None,
        Field(description="When it was whole, in Unix seconds (UTC); null: not yet."),
    ] = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    """How far it is."""
    error: ResponseFault | None = None
    """What ended it too early; null: nothing did."""
    incomplete_details: Incomplete | None = None
    """Why it is not whole; null: it is, or is not done."""
    model: Annotated[ModelName, Field(description="The model, by the name that was asked for.")]
    output: list[OutputMessage | OutputCall]
    """What the model says and which functions it calls."""
    usage: ResponseUsage | None = None
    """What it took; null until it is done."""
    instructions: Annotated[str | None, Field(examples=["Be brief."])]
    """As asked."""
    max_output_tokens: Annotated[int | None, Field(examples=[256])]
    """As asked."""
    metadata: Annotated[dict[str, str], Field(examples=[{"team": "dairy"}])]
    """As asked."""
    parallel_tool_calls: bool
    """As asked; true by default."""
    temperature: Annotated[float, Field(examples=[1.0])]
    """As asked; 1 by default."""
    text: Annotated[dict[str, Any], Field(examples=[{"format": {"type": "text"}}])]
    """As asked; plain text by default."""
    tool_choice: Annotated[str | dict[str, Any], Field(examples=["auto"])]
    """As asked; `auto` by default."""
    tools: Annotated[list[dict[str, Any]], Field(examples=[[FLAT_TOOL]])]
    """As asked."""
    top_logprobs: Annotated[int, Field(examples=[0])]
    """As asked; 0 by default."""
    top_p: Annotated[float, Field(examples=[1.0])]
    """As asked; 1 by default."""
    truncation: Literal["disabled"] = "disabled"
    """Always `disabled`."""
    reasoning: Annotated[dict[str, None], Field(examples=[{"effort": None, "summary": None}])] = (
        Field(default_factory=lambda: {"effort": None, "summary": None})
    )
    """Always without a setting."""
    previous_response_id: None = None
    """Always null."""
    background: Literal[False] = False
    """Always false."""
    store: Literal[False] = False
    """Always false: answers are not kept here."""
    service_tier: Literal["default"] = "default"
    """Always `default`."""
    user: OrAbsent[Annotated[str, Field(examples=["user-1"])]] = None
    """As asked; absent: nothing was."""
