"""An answer of an endpoint, where one has the model and has proved it; else of a worker."""

import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from api.serving import engine
from api.serving.asked import Asked
from api.serving.endpoints import upstream
from api.serving.endpoints.attesting import Endpoints
from api.serving.endpoints.endpoints import Place
from api.serving.endpoints.upstream import NoSuchModel, NotTaken
from api.serving.sse import beating
from tunery.completions import CompletionPart
from tunery.errors import (
    AnswerLost,
    EndpointAway,
    ModelNotVerified,
    NoWorkerFree,
    RateLimited,
    TuneryError,
)

# How soon it is noticed that this server is to end.
LOOK_SECONDS = 1.0

Parts = AsyncGenerator[CompletionPart, None]


async def answer(
    ours: Endpoints, places: list[Place], asked: Asked, of_worker: Callable[[], Parts]
) -> Parts:
    """As `open_answer`. `places` is not empty."""
    trouble: TuneryError | None = None
    for place in in_turn(ours, places):
        parts = at(ours, place, asked)
        begun = False
        try:
            async with aclosing(parts):
                async for part in parts:
                    begun = True
                    yield part
        except NotTaken as error:
            trouble = EndpointAway(
                f"The server that has {asked.model} does not answer ({error}). Try again."
            )
        except ModelNotVerified as error:
            trouble = error
        else:
            if begun:
                return
    parts = of_worker()
    try:
        async with aclosing(parts):
            async for part in parts:
                yield part
    except NoWorkerFree as error:
        raise trouble or error from error


def in_turn(ours: Endpoints, places: list[Place]) -> list[Place]:
    """Those that are known to be good first, and the idlest of them."""
    shuffled = random.sample(places, len(places))
    return sorted(
        shuffled,
        key=lambda place: (place.state != "verified", ours.memory.at_work[place.endpoint_id]),
    )


async def at(ours: Endpoints, place: Place, asked: Asked) -> Parts:
    """Raises `NotTaken` and `ModelNotVerified`, each before the first part."""
    memory = ours.memory
    memory.at_work[place.endpoint_id] += 1
    memory.of_project[asked.project_id] += 1
    try:
        require_room(ours, asked)
        if place.is_open or (place.state == "verified" and not place.loaded):
            place = await ours.ready(place)
        if place.state != "verified":
            raise ModelNotVerified(
                f"{asked.model} is not answered from the server that has it, which has not proved "
                f"that it answers with the trained weights: {place.reason or 'it did not say'}"
            )
        for attempt in range(2):
            begun = False
            parts = upstream.stream(ours.client, place.url, place.key, place.name, asked)
            try:
                async with aclosing(beating(parts, LOOK_SECONDS)) as beats:
                    async for part in beats:
                        if time.monotonic() > ours.server.awaited.ended_at + engine.LAST_SECONDS:
                            raise AnswerLost("This server is stopping. Ask again.")
                        if part:
                            begun = True
                            yield part
            except NoSuchModel:
                # The server was short of room, or has been started again.
                if attempt or begun or place.folder is None:
                    raise
                await ours.load(replace(place, loaded=False))
            else:
                return
    finally:
        memory.at_work[place.endpoint_id] -= 1
        memory.of_project[asked.project_id] -= 1
        if not memory.of_project[asked.project_id]:
            del memory.of_project[asked.project_id]


def require_room(ours: Endpoints, asked: Asked) -> None:
    """Raises `RateLimited` when the project waits for too many answers in this process."""
    most = ours.server.settings.answers_at_once
    if ours.memory.of_project[asked.project_id] > most:
        raise RateLimited(
            f"This project waits for {most:,} answers of models already, which is the most. Try "
            "again when one has come; an operator sets TUNERY_ANSWERS_AT_ONCE.",
            retry_after=2,
        )
