"""What devices were taken for, by whom, and what that cost: summed up from the rows of attempts,
each cut to the time that is asked about. Deleted jobs are in it: their rows stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from api.settings import Settings
from api.tables import NOW, ApiKey, Person, Project
from tunery.errors import InvalidRequest

Dimension = Literal["project_id", "api_key_id", "user_id", "model", "pool"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
Width = Literal["1h", "1d"]
WIDTHS: dict[str, timedelta] = {"1h": timedelta(hours=1), "1d": timedelta(days=1)}
# Buckets of a page, as OpenAI has them: without a number, and at most.
USUAL, MOST = {"1h": 24, "1d": 7}, {"1h": 168, "1d": 31}
MOST_ROWS = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = EPOCH, datetime(2200, 1, 1, tzinfo=UTC)


class Span(NamedTuple):
    """From `since` until before `until`, in buckets of a width that begin with hours or days of
    UTC.
    """

    since: datetime
    until: datetime
    width: timedelta

    @property
    def buckets(self) -> list[tuple[datetime, datetime]]:
        found = []
        at = self.floor(self.since)
        while at < self.until:
            found.append((max(at, self.since), min(at + self.width, self.until)))
            at += self.width
        return found

    def floor(self, at: datetime) -> datetime:
        return at - (at - EPOCH) % self.width

    def first(self, count: int) -> "Span":
        """So many buckets of it."""
        return self._replace(until=min(self.until, self.floor(self.since) + count * self.width))


@dataclass(frozen=True)
class Used:
    """What one group took in one bucket. A dimension is None where the report is not by it, or what
    was taken has none. `cost` is None where nothing had a price.
    """

    by: dict[Dimension, str | None]
    device_seconds: float
    attempts: int
    trained_tokens: int
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    currency: str | None


def span_of(
    tx: Session, start: int, end: int | None, width: Width, *, page: str | None = None
) -> Span:
    """Of what was asked for. Raises `InvalidRequest`."""
    now = tx.scalars(select(NOW)).one()
    since = moment(start, "start_time")
    until = now if end is None else moment(end, "end_time")
    if page is not None:
        number = page.removeprefix("page_")
        if not (number.isascii() and number.isdecimal() and len(number) < 12):
            raise InvalidRequest(f"No page {page!r}. Send `next_page` as it came.", param="page")
        since = max(since, moment(int(number), "page"))
    if since >= until:
        raise InvalidRequest(
            "start_time is not before end_time, so there is nothing to report. Without end_time, "
            "that is now.",
            param="start_time",
        )
    return Span(since, until, WIDTHS[width])


def moment(seconds: int, param: str) -> datetime:
    """Raises `InvalidRequest` for what is no time of this service."""
    if not FIRST.timestamp() <= seconds <= LAST.timestamp():
        raise InvalidRequest(f"{param} is {seconds}; write Unix seconds.", param=param)
    return datetime.fromtimestamp(seconds, UTC)


def report(
    tx: Session,
    settings: Settings,
    span: Span,
    by: Sequence[Dimension],
    project_ids: Sequence[str] | None,
) -> dict[datetime, list[Used]]:
    """By the beginnings of the buckets in which there is something, floored. Running attempts count
    until now. Raises `InvalidRequest` for more rows than one answer has.
    """
    rows = tx.execute(
        REPORT,
        {
            "since": span.since,
            "until": span.until,
            "width": span.width,
            "currency": settings.currency,
            "every_project": project_ids is None,
            "projects": list(project_ids or ()),
            "most": MOST_ROWS + 1,
            **{str(name): name in by for name in DIMENSIONS},
        },
    ).all()
    if len(rows) > MOST_ROWS:
        raise InvalidRequest(
            f"That has over {MOST_ROWS:,} rows. Ask for fewer buckets at once (`limit`), for some "
            "projects (`project_ids`), or group by less.",
            param="group_by",
        )
    found: dict[datetime, list[Used]] = {}
    for row in rows:
        found.setdefault(row.bucket, []).append(used(row))
    return found


def used(row: Row[Any]) -> Used:
    return Used(
        by={name: getattr(row, name) for name in DIMENSIONS},
        device_seconds=round(float(row.device_seconds), 3),
        attempts=row.attempts,
        trained_tokens=int(row.trained_tokens),
        answers=int(row.answers),
        prompt_tokens=int(row.prompt_tokens),
        completion_tokens=int(row.completion_tokens),
        cost=None if row.cost is None else round(float(row.cost), 6),
        currency=None if row.cost is None else row.currency,
    )


def names_of(tx: Session, used: Sequence[Used]) -> dict[str, str]:
    """What projects, keys and people are called, by their ids. Over all projects."""
    ids = {id_ for one in used for id_ in one.by.values() if id_}
    found: dict[str, str] = {}
    for project in tx.scalars(select(Project).where(Project.id.in_(ids))):
        found[project.id] = project.name
    for key in tx.scalars(select(ApiKey).where(ApiKey.id.in_(ids))):
        found[key.id] = key.name or key.prefix
    for person in tx.scalars(select(Person).where(Person.id.in_(ids))):
        found[person.id] = person.label
    return found


# What was taken, by everything; then summed up by what is asked for. A row that something has no
# part in (answers have no key) is told by what it has. Trained tokens are counted when their job
# ends, and those of a day's answers when it begins: the hour is not kept.
REPORT = text("""
    WITH taken AS (
        SELECT attempt.project_id, job.key_id, job.person_id, job.base_model_id, attempt.pool,
            attempt.price_per_hour, coalesce(attempt.currency, CAST(:currency AS text)) AS currency,
            greatest(started_at, :since) AS since,
            least(freed_at, coalesce(ended_at, clock_timestamp()), :until) AS until,
            started_at, attempt.gpus
        FROM attempt JOIN job ON job.id = attempt.job_id
        WHERE started_at < :until AND (ended_at IS NULL OR ended_at > :since)
            AND (:every_project OR attempt.project_id = ANY(:projects))
    ), rows AS (
        SELECT bucket, project_id, key_id, person_id, base_model_id, pool, currency,
            gpus * extract(epoch FROM least(until, bucket + :width) - greatest(since, bucket))
                AS seconds,
            price_per_hour, CAST(started_at >= greatest(bucket, :since) AS integer) AS attempts,
            0 AS trained, 0 AS answers, 0 AS prompt, 0 AS completion
        FROM taken CROSS JOIN LATERAL generate_series(
            date_bin(:width, since, TIMESTAMPTZ 'epoch'), until, :width) AS bucket
        WHERE least(until, bucket + :width) > greatest(since, bucket)
        UNION ALL
        SELECT date_bin(:width, finished_at, TIMESTAMPTZ 'epoch'), job.project_id, job.key_id,
            job.person_id, job.base_model_id, attempt.pool,
            coalesce(attempt.currency, CAST(:currency AS text)), 0, NULL, 0, trained_tokens, 0, 0, 0
        FROM job LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.token = job.token
        WHERE finished_at >= :since AND finished_at < :until AND trained_tokens > 0
            AND (:every_project OR job.project_id = ANY(:projects))
        UNION ALL
        SELECT CAST(day AS timestamp) AT TIME ZONE 'UTC', project_id, NULL, NULL, NULL, NULL,
            CAST(:currency AS text), 0,
            NULL, 0, 0, answers, prompt_tokens, completion_tokens
        FROM answered
        WHERE CAST(day AS timestamp) AT TIME ZONE 'UTC' >= :since
            AND CAST(day AS timestamp) AT TIME ZONE 'UTC' < :until
            AND (:every_project OR project_id = ANY(:projects))
    )
    SELECT bucket, CASE WHEN :project_id THEN project_id END AS project_id,
        CASE WHEN :api_key_id THEN key_id END AS api_key_id,
        CASE WHEN :user_id THEN person_id END AS user_id,
        CASE WHEN :model THEN base_model_id END AS model,
        CASE WHEN :pool THEN pool END AS pool, currency,
        sum(seconds) AS device_seconds, sum(attempts) AS attempts,
        sum(price_per_hour * seconds) / 3600 AS cost, sum(trained) AS trained_tokens,
        sum(answers) AS answers, sum(prompt) AS prompt_tokens, sum(completion) AS completion_tokens
    FROM rows
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    LIMIT :most
""")
