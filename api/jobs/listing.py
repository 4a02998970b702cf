"""Lists of a project's jobs: which are wanted, and how a page of them is found among very many."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.errors import QueryCanceled
from sqlalchemy import ColumnElement, Row, Select, or_, select, text, tuple_
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, aliased

from api.jobs.state import METADATA
from api.tables import Job, JobMetadata
from tunery.errors import InvalidRequest
from tunery.states import JobState

# No index finds a part of a name: the jobs are looked through.
SEARCH_SECONDS = 3


@dataclass(frozen=True)
class Wanted:
    """Jobs for which all of this holds. `model` is their base, or the tuned model (`ft:…`) that
    they go on from. `created` are comparisons with the time of creation, as (`>=`, time). `part` is
    a part of the id, the suffix or the tuned model's name. `file` is what they train on, or are
    validated on. `metadata` are pairs; None is jobs without any.
    """

    states: frozenset[JobState] = frozenset()
    model: str | None = None
    created: tuple[tuple[str, datetime], ...] = ()
    part: str | None = None
    file: str | None = None
    metadata: dict[str, str] | None = field(default_factory=dict)
    oldest_first: bool = False

    @property
    def more(self) -> bool:
        """Whether anything is asked for beside metadata."""
        return any((self.states, self.model, self.created, self.part, self.file))


def list_jobs(
    tx: Session, wanted: Wanted, *, limit: int, after: str | None
) -> list[tuple[Job, dict[str, str]]]:
    """Up to `limit` + 1 jobs behind job `after`, each with its metadata.

    Raises:
        InvalidRequest: there is no job `after`, or looking for the part of a name took too long.

    """
    # By time where that is asked for, so that the index on it is in the order of the list.
    order = (Job.created_at, Job.sequence) if wanted.created else (Job.sequence,)
    cursor = cursor_at(tx, order, after) if after else None
    query = select(Job, METADATA.scalar_subquery()).where(
        Job.exported_job_id.is_(None), Job.deleted_at.is_(None), *conditions(wanted)
    )
    if wanted.metadata:
        query = query.where(Job.sequence.in_(carrying(wanted, wanted.metadata, cursor, limit)))
    if cursor:
        query = query.where(behind(tuple_(*order), tuple_(*cursor), wanted))
    query = query.order_by(*(in_order(column, wanted) for column in order)).limit(limit + 1)
    if wanted.more or len(wanted.metadata or ()) > 1:
        # A plan made for any values does not know which of them are rare.
        tx.connection().exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")
    if wanted.part:
        tx.execute(text(f"SET LOCAL statement_timeout = '{SEARCH_SECONDS}s'"))
    try:
        found = tx.execute(query).all()
    except OperationalError as error:
        if wanted.part and isinstance(error.orig, QueryCanceled):
            raise InvalidRequest(
                f"q: looking for {wanted.part!r} took more than {SEARCH_SECONDS} seconds. Narrow "
                "it down with status, model, metadata or created_at.",
                param="q",
                code="search_too_slow",
            ) from error
        raise
    return [(job, pairs or {}) for job, pairs in found]


def cursor_at(tx: Session, order: tuple[Any, ...], after: str) -> Row[Any]:
    found = tx.execute(
        select(*order).where(Job.id == after, Job.exported_job_id.is_(None))
    ).one_or_none()
    if found is None:
        raise InvalidRequest(f"No job {after!r} to continue after.", param="after")
    return found


def in_order(column: Any, wanted: Wanted) -> ColumnElement[Any]:  # noqa: ANN401
    ordered: ColumnElement[Any] = column.asc() if wanted.oldest_first else column.desc()
    return ordered


def conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.states:
        found.append(Job.state.in_(sorted(wanted.states)))
    if wanted.model and wanted.model.startswith("ft:"):
        found += [Job.source_job_id.is_not(None), Job.source["model"].as_string() == wanted.model]
    elif wanted.model:
        found.append(Job.base_model_id == wanted.model)
    found += [Job.created_at.op(sign, is_comparison=True)(time) for sign, time in wanted.created]
    if part := wanted.part:
        names = (Job.id, Job.suffix, Job.model_name)
        found.append(or_(*(name.icontains(part, autoescape=True) for name in names)))
    if wanted.file:
        found.append(
            or_(Job.training_file_id == wanted.file, Job.validation_file_id == wanted.file)
        )
    if wanted.metadata is None:
        found.append(~Job.has_metadata)
    return found


def carrying(
    wanted: Wanted, metadata: dict[str, str], cursor: Row[Any] | None, limit: int
) -> Select[int]:
    """The jobs that carry all the pairs, by their `sequence`: found among the pairs alone, each in
    the order of the list, however many jobs have none of them. Unless more is asked for than
    metadata, those of the page are enough.
    """
    first, *others = (aliased(JobMetadata) for _ in metadata)
    query = select(first.sequence)
    for other in others:
        query = query.join(other, other.sequence == first.sequence)
    for pair, (key, value) in zip((first, *others), metadata.items(), strict=True):
        query = query.where(pair.key == key, pair.value == value)
        if cursor and not wanted.more:
            query = query.where(behind(pair.sequence, cursor.sequence, wanted))
    if wanted.more:
        return query
    return query.order_by(in_order(first.sequence, wanted)).limit(limit + 1)


def behind(place: Any, cursor: Any, wanted: Wanted) -> ColumnElement[bool]:  # noqa: ANN401
    found: ColumnElement[bool] = place > cursor if wanted.oldest_first else place < cursor
    return found
