"""Judges: models that grade other models' answers, asked as any client asks them.

Of a job whose grader has one, the rows are graded after its success, by whichever server comes to
it first. A judge that does not answer is asked again later, for a day; nothing else waits for it.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from anyio import to_thread
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.http.dependencies import Server
from api.jobs.evaluations import verdicts
from api.serving.answering import open_answer
from api.serving.asked import Asked
from api.tables import NOW, Job, from_now
from api.tenants.places import RUN, WHOSE
from tunery.completions import ChatPrompt, Sampling
from tunery.errors import TuneryError
from tunery.evaluations import AnsweredRow, AnsweredRows
from tunery.grading.grade import Reply, grade, messages_to, trouble_of
from tunery.grading.graders import Grader, LabelModel, ScoreModel, judges_of
from tunery.grading.templates import NoJson, NoSuchValue, Sample
from tunery.spec import Evaluation

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
# A judge's answer may take so long, and a server that grades a job's rows may say nothing for so
# long, before another takes them up.
ANSWER_SECONDS = 120.0
CLAIM_SECONDS = 600.0
RETRY_SECONDS = 300.0
# After the job's success.
PATIENCE_SECONDS = 24 * 3600
ROWS_AT_ONCE = 4
# Then it is another job's turn.
ROWS_A_TURN = 16
# A judge that says so would say it again: the fault is the question's.
REFUSALS = {"context_length_exceeded", "invalid_messages"}
MOST_TOKENS = 512


async def replies(
    server: Server, project_id: str, grader: Grader, item: Mapping[str, Any], sample: Sample
) -> dict[str, Reply]:
    """What each judge of a grader says of an answer, by the grader's name. One whose placeholders
    find nothing is not asked. It is called in a request of the project.
    """
    found = {}
    for name, judge in judges_of(grader).items():
        with suppress(NoSuchValue, NoJson):
            found[name] = await ask(server, project_id, judge, messages_to(judge, item, sample))
    return found


async def ask(
    server: Server,
    project_id: str,
    judge: ScoreModel | LabelModel,
    messages: list[dict[str, Any]],
) -> Reply:
    wanted = judge.sampling_params
    sampling = Sampling(
        max_tokens=wanted.max_completions_tokens or MOST_TOKENS,
        temperature=wanted.temperature or 0.0,
        top_p=1.0 if wanted.top_p is None else wanted.top_p,
        seed=wanted.seed,
    )
    asked = Asked(project_id, judge.model, ChatPrompt(messages=messages), sampling)
    text, tokens = "", 0
    try:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            aclosing(await open_answer(server, asked)) as parts,
        ):
            async for part in parts:
                text += "".join(piece.text for piece in part.pieces)
                if part.usage:
                    tokens = part.usage.prompt_tokens + part.usage.completion_tokens
    except TuneryError as error:
        return Reply(judge.model, error=error.message, refused=error.code in REFUSALS)
    except TimeoutError:
        return Reply(judge.model, error=f"It did not answer within {ANSWER_SECONDS:.0f} s.")
    return Reply(judge.model, text, tokens)


async def judge_on(server: Server) -> None:
    """Grades what is to be graded, one job after the other."""
    while True:
        try:
            found = await in_own_thread(server, partial(claim, server))
            if found:
                await judge(server, *found)
                continue
        except (OperationalError, PoolTimeout) as error:
            log.warning("the database is away (%s)", error)
        except Exception:
            log.exception("an evaluation could not be graded; it is tried again")
        await asyncio.sleep(LOOK_SECONDS)


async def in_own_thread(server: Server, do: Any) -> Any:  # noqa: ANN401
    return await to_thread.run_sync(do, limiter=server.worker_threads)


def claim(server: Server) -> tuple[str, str, Evaluation, list[AnsweredRow]] | None:
    """The job that has waited longest: its id and project, what it wants, and its rows."""
    with server.db.as_control() as tx:
        job = tx.scalars(
            select(Job)
            .where(Job.judge_at <= NOW)
            .order_by(Job.judge_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        if job is None:
            return None
        given_up = tx.scalars(select(from_now(-PATIENCE_SECONDS))).one()
        if job.finished_at and job.finished_at < given_up:
            verdicts.fail(tx, job, "Its judge did not answer for a day.")
            return None
        job.judge_at = tx.scalars(select(from_now(CLAIM_SECONDS))).one()
        wanted = Evaluation.model_validate((job.spec or {})["evaluation"])
        return job.id, job.project_id, wanted, verdicts.rows_of(tx, job.id)


async def judge(
    server: Server, job_id: str, project_id: str, wanted: Evaluation, rows: list[AnsweredRow]
) -> None:
    """Asks about the next rows without scores, some at once. What is graded is kept row by row."""
    WHOSE.set(project_id)
    RUN.set(partial(server.reads.run, project_id))
    ungraded = [row for row in rows if row.base_score is None or row.tuned_score is None]
    waiting = ungraded[:ROWS_A_TURN]
    away: str | None = None
    while waiting and away is None:
        batch, waiting = waiting[:ROWS_AT_ONCE], waiting[ROWS_AT_ONCE:]
        found = await asyncio.gather(*(judged(server, project_id, wanted, row) for row in batch))
        graded = [row for row in found if isinstance(row, AnsweredRow)]
        away = next((why for why in found if isinstance(why, str)), None)
        if graded:
            await in_own_thread(server, partial(keep, server, job_id, graded))
    whole = len(ungraded) <= ROWS_A_TURN
    await in_own_thread(server, partial(conclude, server, job_id, away, whole=whole))


async def judged(
    server: Server, project_id: str, wanted: Evaluation, row: AnsweredRow
) -> AnsweredRow | str:
    """The row with its scores; or why a judge did not answer."""
    grades = []
    for text, calls in ((row.base, row.base_calls), (row.tuned, row.tuned_calls)):
        sample = Sample(text, calls)
        said = await replies(server, project_id, wanted.grader, row.item, sample)
        for reply in said.values():
            if reply.error and not reply.refused:
                return f"{reply.model}: {reply.error}"
        do = partial(grade, wanted.grader, row.item, sample, said)
        grades.append(await server.gradings.run(project_id, do))
    base, tuned = grades
    scores = {"base_score": base.reward, "tuned_score": tuned.reward}
    return row.model_copy(update=scores | {"trouble": trouble_of(base, tuned)})


def keep(server: Server, job_id: str, rows: list[AnsweredRow]) -> None:
    with server.db.as_control() as tx:
        job = tx.get(Job, job_id, with_for_update=True)
        if job and job.judge_at and not job.model_deleted_at:
            verdicts.add_rows(tx, job, AnsweredRows(rows=rows))
            job.judge_at = tx.scalars(select(from_now(CLAIM_SECONDS))).one()


def conclude(server: Server, job_id: str, away: str | None, *, whole: bool) -> None:
    """The verdict, if all rows are graded; else the next turn, later if a judge was away."""
    with server.db.as_control() as tx:
        job = tx.get(Job, job_id, with_for_update=True)
        if job is None or not job.judge_at:
            return
        if job.model_deleted_at:
            verdicts.fail(tx, job, "The model was deleted before its judge had answered.")
            return
        if away is None and whole:
            verdicts.settle(tx, job, verdicts.rows_of(tx, job_id))
            return
        if away is None:
            job.judge_at = tx.scalars(select(NOW)).one()
            return
        log.warning("the judge of an evaluation is away (%s)", away, extra={"job": job_id})
        verdicts.put_off(tx, job, away)
        job.judge_at = tx.scalars(select(from_now(RETRY_SECONDS))).one()
