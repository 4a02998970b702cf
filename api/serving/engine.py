"""Answers of the workers' engines. What is asked is a row that a worker claims under a lease, and
what the worker says of it comes to the process that its client waits at: directly, or by NOTIFY
from the process that the worker speaks to. That process alone decides that a worker is lost.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress

from anyio import to_thread
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.db.session import COMPLETION_CHANNEL
from api.http.awaited import Awaited
from api.http.dependencies import Server
from api.serving import completions
from api.serving.asked import Asked
from api.serving.weights import Weights
from api.tenants.places import in_thread, in_thread_patiently
from tunery.completions import CompletionPart, Usage
from tunery.errors import AnswerLost, InvalidRequest, NoWorkerFree

log = logging.getLogger(__name__)

# So often another worker begins an answer anew of which nothing was said yet.
MOST_GIVEN_BACK = 2
AWAY_SECONDS = 1.0
# How long an answer that has begun may go on when the server is to end.
LAST_SECONDS = 10.0


def listen(server: Server) -> None:
    """Before the server's listener runs."""
    wake = server.awaited.wake
    server.listener.hear(COMPLETION_CHANNEL, lambda _: wake(), missed=wake)
    server.listener.hear(server.awaited.channel, server.awaited.hear)


async def answer(
    server: Server, asked: Asked, meant: Weights
) -> AsyncGenerator[CompletionPart, None]:
    """What a worker says, part by part; nothing is held before the first is asked for.

    Raises:
        RateLimited: the project waits for too many answers.
        NoWorkerFree: none took it in time.
        AnswerLost: workers took it, and did not come to its end.
        InvalidRequest: it cannot be answered.

    """
    awaited = server.awaited.begin(completions.new_completion_id())
    try:
        await in_thread(ask, server, awaited, asked, meant)
        async for part in said(server, awaited, meant):
            yield part
    finally:
        server.awaited.close(awaited)


def ask(server: Server, awaited: Awaited, asked: Asked, meant: Weights) -> None:
    with server.db.as_project(asked.project_id) as tx:
        completions.ask(tx, server.settings, server.awaited.channel, awaited.id, asked, meant)


async def said(
    server: Server, awaited: Awaited, meant: Weights
) -> AsyncGenerator[CompletionPart, None]:
    until = time.monotonic() + server.settings.answer_wait_seconds
    begun, given_back = False, 0
    while not awaited.let_go:
        awaited.changed.clear()
        stop = server.awaited.ended_at + (LAST_SECONDS if begun else 0)
        if time.monotonic() >= stop:
            raise AnswerLost("This server is stopping. Ask again.")
        part = awaited.first() if awaited.parts else None
        if part and part.refusal:
            refusal = part.refusal
            raise InvalidRequest(refusal.message, param=refusal.param, code=refusal.code)
        if part and (part.pieces or part.ends or part.usage):
            begun = True
            yield part
            if part.usage:
                return
        released = part is not None and part.released
        now = time.monotonic()
        if part and not released:
            continue
        end = awaited.heard_at + completions.LEASE_SECONDS if awaited.held else until
        if awaited.held and (released or now > min(end, awaited.lost_at)):
            if begun:
                raise lost()
            if given_back == MOST_GIVEN_BACK:
                raise AnswerLost(
                    f"{given_back + 1} workers in turn began the answer and gave it back. Ask "
                    "again."
                )
            given_back += 1
            awaited.free()
            await in_thread_patiently(give_back, server, awaited)
        elif now > end:
            raise await in_thread_patiently(nobody_free, server, meant)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(end, stop, awaited.lost_at) - now + 0.01):
                    await awaited.changed.wait()
    raise AnswerLost("The answer was not read fast enough, so it is no longer kept.")


def lost() -> AnswerLost:
    return AnswerLost("The worker that computed the answer is gone. Ask again.")


def give_back(server: Server, awaited: Awaited) -> None:
    """Raises `AnswerLost` if there is nothing to give back."""
    try:
        with server.db.as_control() as tx:
            there = completions.give_back(tx, awaited.id, awaited.token)
    except (DBAPIError, PoolTimeout) as error:
        raise lost() from error
    if not there:
        raise lost()


def nobody_free(server: Server, meant: Weights) -> NoWorkerFree:
    with server.db.as_control() as tx:
        return completions.nobody_free(tx, meant.base, server.settings.answer_wait_seconds)


async def keep_up(server: Server, ended: asyncio.Event) -> None:
    """Tells the database, for as long as this server runs, which of its completions are over, that
    clients still wait for the others, and what answers took.
    """
    awaited, touch_at = server.awaited, 0.0
    while True:
        last = ended.is_set()
        awaited.nudged.clear()
        over, due = set(awaited.over), time.monotonic() >= touch_at
        still = list(awaited.open) if due else []
        usage, awaited.usage = awaited.usage, {}
        try:
            if over or still or usage:
                threads = server.forgetting_threads
                await to_thread.run_sync(note, server, over, still, usage, limiter=threads)
            awaited.over -= over
            if due:
                touch_at = time.monotonic() + completions.TOUCH_SECONDS
        except (DBAPIError, PoolTimeout) as error:
            # The janitor forgets what this server does not.
            log.warning("the database is away (%s)", error)
            for project_id, more in usage.items():
                awaited.usage.setdefault(project_id, []).extend(more)
            await asyncio.sleep(0 if last else AWAY_SECONDS)
            awaited.nudged.set()
        if last:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(completions.TOUCH_SECONDS):
                await awaited.nudged.wait()


def note(
    server: Server,
    over: Collection[str],
    still: Collection[str],
    usage: dict[str, list[Usage]],
) -> None:
    with server.db.as_control() as tx:
        for project_id in sorted(usage):  # in one order, whichever process counts too
            completions.count(tx, project_id, usage[project_id])
        if over:
            completions.forget(tx, over)
        if still:
            completions.touch(tx, still)
