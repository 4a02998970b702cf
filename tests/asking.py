"""A route that asks a model and sends its answer's parts, one a line."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api import main
from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.serving.answering import open_answer
from api.serving.asked import Asked
from tests.conftest import BASE
from tunery.completions import ChatPrompt, CompletionPart, Sampling
from tunery.errors import TuneryError
from tunery.fields import Described

router = APIRouter(route_class=Route)


class Question(Described):
    model: str = BASE
    text: str = "Hi"
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None


@router.post("/v1/ask", response_model=None)
async def ask(question: Question, server: AServer, caller: Reader) -> StreamingResponse:
    messages = [{"role": "user", "content": question.text}]
    asked = Asked(
        caller.project_id,
        question.model,
        ChatPrompt(messages=messages, tools=question.tools),
        Sampling(max_tokens=100),
        question.response_format,
    )
    parts = await open_answer(server, asked)
    try:
        first = await anext(parts)
    except BaseException:
        await parts.aclose()
        raise
    return StreamingResponse(lines(first, parts))


@router.post("/v1/end", status_code=204)
async def end(server: AServer, _: Reader) -> None:
    """As a signal does: the server answers whom it has begun to answer."""
    server.awaited.end()


async def lines(
    first: CompletionPart, parts: AsyncGenerator[CompletionPart, None]
) -> AsyncGenerator[str, None]:
    async with aclosing(parts):
        yield f"{first.model_dump_json()}\n"
        try:
            async for part in parts:
                yield f"{part.model_dump_json()}\n"
        except TuneryError as error:
            yield json.dumps({"error": error.code}) + "\n"


@pytest.fixture(autouse=True)
def can_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a module of tests, which imports it: every server that is made there has the route."""
    monkeypatch.setattr(main, "ROUTERS", (*main.ROUTERS, router))


@contextmanager
def asking(client: httpx.Client, **question: Any) -> Iterator[Iterator[str]]:
    """The texts of an answer as they come; what went wrong in its midst is in angle brackets."""
    with client.stream("POST", "/v1/ask", json=question) as response:
        assert response.status_code == 200, response.read()
        yield (said_in(json.loads(line)) for line in response.iter_lines())


def said_in(part: dict[str, Any]) -> str:
    if "error" in part:
        return f"<{part['error']}>"
    return "".join(piece["text"] for piece in part["pieces"])


def ask_all(client: httpx.Client, **question: Any) -> str:
    with asking(client, **question) as texts:
        return "".join(texts)
