"""The engine's log of each attempt, as its worker sends it. Of a long one the beginning and the
latest are kept; it goes some days after the job's end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.db.session import Database
from api.jobs.queue import attempts
from api.tables import Attempt, Job, LogPart, from_now
from api.tenants.places import in_thread_patiently
from tunery import messages
from tunery.errors import NotFound, Unauthenticated
from tunery.states import JobState

HEAD_BYTES = 128 << 10
LATEST_BYTES = (1 << 20) - HEAD_BYTES
KEPT_SECONDS = 7 * 24 * 3600
LOOK_SECONDS = 1.0


def add(tx: Session, job_id: str, token: int, part: messages.LogPart) -> None:
    """Keeps a part of the log of the claim's attempt. Idempotent."""
    job = attempts.hold(tx, job_id, token)
    whose = {"project_id": job.project_id, "job_id": job_id, "token": token}
    tx.execute(insert(LogPart).values(**whose, **part.model_dump()).on_conflict_do_nothing())
    older_than = part.start + part.bytes - LATEST_BYTES
    if older_than > HEAD_BYTES:
        tx.execute(
            delete(LogPart).where(
                LogPart.job_id == job_id,
                LogPart.token == token,
                LogPart.start >= HEAD_BYTES,
                LogPart.start + LogPart.bytes <= older_than,
            )
        )


def attempt_of(tx: Session, job: Job, number: int | None) -> Attempt:
    """The attempt of that number, else the newest."""
    attempt = tx.get(Attempt, (job.id, number or job.token))
    if attempt is None:
        had = f"It has had {job.token}." if job.token else "It has not been started yet."
        which = "" if number is None else f" {number}"
        raise NotFound(f"Job {job.id} has no attempt{which}. {had}", param="attempt")
    return attempt


def read(tx: Session, attempt: Attempt, position: int = 0) -> tuple[str, int]:
    """What there is of the log from that byte on, and where it ends."""
    rows = tx.scalars(
        select(LogPart)
        .where(
            LogPart.job_id == attempt.job_id,
            LogPart.token == attempt.token,
            LogPart.start >= position,
        )
        .order_by(LogPart.start)
    )
    texts = []
    for part in rows:
        if part.start > position:
            texts.append(f"[{part.start - position} bytes are left out here]\n")
        texts.append(part.text)
        position = part.start + part.bytes
    return "".join(texts), position


def last_lines(text: str, count: int | None) -> str:
    """All if no count is given."""
    lines = text.splitlines(keepends=True)
    return text if count is None else "".join(lines[max(0, len(lines) - count) :])


async def follow(
    db: Database,
    attempt: Attempt,
    *,
    tail: int | None,
    ended: asyncio.Event,
    require_key: Callable[[], Awaitable[object]],
) -> AsyncIterator[str]:
    """What there is, or the last lines of it, and what comes, until the attempt is over, the server
    has `ended`, or `require_key` raises.
    """

    def look() -> tuple[str, int, bool]:
        with db.as_project(attempt.project_id) as tx:
            now = tx.get_one(Attempt, (attempt.job_id, attempt.token))
            return *read(tx, attempt, position), now.ended_at is not None

    position = 0
    text, position, over = await in_thread_patiently(look)
    yield last_lines(text, tail)
    while not over and not ended.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await ended.wait()
        try:
            await require_key()
        except Unauthenticated:
            return
        text, position, over = await in_thread_patiently(look)
        if text:
            yield text


def clear(tx: Session) -> None:
    """Removes the logs of jobs that ended some days ago. Idempotent."""
    long_over = select(Job.id).where(
        Job.state.in_([state for state in JobState if state.terminal]),
        Job.finished_at < from_now(-KEPT_SECONDS),
        select(LogPart.job_id).where(LogPart.job_id == Job.id).exists(),
    )
    tx.execute(delete(LogPart).where(LogPart.job_id.in_(long_over)))
