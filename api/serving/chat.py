"""Conversations: from OpenAI's request to what is asked, and from what is said to its answer."""

import time
from collections.abc import Iterator

from api.ids import new_id
from api.serving.asked import Asked
from api.serving.chat_schemas import (
    AskChat,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    MessageToolCall,
)
from api.serving.chunks import ChunkWriter
from api.serving.conversation import chat_prompt
from api.serving.request_parts import sampling_of
from api.serving.said import Answered, Logprob, UsageObject
from api.serving.sse import Object
from tunery.completions import CompletionPart, TokenSaid, ToolCall, Usage


def asked_of(project_id: str, request: AskChat) -> Asked:
    """Raises `InvalidRequest` for messages or tools that cannot be read."""
    top = (request.top_logprobs or 0) if request.logprobs else None
    return Asked(
        project_id=project_id,
        model=request.model,
        prompt=chat_prompt(request.messages, request.tools or [], request.tool_choice),
        sampling=sampling_of(request, max_tokens=request.most_tokens, top_logprobs=top),
        response_format=request.response_format.asked if request.response_format else None,
    )


def completion_of(request: AskChat, answers: list[Answered], usage: Usage) -> ChatCompletion:
    return ChatCompletion(
        id=new_id("chatcmpl-"),
        created=int(time.time()),
        model=request.model,
        choices=[choice_of(request, index, answer) for index, answer in enumerate(answers)],
        usage=UsageObject.of(usage),
    )


def choice_of(request: AskChat, index: int, answer: Answered) -> ChatChoice:
    calls = [call_of(call) for call in passed_on(request.parallel_tool_calls, answer.calls)]
    return ChatChoice(
        index=index,
        message=ChatMessage(
            content=answer.text if answer.text or not calls else None, tool_calls=calls or None
        ),
        logprobs=logprobs_of(answer.tokens) if request.logprobs else None,
        finish_reason=answer.reason,
    )


def passed_on(parallel: bool | None, calls: list[ToolCall], before: int = 0) -> list[ToolCall]:
    """The calls that the client gets, who has had `before` of them already."""
    return calls[: max(0, 1 - before)] if parallel is False else calls


def call_of(call: ToolCall) -> MessageToolCall:
    return MessageToolCall(id=new_id("call_"), function=CalledFunction(**call.model_dump()))


def logprobs_of(tokens: list[TokenSaid]) -> ChatLogprobs:
    return ChatLogprobs(content=[Logprob.of_said(token) for token in tokens])


class ChatWriter(ChunkWriter):
    """The chunks of a streamed answer."""

    def __init__(self, request: AskChat) -> None:
        super().__init__(request, prefix="chatcmpl-", kind="chat.completion.chunk")
        self.head["service_tier"] = "default"
        self.request = request
        self.n = request.n or 1
        self.calls = [0] * self.n
        self.begun = False

    def delta(
        self,
        index: int,
        delta: Object,
        *,
        logprobs: ChatLogprobs | None = None,
        reason: str | None = None,
    ) -> bytes:
        told = logprobs.model_dump() if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return self.chunk([choice])

    def choices_of(self, part: CompletionPart) -> Iterator[bytes]:
        if not self.begun:
            self.begun = True
            for index in range(self.n):
                yield self.delta(index, {"role": "assistant", "content": "", "refusal": None})
        for piece in part.pieces:
            logprobs = logprobs_of(piece.tokens) if self.request.logprobs else None
            if piece.text or piece.tokens:
                yield self.delta(piece.choice, {"content": piece.text}, logprobs=logprobs)
            before = self.calls[piece.choice]
            for call in passed_on(self.request.parallel_tool_calls, piece.tool_calls, before):
                told = {"index": self.calls[piece.choice], **call_of(call).model_dump()}
                self.calls[piece.choice] += 1
                yield self.delta(piece.choice, {"tool_calls": [told]})
        for end in part.ends:
            yield self.delta(end.choice, {}, reason=end.reason)
