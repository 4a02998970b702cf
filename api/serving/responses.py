"""OpenAI's responses: from the request to what is asked, and from what is said to the answer."""

import time
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from api.ids import new_id
from api.serving.asked import Asked
from api.serving.chat import passed_on
from api.serving.conversation import Object, chat_prompt, wrong
from api.serving.response_schemas import (
    AskResponse,
    Incomplete,
    OutputCall,
    OutputMessage,
    OutputText,
    ResponseFault,
    ResponseObject,
    ResponseUsage,
)
from api.serving.said import Logprob
from api.serving.sse import error_of, event
from tunery.completions import CompletionPart, Sampling, TokenSaid, ToolCall, Usage
from tunery.data.rows import excerpt
from tunery.errors import TuneryError

# What an item may have, by its type.
ITEMS = {
    "message": {"type", "id", "status", "phase", "role", "content"},
    "function_call": {"type", "id", "status", "call_id", "name", "arguments"},
    "function_call_output": {"type", "id", "status", "call_id", "output"},
}
# What is called otherwise elsewhere.
NAMES = {"messages": "input", "response_format": "text"}


def asked_of(project_id: str, request: AskResponse) -> Asked:
    """Raises `InvalidRequest` for items or tools that cannot be read."""
    messages, places = conversation(request)
    form = request.text.format if request.text else None
    return Asked(
        project_id=project_id,
        model=request.model,
        prompt=chat_prompt(messages, request.tools or [], request.tool_choice, places=places),
        sampling=Sampling(
            max_tokens=request.max_output_tokens,
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_logprobs=(request.top_logprobs or 0) if request.tells_logprobs else None,
        ),
        response_format=form.asked if form else None,
    )


def renamed(error: TuneryError) -> TuneryError:
    """With the name that this route has for the parameter at fault."""
    error.param = NAMES.get(error.param or "", error.param)
    return error


def conversation(request: AskResponse) -> tuple[list[Object], dict[str, str]]:
    """The messages, and the request's paths by those in them. Calls of functions in a row, and what
    was said right before them, are one message.
    """
    messages: list[Object] = []
    places: dict[str, str] = {}

    def put(at: str, message: Object) -> str:
        path = f"messages[{len(messages)}]"
        places[path] = at
        messages.append(message)
        return path

    if request.instructions:
        put("instructions", {"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        put("input", {"role": "user", "content": request.input})
        return messages, places
    for index, item in enumerate(request.input):
        at = f"input[{index}]"
        match must_be_an_item(at, item):
            case "message":
                put(at, {"role": item.get("role"), "content": item.get("content")})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                if not messages or messages[-1]["role"] != "assistant":
                    put(at, {"role": "assistant", "content": None})
                calls = messages[-1].setdefault("tool_calls", [])
                path = f"messages[{len(messages) - 1}].tool_calls[{len(calls)}]"
                places |= {path: at, f"{path}.function": at, f"{path}.id": f"{at}.call_id"}
                calls.append({"id": item.get("call_id"), "type": "function", "function": function})
            case "function_call_output":
                given = {"tool_call_id": item.get("call_id"), "content": item.get("output")}
                path = put(at, {"role": "tool", **given})
                places[f"{path}.content"] = f"{at}.output"
                places[f"{path}.tool_call_id"] = f"{at}.call_id"
    return messages, places


def must_be_an_item(at: str, item: Object) -> str:
    """Its type. Raises `InvalidRequest` for one that cannot be followed."""
    kind = item.get("type") or "message"
    if not isinstance(kind, str) or kind not in ITEMS:
        why = (
            "answers are not kept here: send it whole"
            if kind == "item_reference"
            else ("an item is a message, a function_call or a function_call_output")
        )
        raise wrong(f"{at}.type", f"{excerpt(kind)!r} is not offered; {why}.")
    for name, value in item.items():
        if name not in ITEMS[kind] and value is not None:
            known = ", ".join(sorted(ITEMS[kind]))
            raise wrong(
                f"{at}.{excerpt(name)}", f"a {kind} has no such field here; it has {known}."
            )
    return kind


def text_told(request: AskResponse) -> Object:
    form = request.text.format if request.text else None
    told = {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_unset=True)
    return {"format": told}


def tool_told(tool: Object) -> Object:
    """As it was asked with, or would be here."""
    flat = {name: value for name, value in tool.items() if name != "function"}
    unsaid = {"description": None, "parameters": None, "strict": None}
    return {**unsaid, **tool.get("function", {}), **flat}


class ResponseWriter:
    """A response as it is written, and its events."""

    def __init__(self, request: AskResponse) -> None:
        self.request = request
        self.begun = False
        self.number = 0
        self.calls = 0
        self.open: OutputMessage | None = None
        self.reason: str | None = None
        self.response = ResponseObject(
            id=new_id("resp_"),
            created_at=int(time.time()),
            status="in_progress",
            model=request.model,
            output=[],
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata or {},
            parallel_tool_calls=request.parallel_tool_calls is not False,
            temperature=1.0 if request.temperature is None else request.temperature,
            text=text_told(request),
            tool_choice=request.tool_choice or "auto",
            tools=[tool_told(tool) for tool in request.tools or []],
            top_logprobs=request.top_logprobs or 0,
            top_p=1.0 if request.top_p is None else request.top_p,
            user=request.user,
        )

    def event(self, name: str, /, **told: object) -> bytes:
        objects = {
            key: value.model_dump() if isinstance(value, BaseModel) else value
            for key, value in told.items()
        }
        data = {"type": name, "sequence_number": self.number, **objects}
        self.number += 1
        return event(data, name)

    @property
    def here(self) -> Object:
        """Where the newest item is."""
        item = self.response.output[-1]
        return {"item_id": item.id, "output_index": len(self.response.output) - 1}

    def begin(self) -> Iterator[bytes]:
        if not self.begun:
            self.begun = True
            yield self.event("response.created", response=self.response)
            yield self.event("response.in_progress", response=self.response)

    def said(self, part: CompletionPart) -> Iterator[bytes]:
        yield from self.begin()
        for piece in part.pieces:
            if piece.text or piece.tokens:
                yield from self.write(piece.text, piece.tokens)
            calls = passed_on(self.request.parallel_tool_calls, piece.tool_calls, self.calls)
            for call in calls:
                yield from self.call(call)
        for end in part.ends:
            self.reason = end.reason
        if part.usage:
            self.response.usage = usage_of(part.usage)

    def write(self, text: str, tokens: list[TokenSaid]) -> Iterator[bytes]:
        if self.open is None:
            yield from self.open_message()
        assert self.open  # noqa: S101
        told = [Logprob.of_said(token) for token in tokens] if self.request.tells_logprobs else []
        (content,) = self.open.content
        content.text += text
        content.logprobs += told
        yield self.event(
            "response.output_text.delta",
            **self.here,
            content_index=0,
            delta=text,
            logprobs=without_bytes(told),
        )

    def open_message(self) -> Iterator[bytes]:
        self.open = OutputMessage(id=new_id("msg_"), status="in_progress", content=[])
        self.response.output.append(self.open)
        index = len(self.response.output) - 1
        yield self.event("response.output_item.added", output_index=index, item=self.open)
        part = OutputText(text="")
        self.open.content.append(part)
        yield self.event("response.content_part.added", **self.here, content_index=0, part=part)

    def close_message(self, status: Literal["completed", "incomplete"]) -> Iterator[bytes]:
        if self.open is None:
            return
        (part,) = self.open.content
        place = self.here | {"content_index": 0}
        yield self.event(
            "response.output_text.done",
            **place,
            text=part.text,
            logprobs=without_bytes(part.logprobs),
        )
        yield self.event("response.content_part.done", **place, part=part)
        self.open.status = status
        index = len(self.response.output) - 1
        yield self.event("response.output_item.done", output_index=index, item=self.open)
        self.open = None

    def call(self, call: ToolCall) -> Iterator[bytes]:
        yield from self.close_message("completed")
        self.calls += 1
        item = OutputCall(
            id=new_id("fc_"),
            status="in_progress",
            call_id=new_id("call_"),
            name=call.name,
            arguments="",
        )
        self.response.output.append(item)
        index = len(self.response.output) - 1
        kind = "response.function_call_arguments"
        yield self.event("response.output_item.added", output_index=index, item=item)
        yield self.event(f"{kind}.delta", **self.here, delta=call.arguments)
        item.arguments, item.status = call.arguments, "completed"
        yield self.event(f"{kind}.done", **self.here, name=call.name, arguments=call.arguments)
        yield self.event("response.output_item.done", output_index=index, item=item)

    def ended(self) -> Iterator[bytes]:
        yield from self.begin()
        if not self.response.output:
            yield from self.open_message()
        status: Literal["completed", "incomplete"] = "completed"
        if self.reason == "length":
            status, self.response.incomplete_details = "incomplete", Incomplete()
        else:
            self.response.completed_at = int(time.time())
        yield from self.close_message(status)
        self.response.status = status
        yield self.event(f"response.{status}", response=self.response)

    def failed(self, error: TuneryError) -> Iterator[bytes]:
        yield from self.begin()
        told = error_of(renamed(error))["error"]
        fields = {name: told[name] for name in ("message", "param", "code")}
        yield self.event("error", **fields)
        self.response.status = "failed"
        self.response.error = ResponseFault(message=error.message)
        yield self.event("response.failed", response=self.response)


def usage_of(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def without_bytes(told: list[Logprob]) -> list[Object]:
    """As an event has them."""
    left_out: Any = {"bytes": True, "top_logprobs": {"__all__": {"bytes"}}}
    return [each.model_dump(exclude=left_out) for each in told]
