"""What a project may have: its own limits, else the service's.

Those who add take turns by project until they have committed, so that two at once cannot pass a
limit that leaves room for one.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from sqlalchemy import (
    ColumnElement,
    ColumnExpressionArgument,
    Date,
    ScalarSelect,
    case,
    cast,
    extract,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.orm import Session

from api.db.session import take_lock
from api.settings import Settings
from api.tables import NOW, Answered, Arrival, Attempt, Job, Project, Upload, UploadPart
from api.tenants import arrivals
from tunery.errors import QuotaReached
from tunery.states import UNFINISHED, JobState, UploadState

Amount = TypeVar("Amount", int, float)

FILES = Field(description="Number of files, including uploads in progress.", examples=[100])
STORED_BYTES = Field(
    description="Bytes in storage: files, uploads in progress, checkpoints, artifacts and exports.",
    examples=[50_000_000_000],
)
UNFINISHED_JOBS = Field(
    description="Number of unfinished jobs and exports, and of exports that such jobs will make.",
    examples=[20],
)
RUNNING_JOBS = Field(
    description="Number of jobs and exports running at the same time.", examples=[2]
)
DEVICE_HOURS = Field(
    description="Hours in this month (UTC) that the project's jobs and exports have held devices, "
    "whatever the outcome.",
    examples=[120],
)
COST = Field(
    description="Money that the devices of the project's jobs and exports have cost in this month "
    "(UTC), by the prices of their pools; as a limit, the budget of each month.",
    examples=[350.5],
)


@dataclass(frozen=True)
class Amounts:
    """What a project has, or may have. A limit that is null is no limit."""

    files: Annotated[int | None, FILES]
    stored_bytes: Annotated[int | None, STORED_BYTES]
    unfinished_jobs: Annotated[int | None, UNFINISHED_JOBS]
    running_jobs: Annotated[int | None, RUNNING_JOBS]
    device_hours: Annotated[float | None, DEVICE_HOURS]
    cost: Annotated[float | None, COST]


def limits_of(settings: Settings, project: Project) -> Amounts:
    return Amounts(
        files=first(project.most_files, settings.project_files),
        stored_bytes=first(project.most_stored_bytes, settings.project_stored_bytes),
        unfinished_jobs=first(project.most_unfinished_jobs, settings.project_unfinished_jobs),
        running_jobs=first(project.most_running_jobs, settings.project_running_jobs),
        device_hours=first(project.most_device_hours, settings.project_device_hours),
        cost=first(project.most_cost, settings.project_cost),
    )


def first(own: Amount | None, of_service: Amount | None) -> Amount | None:
    return of_service if own is None else own


def used_by(tx: Session, settings: Settings, project: Project) -> Amounts:
    files, stored_bytes = stored_by(tx, project)
    return Amounts(
        files=files,
        stored_bytes=stored_bytes,
        unfinished_jobs=count_unfinished(tx, project.id),
        running_jobs=count_jobs(tx, project.id, [JobState.RUNNING]),
        device_hours=round(device_hours_of(tx, project.id), 2),
        cost=round(cost_of(tx, settings, project.id), 2),
    )


def stored_by(tx: Session, project: Project, *, but: str = "") -> tuple[int, int]:
    """Files and bytes, without the arrival of one id. An upload in parts counts as its file from
    its beginning, with what it announced or what has come of it, if that is more; one
    request's from its first byte.
    """
    pending = literal(UploadState.PENDING.value, literal_execute=True)
    came = select(func.sum(UploadPart.bytes)).where(UploadPart.upload_id == Upload.id)
    comes = select(func.sum(Arrival.bytes)).where(
        Arrival.upload_id == Upload.id, arrivals.heard_of()
    )
    parts = func.coalesce(came.scalar_subquery(), 0) + func.coalesce(comes.scalar_subquery(), 0)
    uploads, in_parts = tx.execute(
        select(func.count(), func.coalesce(func.sum(func.greatest(Upload.bytes, parts)), 0)).where(
            Upload.project_id == project.id, Upload.state == pending
        )
    ).one()
    requests, at_once = tx.execute(
        select(func.count(), func.coalesce(func.sum(Arrival.bytes), 0)).where(
            Arrival.project_id == project.id,
            Arrival.upload_id.is_(None),
            Arrival.id != but,
            arrivals.heard_of(),
        )
    ).one()
    size = project.stored_bytes + int(in_parts) + int(at_once)
    return project.files + uploads + requests, size


def words(states: list[JobState]) -> list[ColumnElement[str]]:
    """Not as parameters: the index is for these very words."""
    return [literal(state.value, literal_execute=True) for state in states]


def count_jobs(tx: Session, project_id: str, states: list[JobState]) -> int:
    """Of unfinished states."""
    query = select(func.count()).where(Job.project_id == project_id, Job.state.in_(words(states)))
    return tx.scalars(query).one()


def count_unfinished(tx: Session, project_id: str) -> int:
    """With the exports that they are to make."""
    query = select(func.count() + func.coalesce(func.sum(Job.exports_asked), 0)).where(
        Job.project_id == project_id, Job.state.in_(words(UNFINISHED))
    )
    return int(tx.scalars(query).one())


MONTH_BEGAN = func.date_trunc("month", NOW, "UTC")


def device_hours(
    project_id: ColumnExpressionArgument[str], each: ColumnElement[float] | None = None
) -> ScalarSelect[float]:
    """Of this month, as part of a query; times `each`, which is an attempt's."""
    until = func.least(Attempt.freed_at, func.coalesce(Attempt.ended_at, NOW))
    since = func.greatest(Attempt.started_at, MONTH_BEGAN)
    took = Attempt.gpus * extract("epoch", until - since)
    amount = took if each is None else took * each
    return (
        select(func.coalesce(func.sum(amount), 0) / 3600.0)
        # No attempt takes a month: the index is by its beginning.
        .where(
            Attempt.project_id == project_id,
            Attempt.started_at > MONTH_BEGAN - literal_column("interval '31 days'"),
            until > MONTH_BEGAN,
        )
        .scalar_subquery()
    )


def device_hours_of(tx: Session, project_id: str) -> float:
    return float(tx.scalars(select(device_hours(literal(project_id)))).one())


def cost(settings: Settings, project_id: ColumnExpressionArgument[str]) -> ScalarSelect[float]:
    """As `device_hours`, in the currency of today's prices. Each attempt has the price of when it
    began.
    """
    price = case((Attempt.currency == settings.currency, Attempt.price_per_hour), else_=0.0)
    return device_hours(project_id, price)


def cost_of(tx: Session, settings: Settings, project_id: str) -> float:
    return float(tx.scalars(select(cost(settings, literal(project_id)))).one())


Budget = Literal["device_hours", "cost"]


def budgets(settings: Settings) -> dict[Budget, tuple[ColumnElement[Any], ColumnElement[Any]]]:
    """What the project of the query around this may use in a month, and has used in this one. That
    is summed up only where there is a limit; else both are null.
    """
    hours = func.coalesce(Project.most_device_hours, settings.project_device_hours)
    money = func.coalesce(Project.most_cost, settings.project_cost)
    return {
        "device_hours": (hours, case((hours.is_not(None), device_hours(Project.id)))),
        "cost": (money, case((money.is_not(None), cost(settings, Project.id)))),
    }


def spent(settings: Settings) -> ColumnElement[bool]:
    """Whether the project of the query around this has used up its device hours, or its budget."""
    return or_(*(func.coalesce(used >= most, false()) for most, used in budgets(settings).values()))


@dataclass(frozen=True)
class Answers:
    """What models have answered a project in this month (UTC)."""

    answers: Annotated[int, Field(description="Number of answered requests.", examples=[240])]
    prompt_tokens: Annotated[int, Field(description="Tokens of the prompts.", examples=[50_400])]
    completion_tokens: Annotated[
        int, Field(description="Tokens of the answers.", examples=[15_360])
    ]


def answers_of(tx: Session, project_id: str) -> Answers:
    columns = Answered.answers, Answered.prompt_tokens, Answered.completion_tokens
    sums = [func.coalesce(func.sum(column), 0) for column in columns]
    month = cast(func.timezone("UTC", MONTH_BEGAN), Date)
    where = Answered.project_id == project_id, Answered.day >= month
    return Answers(*map(int, tx.execute(select(*sums).where(*where)).one()))


def take_turn(tx: Session, project_id: str) -> Project:
    """The project, nobody else adding to it until this transaction ends."""
    take_lock(tx, f"quota {project_id}")
    return tx.get_one(Project, project_id, populate_existing=True)


def require_file(
    tx: Session, settings: Settings, project_id: str, size: int, *, arrival: str = ""
) -> None:
    """Room for one more file of so many bytes, which is that arrival. Raises `QuotaReached`."""
    require_room(tx, settings, take_turn(tx, project_id), size, arrival=arrival)


def require_room(
    tx: Session, settings: Settings, project: Project, size: int, *, arrival: str = ""
) -> None:
    limits, used = limits_of(settings, project), stored_by(tx, project, but=arrival)
    if limits.files is not None and used[0] >= limits.files:
        raise reached(project, f"{used[0]:,} of at most {limits.files:,} files", "Delete some")
    if limits.stored_bytes is not None and used[1] + size > limits.stored_bytes:
        raise reached(
            project,
            f"{used[1]:,} of at most {limits.stored_bytes:,} bytes in storage, and this one has "
            f"{size:,}",
            CLEAR_UP,
        )


CLEAR_UP = "Delete files, exports, models or jobs"


def require_job(tx: Session, settings: Settings, project_id: str, *, exports: int = 0) -> None:
    """Room for one more unfinished job with so many exports to come, for what comes of it, and a
    device to run it on. Raises `QuotaReached`.
    """
    project = take_turn(tx, project_id)
    limits = limits_of(settings, project)
    if limits.unfinished_jobs is not None:
        unfinished = count_unfinished(tx, project_id)
        if unfinished + 1 + exports > limits.unfinished_jobs:
            more = f", and this one is to make {exports} exports" if exports else ""
            raise reached(
                project,
                f"{unfinished:,} of at most {limits.unfinished_jobs:,} unfinished jobs{more}",
                "Wait for one or cancel it",
            )
    if limits.stored_bytes is not None:
        stored = stored_by(tx, project)[1]
        if stored >= limits.stored_bytes:
            raise reached(
                project,
                f"{stored:,} of at most {limits.stored_bytes:,} bytes in storage, and no room for "
                "what would come of this",
                CLEAR_UP,
            )
    if limits.device_hours is not None:
        hours = device_hours_of(tx, project_id)
        if hours >= limits.device_hours:
            raise reached(
                project,
                f"used {hours:,.1f} of its {limits.device_hours:,} device hours of this month",
                "Wait for the next month (UTC)",
            )
    if limits.cost is not None:
        money = cost_of(tx, settings, project_id)
        if money >= limits.cost:
            raise reached(
                project,
                f"spent {money:,.2f} of its {limits.cost:,.2f} {settings.currency} of this month",
                "Wait for the next month (UTC)",
            )


def reached(project: Project, what: str, mend: str) -> QuotaReached:
    return QuotaReached(
        f"Project {project.name!r} has {what}. {mend}, or ask the operator of this service for "
        "more."
    )
