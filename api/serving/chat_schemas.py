"""Conversations: what is asked, and the answer in OpenAI's shape."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from api.http.shapes import OrAbsent, Request
from api.serving.request_parts import (
    EXAMPLE_TOOL,
    MOST_MESSAGES,
    MOST_TOOLS,
    AMessage,
    ATool,
    NotOffered,
    OpenAIsOwn,
    Sampled,
    ToolChoice,
)
from api.serving.said import Logprob, UsageObject
from tunery.completions import MOST_TOP_LOGPROBS
from tunery.fields import Described, Kind, ModelName, UnixTime

MostTokens = Annotated[int, Field(ge=1, lt=2**31, examples=[256])]


class JsonSchema(Request):
    """The schema of an answer in JSON."""

    name: Annotated[str, Field(max_length=64, examples=["weather"])]
    """Name of the schema."""
    description: Annotated[str, Field(max_length=8_192, examples=["The weather."])] | None = None
    """What it is for; null: nothing is said."""
    schema_: Annotated[
        dict[str, Any], Field(max_length=1_024, alias="schema", examples=[{"type": "object"}])
    ] = Field(default_factory=dict)
    """The JSON Schema."""
    strict: bool | None = None
    """Whether the answer must follow it to the letter; null: no."""


class ResponseFormat(Request):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    """Text; JSON; or JSON by a schema. A worker answers in text only, and the other two are
    refused; a server that is registered beside it may know them.
    """
    json_schema: JsonSchema | None = None
    """The schema of `json_schema`; null with the other types."""

    @model_validator(mode="after")
    def whole(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` goes with the type json_schema, and with no other")
        return self

    @property
    def asked(self) -> dict[str, Any] | None:
        if self.type == "text":
            return None
        return self.model_dump(exclude_none=True, by_alias=True)


class AskChat(Sampled, OpenAIsOwn):
    """A conversation that the model is to go on with."""

    messages: Annotated[
        list[AMessage],
        Field(
            min_length=1,
            max_length=MOST_MESSAGES,
            examples=[[{"role": "user", "content": "How do cows sleep?"}]],
        ),
    ]
    """The messages, oldest first, as OpenAI has them. A `role` is `system`, `developer` (the same),
    `user`, `assistant` or `tool`; `content` is text, or a list of text parts.
    """
    max_completion_tokens: MostTokens | None = None
    """The most tokens of one answer; null: as many as the model's context has room for."""
    max_tokens: MostTokens | None = None
    """The older name of `max_completion_tokens`."""
    logprobs: bool | None = None
    """Whether the answer has its tokens with their log-probabilities; null: no."""
    top_logprobs: Annotated[int | None, Field(ge=0, le=MOST_TOP_LOGPROBS, examples=[3])] = None
    """How many of the likeliest tokens are told at each place, 0 to 20; needs `logprobs`."""
    tools: (
        Annotated[list[ATool], Field(max_length=MOST_TOOLS, examples=[[EXAMPLE_TOOL]])] | None
    ) = None
    """Functions that the model may call, as OpenAI describes them; null: none. What a call's
    arguments are is the model's to know: `strict` has no effect.
    """
    tool_choice: Annotated[ToolChoice | None, Field(examples=["auto"])] = None
    """`auto`, `none`, `required`, a function to be called, or `allowed_tools`; null: `auto`."""
    response_format: ResponseFormat | None = None
    """The form of the answer; null: text."""
    modalities: Annotated[
        list[Literal["text"]] | None, Field(max_length=1, examples=[["text"]])
    ] = None
    """Only text."""
    reasoning_effort: Annotated[None, NotOffered("a model thinks as it was trained to")] = None
    verbosity: Annotated[
        None, NotOffered("a model answers at the length that it was trained to")
    ] = None
    audio: Annotated[None, NotOffered("models here write text")] = None
    functions: Annotated[None, NotOffered("it is deprecated; send `tools`")] = None
    function_call: Annotated[None, NotOffered("it is deprecated; send `tool_choice`")] = None
    prediction: Annotated[None, NotOffered("there is no predicted output")] = None
    web_search_options: Annotated[None, NotOffered("models here do not search the web")] = None
    moderation: Annotated[None, NotOffered("nothing is moderated here")] = None
    prompt_cache_options: Annotated[
        None, NotOffered("prompts are kept by the service as it sees fit")
    ] = None
    prompt_cache_retention: Annotated[
        None, NotOffered("prompts are kept by the service as it sees fit")
    ] = None

    @model_validator(mode="after")
    def of_one_mind(self) -> "AskChat":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs`: true")
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("`max_tokens` and `max_completion_tokens` differ; send one of them")
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CalledFunction(Described):
    """The function of a call."""

    name: Annotated[str, Field(examples=["weather"])]
    """Name of the function."""
    arguments: Annotated[str, Field(examples=['{"city": "Oslo"}'])]
    """Its arguments, as JSON."""


class MessageToolCall(Described):
    """A function that the model calls."""

    id: Annotated[str, Field(examples=["call_NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the call, for the message that answers it."""
    type: Literal["function"] = "function"
    """The kind of tool."""
    function: CalledFunction
    """The function."""


class ChatMessage(Described):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    """Who says it."""
    content: Annotated[str, Field(examples=["Lying down, most of them."])] | None
    """The text; null: it only calls functions."""
    refusal: None = None
    """Always null."""
    annotations: Annotated[list[Any], Field(examples=[[]])] = Field(default_factory=list)
    """Always empty."""
    tool_calls: OrAbsent[list[MessageToolCall]] = None
    """The functions that it calls; absent: none."""


class ChatLogprobs(Described):
    """How likely the model found its own words."""

    content: list[Logprob]
    """The tokens of the answer."""
    refusal: None = None
    """Always null."""


class ChatChoice(Described):
    """One answer."""

    index: Annotated[int, Field(examples=[0])]
    """Number of the answer, from 0."""
    message: ChatMessage
    """The model's message."""
    logprobs: ChatLogprobs | None
    """The tokens with their log-probabilities; null: not asked for."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    """Why it ends: the model or a stop text ended it, it has no more room, or it calls functions.
    """


class ChatCompletion(Described):
    """The answers to a conversation."""

    id: Annotated[str, Field(examples=["chatcmpl-NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the completion. Nothing is kept under it."""
    object: Kind[Literal["chat.completion"]] = "chat.completion"
    created: Annotated[UnixTime, Field(description="When it was asked for, in Unix seconds (UTC).")]
    model: Annotated[ModelName, Field(description="The model, by the name that was asked for.")]
    choices: list[ChatChoice]
    """The answers."""
    usage: UsageObject
    """What they took."""
    service_tier: Literal["default"] = "default"
    """Always `default`."""
    system_fingerprint: None = None
    """Always null."""
