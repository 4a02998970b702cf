"""What is asked, as an OpenAI-compatible server takes it, and its stream as parts of ours.

Nothing that a server does costs more than some time and memory: a connection, each silence and each
line have bounds, no redirect is followed, and what is left of an answer is not read.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from api.serving.asked import Asked
from api.webhooks.outbound import trust
from tunery.completions import (
    ChatPrompt,
    ChoiceEnd,
    CompletionPart,
    Piece,
    Sampling,
    TokenChance,
    TokenSaid,
    ToolCall,
    Usage,
)
from tunery.errors import AnswerLost, InvalidRequest
from tunery.proof.server import GARBAGE, within

CONNECT_SECONDS, SILENCE_SECONDS, LAST_SECONDS = 5.0, 60.0, 0.1
MOST_LINE_BYTES, MOST_BYTES = 1 << 20, 128 << 20
MOST_CONNECTIONS = 1_000
SHOWN_CHARACTERS = 300
REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "eos": "stop"}


class NotTaken(Exception):
    """The server did not begin to answer; another one may. The text says why."""


class NoSuchModel(NotTaken):
    """The server does not know the model, any more."""


def new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=trust(),
        trust_env=False,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=100),
    )


def bearing(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


async def stream(
    client: httpx.AsyncClient, url: str, key: str | None, name: str, asked: Asked
) -> AsyncGenerator[CompletionPart, None]:
    """The parts of the answer of the server at `url`, where the model has that `name`.

    Raises:
        NotTaken: there is no answer. Only before the first part.
        InvalidRequest: the server refuses what is asked. Only before the first part.
        AnswerLost: there is no more of it.

    """
    chat = isinstance(asked.prompt, ChatPrompt)
    path = "/v1/chat/completions" if chat else "/v1/completions"
    reader = Reader(chat=chat, n=asked.sampling.n)
    async with opened(client, f"{url}{path}", bearing(key), body_of(asked, name)) as response:
        begun = False
        try:
            async for chunk in chunks(response):
                for part in reader.read(chunk):
                    begun = True
                    yield part
            yield reader.end()
        except (httpx.HTTPError, Cut, *GARBAGE) as error:
            words = f"The server that answers broke off ({in_words(error)}). Ask again."
            if begun:
                raise AnswerLost(words) from error
            raise NotTaken(in_words(error)) from error


class Cut(Exception):
    """The stream is not what it should be."""


@asynccontextmanager
async def opened(
    client: httpx.AsyncClient, url: str, headers: dict[str, str], body: dict[str, Any]
) -> AsyncIterator[httpx.Response]:
    """Raises `NotTaken`, `NoSuchModel` and `InvalidRequest`."""
    request = client.build_request("POST", url, json=body, headers=headers)
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotTaken(in_words(error)) from error
    try:
        if response.status_code != 200:
            raise await refusal(response)
        yield response
    finally:
        await response.aclose()


async def refusal(response: httpx.Response) -> Exception:
    status, told = response.status_code, b""
    with suppress(httpx.HTTPError):
        told = await beginning(response)
    try:
        parsed = json.loads(told)
    except (ValueError, RecursionError):
        parsed = None
    words = within(parsed, "error", "message") or within(parsed, "message")
    words = str(words or f"status {status}")[:SHOWN_CHARACTERS]
    if status == 404:
        return NoSuchModel(words)
    if status in {401, 403}:  # its words may show the key
        return NotTaken(f"it does not let this service in, with status {status}")
    if status in {400, 413, 422}:
        return InvalidRequest(f"The server that answers refuses this: {words}")
    return NotTaken(words if status != 429 else f"it has too much to do ({words})")


async def beginning(response: httpx.Response) -> bytes:
    """Of what it says: about a line's bytes, whatever it sends."""
    said = bytearray()
    async for some in response.aiter_bytes():
        said += some
        if len(said) > MOST_LINE_BYTES:
            break
    return bytes(said)


def in_words(error: Exception) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return f"it was silent for {SILENCE_SECONDS:.0f} s"
    if isinstance(error, GARBAGE):
        return "it sent what is no part of an answer"
    return str(error)[:SHOWN_CHARACTERS] or type(error).__name__


async def chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Each event's JSON, to `[DONE]`. Raises `Cut` for a stream without that, too."""
    rest, size = b"", 0
    incoming = response.aiter_bytes()
    async for some in incoming:
        size += len(some)
        *lines, rest = (rest + some).split(b"\n")
        if len(rest) > MOST_LINE_BYTES or size > MOST_BYTES:
            raise Cut("it sent more than an answer has")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            event = line[5:].strip()
            if event == b"[DONE]":
                # A connection that was read to its end serves the next request.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_SECONDS):
                        async for _ in incoming:
                            pass
                return
            chunk = json.loads(event)
            if not isinstance(chunk, dict):
                raise Cut("it sent what is no part of an answer")
            if told := within(chunk, "error", "message") or within(chunk, "error"):
                raise Cut(str(told)[:SHOWN_CHARACTERS])
            yield chunk
    raise Cut("its answer has no end")


def body_of(asked: Asked, name: str) -> dict[str, Any]:
    """Only what is asked for: servers refuse what they do not know."""
    prompt = asked.prompt
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling_of(asked.sampling),
    }
    top = asked.sampling.top_logprobs
    if isinstance(prompt, ChatPrompt):
        body["messages"] = [as_sent(message) for message in prompt.messages]
        if prompt.tools:
            body |= {"tools": prompt.tools, "tool_choice": choice_of(prompt.tool_choice)}
        if asked.response_format:
            body["response_format"] = asked.response_format
        if top is not None:
            body |= {"logprobs": True, "top_logprobs": top}
        return body
    body["prompt"] = prompt.ids if prompt.text is None else prompt.text
    if prompt.echo:
        body["echo"] = True
    if top is not None:
        body["logprobs"] = top
    return body


def sampling_of(sampling: Sampling) -> dict[str, Any]:
    body = sampling.model_dump(exclude={"top_logprobs"}, exclude_defaults=True)
    if "logit_bias" in body:
        body["logit_bias"] = {str(id_): bias for id_, bias in sampling.logit_bias.items()}
    # A server's own defaults may be others than OpenAI's.
    return body | {"temperature": sampling.temperature, "top_p": sampling.top_p}


def choice_of(choice: str) -> Any:  # noqa: ANN401 (of JSON)
    if choice in {"auto", "none", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


def as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """Of a message as templates know it, whose calls' arguments are objects, OpenAI's."""
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "type": "function", "function": {**call["function"], "arguments": as_text(call)}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def as_text(call: dict[str, Any]) -> str:
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


@dataclass
class Reader:
    """Makes parts of a stream's chunks. A call of a function comes in fragments, by its number in
    the answer, and is told when the answer ends.
    """

    chat: bool
    n: int
    number: int = 0
    tokens: int = 0
    usage: Usage | None = None
    calls: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)

    def read(self, chunk: dict[str, Any]) -> list[CompletionPart]:
        """At most one part."""
        pieces: list[Piece] = []
        ends: list[ChoiceEnd] = []
        for choice in within(chunk, "choices") or []:
            index = within(choice, "index") or 0
            if index not in range(self.n):
                raise Cut(f"it gives the answer {index}, of {self.n}")
            self.begun.add(index)
            delta = within(choice, "delta") if self.chat else choice
            text = within(delta, "content" if self.chat else "text") or ""
            said = tokens_in(within(choice, "logprobs"), chat=self.chat)
            for fragment in within(delta, "tool_calls") or []:
                self.add_call(index, fragment)
            if text or said:
                pieces.append(Piece(choice=index, text=text, tokens=said))
                self.tokens += len(said) or 1
            if reason := within(choice, "finish_reason"):
                if calls := self.calls.pop(index, None):
                    made = [ToolCall(name=one[0], arguments=one[1]) for one in calls.values()]
                    pieces.append(Piece(choice=index, tool_calls=made))
                    reason = "tool_calls"
                ends.append(
                    ChoiceEnd.model_validate(
                        {"choice": index, "reason": REASONS.get(reason, "stop")}
                    )
                )
                self.ended.add(index)
        counted = within(chunk, "usage")
        if isinstance(counted, dict):
            self.usage = Usage(
                prompt_tokens=counted.get("prompt_tokens") or 0,
                completion_tokens=counted.get("completion_tokens") or 0,
            )
        return [self.part(pieces=pieces, ends=ends)] if pieces or ends else []

    def end(self) -> CompletionPart:
        """The last part. A server that counts no tokens is counted by what came. Raises `Cut`."""
        if not self.begun or self.begun - self.ended:
            raise Cut("its answer has no end")
        usage = self.usage or Usage(prompt_tokens=0, completion_tokens=self.tokens)
        return self.part(usage=usage)

    def part(self, **said: Any) -> CompletionPart:  # noqa: ANN401
        self.number += 1
        return CompletionPart(number=self.number - 1, **said)

    def add_call(self, index: int, fragment: object) -> None:
        calls = self.calls.setdefault(index, {})
        call = calls.setdefault(within(fragment, "index") or 0, ["", ""])
        call[0] += within(fragment, "function", "name") or ""
        call[1] += within(fragment, "function", "arguments") or ""
        if len(calls) > 128 or len(call[1]) > MOST_LINE_BYTES:
            raise Cut("it calls more than an answer has room for")


def tokens_in(logprobs: object, *, chat: bool) -> list[TokenSaid]:
    """Servers tell no ids beside texts, and ours show none: they are 0 here."""
    if chat:
        return [
            TokenSaid(
                id=0, **chance(one), top=[TokenChance(**chance(each)) for each in top_of(one)]
            )
            for one in within(logprobs, "content") or []
        ]
    texts, scores = within(logprobs, "tokens") or [], within(logprobs, "token_logprobs") or []
    tops = within(logprobs, "top_logprobs") or [None] * len(texts)
    return [
        TokenSaid(
            id=0,
            **chance({"token": text, "logprob": score}),
            top=[
                TokenChance(**chance({"token": other, "logprob": its}))
                for other, its in (top or {}).items()
            ],
        )
        for text, score, top in zip(texts, scores, tops, strict=True)
    ]


def top_of(token: object) -> list[Any]:
    return within(token, "top_logprobs") or []


def chance(token: object) -> dict[str, Any]:
    text = str(within(token, "token") or "")
    raw = within(token, "bytes")
    return {
        "text": text,
        "bytes": raw if isinstance(raw, list) else list(text.encode()),
        "logprob": within(token, "logprob"),
    }
