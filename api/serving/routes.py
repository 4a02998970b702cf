"""/v1/chat/completions, /v1/completions and /v1/responses: a model answers."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api.http.dependencies import AServer, Reader
from api.http.responses import in_json
from api.http.routing import Route
from api.serving import chat, responses, texts
from api.serving.answering import open_answer
from api.serving.chat_schemas import AskChat, ChatCompletion
from api.serving.response_schemas import AskResponse, ResponseObject
from api.serving.said import whole
from api.serving.sse import Parts, closed, stream, while_there
from api.serving.text_schemas import AskText, TextCompletion
from tunery.errors import TuneryError

router = APIRouter(prefix="/v1", route_class=Route, tags=["Answers"])

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "The answer, or with `stream` events",
    }
}


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def answer_chat(
    asked: AskChat, request: Request, server: AServer, caller: Reader
) -> Response:
    """A base model, a tuned one or a checkpoint of one answers in a conversation. With `stream` the
    answer comes as server-sent events while it is written. Nothing of it is kept, so an
    `Idempotency-Key` has no effect: a request that is sent again is answered anew.
    """
    meant = chat.asked_of(caller.project_id, asked)
    parts = await open_answer(server, meant)
    if asked.stream:
        return await stream(request, parts, chat.ChatWriter(asked))
    answers, usage = await while_there(request, whole(parts, n=asked.n or 1))
    return in_json(chat.completion_of(asked, answers, usage))


@router.post("/completions", response_model=TextCompletion, responses=STREAMED)
async def answer_text(
    asked: AskText, request: Request, server: AServer, caller: Reader
) -> Response:
    """A model goes on with one text or several, without a chat template. Otherwise as
    `POST /v1/chat/completions`.
    """
    meant = texts.asked_of(caller.project_id, asked)
    parts = await texts.open_all(meant, lambda one: open_answer(server, one))
    if asked.stream:
        return await stream(request, parts, texts.TextWriter(asked))
    count = len(meant) * (asked.n or 1)
    answers, usage = await while_there(request, whole(parts, n=count))
    return in_json(texts.completion_of(asked, answers, usage))


@router.post("/responses", response_model=ResponseObject, responses=STREAMED)
async def answer_response(
    asked: AskResponse, request: Request, server: AServer, caller: Reader
) -> Response:
    """A model answers in the shape of OpenAI's responses, with text and calls of functions.
    Otherwise as `POST /v1/chat/completions`; no response can be fetched later or gone on from.
    """
    try:
        parts = await open_answer(server, responses.asked_of(caller.project_id, asked))
        writer = responses.ResponseWriter(asked)
        if asked.stream:
            return await stream(request, parts, writer)
        await while_there(request, write(parts, writer))
    except TuneryError as error:
        raise responses.renamed(error) from None
    return in_json(writer.response)


async def write(parts: Parts, writer: responses.ResponseWriter) -> None:
    """To the end, for a client that does not follow. Raises what ends it early."""
    try:
        async for part in parts:
            list(writer.said(part))
        list(writer.ended())
    finally:
        await closed(parts)
