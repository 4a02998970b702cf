"""Whoever asks by the unmodified SDK is answered, and ends what nobody reads."""

import json
import socket
from collections.abc import Callable
from itertools import product
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionUserMessageParam

from api.serving import sse
from tests.answering_worker import AnsweringWorker, says, wait_until
from tests.conftest import BASE, Served
from tunery.completions import CompletionLease, CompletionPart, Refusal

HELLO: ChatCompletionUserMessageParam = {"role": "user", "content": "Hello"}
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [HELLO]},
    "completions": {"prompt": "Hello"},
    "responses": {"input": "Hello"},
}
WEATHER: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "weather"}}


def test_the_sdk_is_answered_on_all_three_routes(server: Served) -> None:
    client = server.client
    with AnsweringWorker(server) as worker:
        chat = client.chat.completions.create(model=BASE, messages=[HELLO], tools=[WEATHER])
        text = client.completions.create(model=BASE, prompt="Hello")
        response = client.responses.create(model=BASE, input="Hello")
        with client.chat.completions.stream(model=BASE, messages=[HELLO]) as chunks:
            chunks.until_done()
            streamed = chunks.get_final_completion()
        texts = client.completions.create(model=BASE, prompt=["a", "b"], stream=True)
        pieces = [choice for each in texts for choice in each.choices]
        with client.responses.stream(model=BASE, input="Hello") as events:
            events.until_done()
            followed = events.get_final_response()
    assert chat.choices[0].message.content == "Hello there."
    assert (chat.model, chat.usage and chat.usage.total_tokens) == (BASE, 10)
    assert text.choices[0].text == "Hello there."
    assert response.output_text == "Hello there."
    assert streamed.choices[0].message.content == "Hello there."
    for index in (0, 1):
        assert "".join(each.text for each in pieces if each.index == index) == "Hello there."
    assert followed.output_text == "Hello there."
    asked, *_ = worker.leases
    assert asked.prompt.type == "chat"
    assert asked.prompt.messages == [HELLO]
    assert asked.prompt.tools == [WEATHER]


def test_a_fault_before_the_first_word_is_told_by_the_status_streamed_or_not(
    server: Served,
) -> None:
    why = Refusal(code="context_length_exceeded", message="It is too long.", param="messages")

    def refuse(_: CompletionLease) -> list[CompletionPart]:
        return [CompletionPart(number=0, refusal=why)]

    http = server.http()
    with AnsweringWorker(server, refuse):
        for path, asked in ASKED.items():
            for stream in (False, True):
                answer = http.post(f"/v1/{path}", json=asked | {"model": BASE, "stream": stream})
                assert answer.status_code == 400
                error = answer.json()["error"]
                param = "input" if path == "responses" else "messages"
                assert (error["code"], error["param"]) == (why.code, param)
    assert http.post("/v1/chat/completions", json={"model": BASE}).status_code == 400


def test_a_fault_in_the_midst_of_a_stream_reaches_the_sdk(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.serving.completions.LEASE_SECONDS", 0.3)
    with AnsweringWorker(server, lambda _: says("I")[:1]):
        chunks = server.client.chat.completions.create(model=BASE, messages=[HELLO], stream=True)
        with pytest.raises(openai.APIError) as raised:
            list(chunks)
        assert raised.value.code == "answer_lost"
        events = server.client.responses.create(model=BASE, input="Hello", stream=True)
        *_, error, failed = events
        assert (error.type, failed.type) == ("error", "response.failed")


def test_a_stream_that_waits_says_so_and_the_sdk_does_not_mind(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.1)
    http, asked = server.http(), ASKED["chat/completions"] | {"model": BASE, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == [": nothing new"] * 2
        with AnsweringWorker(server, pause=0.3):
            assert list(lines)[-2:] == ["data: [DONE]", ""]
            chunks = server.client.chat.completions.create(
                model=BASE, messages=[HELLO], stream=True
            )
            said = [each.choices[0].delta.content or "" for each in chunks]
    assert "".join(said) == "Hello there."


def test_a_client_that_goes_away_ends_the_answer(server: Served) -> None:
    address = httpx.URL(server.url)
    with AnsweringWorker(server, lambda _: says(*"a" * 1_000), pause=0.02) as worker:
        for number, (path, stream) in enumerate(product(ASKED, (False, True)), start=1):
            body = json.dumps(ASKED[path] | {"model": BASE, "stream": stream})
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
            kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection((address.host, address.port or 80)) as wire:
                wire.sendall(f"{head}{kind}{body}".encode())
                wait_until(lambda: len(worker.leases) == number)  # noqa: B023
                if stream:
                    assert wire.recv(1)
            wait_until(lambda: len(worker.lost) == number)  # noqa: B023


def test_open_streams_count_as_open_requests(serve_with: Callable[..., Served]) -> None:
    server = serve_with(requests_at_once=1)
    asked = ASKED["chat/completions"] | {"model": BASE, "stream": True}
    with (
        AnsweringWorker(server, lambda _: says(*"a" * 1_000), pause=0.02),
        server.http().stream("POST", "/v1/chat/completions", json=asked) as open_,
    ):
        lines = open_.iter_lines()
        assert next(lines).startswith("data: ")
        assert server.http().get("/v1/models").status_code == 429
