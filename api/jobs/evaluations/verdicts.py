"""From both models' answers to the verdict on a job.

A worker sends the answers with its grader's scores before it says that the training succeeded, so
the verdict is there with the success. Where a judge is to be asked the rows come without scores:
then the job succeeds with a verdict that is pending.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs import state
from api.jobs.evaluations.schemas import Compared, WorseRow
from api.tables import NOW, EvaluationRow, Job
from api.webhooks import outbox
from tunery.evaluations import AnsweredRow, AnsweredRows
from tunery.grading.verdict import verdict_of

MOST_SHOWN = 5
SHOWN_CHARACTERS = 500


def add_rows(tx: Session, job: Job, given: AnsweredRows) -> None:
    for row in given.rows:
        tx.merge(
            EvaluationRow(
                project_id=job.project_id,
                job_id=job.id,
                line=row.line,
                row=row.model_dump(mode="json"),
            )
        )
    tx.flush()


def rows_of(
    tx: Session, job_id: str, *, after_line: int = 0, limit: int | None = None
) -> list[AnsweredRow]:
    """In the file's order."""
    query = select(EvaluationRow.row).where(
        EvaluationRow.job_id == job_id, EvaluationRow.line > after_line
    )
    rows = tx.scalars(query.order_by(EvaluationRow.line).limit(limit))
    return [AnsweredRow.model_validate(row) for row in rows]


def conclude(tx: Session, job: Job) -> None:
    """The verdict on a job that succeeds, if it was to have one: whatever comes of it, the job's
    success does not hang on it.
    """
    if not (job.spec or {}).get("evaluation"):
        return
    rows = rows_of(tx, job.id)
    if not rows:
        fail(tx, job, "No validation row leaves room for an answer in the model's context.")
    elif any(row.base_score is None or row.tuned_score is None for row in rows):
        job.evaluation, job.judge_at = Compared(verdict="pending").model_dump(mode="json"), NOW
        tx.flush()
        state.record(tx, job, f"Evaluation: the judge is asked about {len(rows)} rows")
    else:
        settle(tx, job, rows)


def settle(tx: Session, job: Job, rows: list[AnsweredRow]) -> None:
    """Of rows that all have scores: the verdict, with its event, told to webhooks."""
    base, tuned = [row.base_score or 0.0 for row in rows], [row.tuned_score or 0.0 for row in rows]
    found = verdict_of(base, tuned)
    troubles = [row.trouble for row in rows if row.trouble]
    warnings = [found.warning] if found.warning else []
    if troubles:
        count = f"{len(troubles)} rows" if len(troubles) > 1 else "1 row"
        warnings.append(f"{count} could not be graded and count as 0, such as: {troubles[0]}")
    compared = Compared(
        **found.model_dump(exclude={"warning"}),
        got_worse=worst_of(rows),
        warning=" ".join(warnings) or None,
    )
    level = "warn" if found.verdict == "worse" else "info"
    note(tx, job, compared, " ".join([f"Evaluation: {found.sentence}", *warnings]), level)


def put_off(tx: Session, job: Job, why: str) -> None:
    """A judge did not answer: the verdict is pending still, and says why. Its event comes once."""
    compared = Compared(verdict="pending", warning=f"The judge does not answer. {why}")
    known = (job.evaluation or {}).get("warning")
    job.evaluation = compared.model_dump(mode="json")
    tx.flush()
    if known is None:
        words = f"Evaluation: the judge does not answer, and is asked again for a day. {why}"
        state.record(tx, job, words, level="warn")


def fail(tx: Session, job: Job, why: str) -> None:
    compared = Compared(verdict="failed", warning=why)
    note(tx, job, compared, f"Evaluation: there is no verdict. {why}", "warn")


def note(tx: Session, job: Job, compared: Compared, words: str, level: str) -> None:
    facts: dict[str, Any] = compared.model_dump(mode="json")
    job.evaluation, job.judge_at = facts, None
    tx.flush()
    state.record(tx, job, words, level=level, data={"evaluation": brief(facts)})
    outbox.announce(tx, job, outbox.EventType.EVALUATED)


def brief(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the texts of rows."""
    return {name: value for name, value in facts.items() if name != "got_worse"}


def worst_of(rows: list[AnsweredRow]) -> list[WorseRow]:
    def change(row: AnsweredRow) -> float:
        return (row.tuned_score or 0.0) - (row.base_score or 0.0)

    lost = sorted((row for row in rows if change(row) < 0), key=change)
    return [
        WorseRow(
            line=row.line,
            prompt=row.prompt[:SHOWN_CHARACTERS],
            base=row.base[:SHOWN_CHARACTERS],
            tuned=row.tuned[:SHOWN_CHARACTERS],
            base_score=row.base_score or 0.0,
            tuned_score=row.tuned_score or 0.0,
        )
        for row in lost[:MOST_SHOWN]
    ]
