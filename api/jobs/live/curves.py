"""A job's metrics, step by step, as its events carry them."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db.session import Database
from api.jobs.part_schemas import CurvesObject
from api.tenants.places import in_thread_patiently
from tunery.measured import Metrics

CSV_PAGE = 2_000

# What is not a measurement: it is the same in every step.
TOTAL_STEPS = "total_steps"
# They only grow: there is no spike to be kept.
GROWING = ("epoch", "elapsed_seconds")

OF_JOB = "FROM event WHERE job_id = :job AND step IS NOT NULL"

COLUMNS = text("""
    SELECT DISTINCT name FROM event, jsonb_each(data) AS measured(name, value)
    WHERE job_id = :job AND step IS NOT NULL AND jsonb_typeof(value) = 'number'
""")

COUNT = text(f"SELECT count(*) {OF_JOB}")

PAGE = text(f"SELECT data, step {OF_JOB} AND step > :after ORDER BY step LIMIT :limit")

# Of each column the lowest and the highest value in each of so many parts, and both ends: a spike
# stays to be seen, whatever is left out.
THINNED = text(f"""
    WITH points AS (
        SELECT step, data, ntile(:parts) OVER (ORDER BY step) AS part {OF_JOB}
    ), extremes AS (
        SELECT (min(ARRAY[value::text::float8, step]))[2] AS lowest,
            (max(ARRAY[value::text::float8, step]))[2] AS highest
        FROM points, jsonb_each(data) AS measured(name, value)
        WHERE jsonb_typeof(value) = 'number' AND name <> ALL (:smooth)
        GROUP BY part, name
    ), kept AS (
        SELECT lowest AS step FROM extremes UNION SELECT highest FROM extremes
        UNION SELECT min(step) FROM points UNION SELECT max(step) FROM points
    )
    SELECT data FROM points WHERE step IN (SELECT step FROM kept) ORDER BY step
""")  # noqa: S608


def thinned(tx: Session, job_id: str, *, limit: int) -> CurvesObject:
    """At most `limit` points, which are all there are if they are no more than that."""
    columns = columns_of(tx, job_id)
    count = tx.scalars(COUNT, {"job": job_id}).one()
    if count <= limit:
        rows = tx.scalars(PAGE, {"job": job_id, "after": -1, "limit": limit}).all()
    else:
        smooth = ["step", TOTAL_STEPS, *GROWING]
        measured = max(1, len(set(columns) - set(smooth)))
        parts = max(1, (limit - 2) // (2 * measured))
        rows = tx.scalars(THINNED, {"job": job_id, "parts": parts, "smooth": smooth}).all()
    return CurvesObject(
        job_id=job_id,
        total_steps=total_of(rows[-1]) if rows else None,
        columns=columns,
        points=[[number(row.get(name)) for name in columns] for row in rows],
        measured_points=count,
        thinned=len(rows) < count,
    )


def columns_of(tx: Session, job_id: str) -> list[str]:
    """The step, then the metrics in their usual order, then what else the events measure."""
    found = set(tx.scalars(COLUMNS, {"job": job_id})) - {TOTAL_STEPS}
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
