"""A job's metrics, step by step, as its events carry them."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from api.db.session import Database
from api.jobs.part_schemas import CurvesObject
from api.tenants.places import in_thread_patiently
from tunery.measured import Metrics, Pace

CSV_PAGE = 2_000

# What is not a measurement: it is the same in every step.
TOTAL_STEPS = "total_steps"
# They only grow: there is no spike to be kept.
GROWING = ("step", "epoch", "elapsed_seconds")
KNOWN = (*Metrics.model_fields, *Pace.model_fields)

OF_JOB = "FROM event WHERE job_id = :job AND step IS NOT NULL"

COLUMNS = text("""
    SELECT DISTINCT name FROM event, jsonb_each(data) AS measured(name, value)
    WHERE job_id = :job AND step IS NOT NULL AND jsonb_typeof(value) = 'number'
""")

BOUNDS = text(f"SELECT count(*), min(step), max(step) {OF_JOB}")

PAGE = text(f"SELECT data, step {OF_JOB} AND step > :after ORDER BY step LIMIT :limit")

AT = text("SELECT data FROM event WHERE job_id = :job AND step = ANY(:steps) ORDER BY step")


def extremes_of(names: Sequence[str]) -> TextClause:
    """The steps with the lowest and the highest value of each of these columns in each of so many
    parts: a spike stays to be seen, whatever is left out. Each column is read by its name: taking
    every row's JSON apart takes four times as long. The subquery stands alone (`OFFSET 0`), so that
    a value is read once and not for both of its uses.
    """
    values = ", ".join(
        f"CASE jsonb_typeof(data->'{name}') WHEN 'number' THEN data->>'{name}' END::float8 AS c{i}"
        for i, name in enumerate(names)
    )
    found = ", ".join(
        f"(min(p{i}))[2], (max(p{i}))[2]".replace(
            f"p{i}", f"CASE WHEN c{i} IS NOT NULL THEN ARRAY[c{i}, step] END"
        )
        for i in range(len(names))
    )
    return text(f"""
        SELECT {found} FROM (
            SELECT step, (step - :first)::bigint * :parts / (:last - :first + 1) AS part, {values}
            {OF_JOB} OFFSET 0
        ) AS points GROUP BY part
    """)  # noqa: S608


def thinned(tx: Session, job_id: str, *, limit: int) -> CurvesObject:
    """At most `limit` points, which are all there are if they are no more than that."""
    job = {"job": job_id}
    count, first, last = tx.execute(BOUNDS, job).one()
    if count <= limit:
        rows = tx.scalars(PAGE, {**job, "after": -1, "limit": limit}).all()
    else:
        steps = kept_steps(tx, job_id, first, last, limit)
        rows = tx.scalars(AT, {**job, "steps": sorted(steps)}).all()
    columns = in_order({name for row in rows for name in row if number(row[name]) is not None})
    return CurvesObject(
        job_id=job_id,
        total_steps=total_of(rows[-1]) if rows else None,
        columns=columns,
        points=[[number(row.get(name)) for name in columns] for row in rows],
        measured_points=count,
        thinned=len(rows) < count,
    )


def kept_steps(tx: Session, job_id: str, first: int, last: int, limit: int) -> set[int]:
    """Both ends, and the extremes of each of our columns that goes up and down."""
    ends = tx.scalars(AT, {"job": job_id, "steps": [first, last]})
    there = {name.replace("valid_", "train_") for row in ends for name in row}
    names = [
        name for name in KNOWN if name not in GROWING and name.replace("valid_", "train_") in there
    ]
    if not names:
        return {first, last}
    parts = max(1, (limit - 2) // (2 * len(names)))
    asked = {"job": job_id, "first": first, "last": last, "parts": parts}
    extremes = tx.execute(extremes_of(names), asked)
    return {first, last, *(int(step) for row in extremes for step in row if step is not None)}


def columns_of(tx: Session, job_id: str) -> list[str]:
    """Of all steps."""
    return in_order(set(tx.scalars(COLUMNS, {"job": job_id})))


def in_order(found: set[str]) -> list[str]:
    """The step, then the metrics in their usual order, then what else the events measure."""
    found = found - {TOTAL_STEPS}
    known = [name for name in Metrics.model_fields if name in found]
    return known + sorted(found - set(known))


async def as_csv(db: Database, project_id: str, job_id: str) -> AsyncIterator[str]:
    """All points, in pieces of one short transaction each; a value that is not there is empty."""

    def look() -> list[str]:
        with db.as_project(project_id) as tx:
            return columns_of(tx, job_id)

    def look_on() -> tuple[str, int | None]:
        with db.as_project(project_id) as tx:
            rows = tx.execute(PAGE, {"job": job_id, "after": after, "limit": CSV_PAGE}).all()
        lines = [line([number(row.get(name)) for name in columns]) for row, _ in rows]
        return "".join(lines), rows[-1].step if rows else None

    columns = await in_thread_patiently(look)
    yield line(columns)
    after: int | None = -1
    while True:
        lines, after = await in_thread_patiently(look_on)
        if after is None:
            return
        yield lines


def total_of(point: dict[str, Any]) -> int | None:
    total = number(point.get(TOTAL_STEPS))
    return total if isinstance(total, int) else None


def number(value: Any) -> float | int | None:  # noqa: ANN401
    """What a chart can draw; None else."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def line(cells: list[Any]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow(cells)
    return written.getvalue()
