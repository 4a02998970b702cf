"""Somebody asks a model: who answers, and how it goes."""

import time
from collections.abc import AsyncGenerator
from functools import partial

from api.http import counts
from api.http.dependencies import Server
from api.serving import engine
from api.serving.asked import Asked
from api.serving.endpoints import answer as endpoints
from api.serving.endpoints.attesting import Endpoints
from api.serving.weights import Weights, weights_of
from api.tenants.places import in_thread
from tunery.completions import CompletionPart
from tunery.errors import InvalidRequest, NoWorkerFree, TuneryError


async def open_answer(server: Server, asked: Asked) -> AsyncGenerator[CompletionPart, None]:
    """The parts of an answer, as they come; each says something, and the last has the usage.
    Whoever has no more use for it closes it (`aclose`). It is called, and read, in the request.

    An error before the first part is a refusal of the request. One after it ends the answer.

    Raises:
        NotFound: this project has no such model.
        InvalidRequest: it cannot answer this.

    """
    meant = await in_thread(find, server, asked)
    ours = Endpoints(server)
    if places := await ours.places_of(asked.model, meant):
        else_by_worker = partial(of_worker, server, asked, meant)
        return counted(server, asked, endpoints.answer(ours, places, asked, else_by_worker))
    return counted(server, asked, of_worker(server, asked, meant))


def of_worker(server: Server, asked: Asked, meant: Weights) -> AsyncGenerator[CompletionPart, None]:
    """Raises `InvalidRequest` for another form than text."""
    kind = (asked.response_format or {}).get("type", "text")
    if kind != "text":
        raise InvalidRequest(
            f"response_format: {asked.model} answers in text here; {str(kind)[:64]!r} is not "
            "offered. Leave it out, and say in the prompt which form the answer is to have.",
            param="response_format",
            code="invalid_value",
        )
    return engine.answer(server, asked, meant)


def find(server: Server, asked: Asked) -> Weights:
    with server.db.as_project(asked.project_id) as tx:
        return weights_of(tx, asked)


async def counted(
    server: Server, asked: Asked, parts: AsyncGenerator[CompletionPart, None]
) -> AsyncGenerator[CompletionPart, None]:
    began, end = time.monotonic(), "abandoned"
    first = True
    counts.completions_open.inc()
    try:
        async for part in parts:
            if first:
                counts.first_part.observe(time.monotonic() - began)
                first = False
            if part.usage:
                end = "answered"
                server.awaited.answered(asked.project_id, part.usage)
                counts.completion_tokens.labels("prompt").inc(part.usage.prompt_tokens)
                counts.completion_tokens.labels("completion").inc(part.usage.completion_tokens)
            yield part
    except NoWorkerFree:
        end = "timed_out"
        raise
    except TuneryError as error:
        end = "released" if error.code == "answer_lost" else "refused"
        raise
    finally:
        await parts.aclose()
        counts.completions_open.dec()
        counts.completions.labels(end).inc()
