"""The rows of what clients wait for: asked, claimed, given back, forgotten. Each change is guarded
by what the row was: a claim that is over changes nothing.
"""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field, TypeAdapter
from sqlalchemy import ColumnElement, Date, Select, case, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from api.db.session import COMPLETION_CHANNEL
from api.http.awaited import words_of
from api.ids import new_id
from api.models import bases
from api.serving import weights
from api.serving.asked import Asked
from api.serving.weights import Weights
from api.settings import Settings
from api.storage.signing import lease_secret
from api.storage.storage import Storage
from api.tables import NOW, Answered, Completion, Worker, from_now
from api.workers import workers
from tunery.completions import (
    ChatPrompt,
    CompletionClaim,
    CompletionLease,
    CompletionPart,
    Refusal,
    Sampling,
    TextPrompt,
    Usage,
)
from tunery.errors import LeaseLost, NoWorkerFree, RateLimited

PREFIX = "cmpl-"
# The first protocol whose workers answer.
ANSWERING_PROTOCOL = 5
# Without a word for so long, a worker that computes an answer is lost.
LEASE_SECONDS = 15.0
# So long a completion is left to a worker that has its base in memory, and to those that have
# fetched it: others would have to load it, and to fetch gigabytes.
COLD_SECONDS, HOLDERS_SECONDS = 0.3, 10.0
# So long what a worker has given back is left to others.
OTHERS_SECONDS = 3.0
# How often a server process tells that its clients still wait, and after which silence it is gone.
TOUCH_SECONDS, ORPHAN_SECONDS = 10.0, 60.0

TODAY = cast(func.timezone("UTC", NOW), Date)
IN_WORK = aliased(Completion)
PROMPT: TypeAdapter[ChatPrompt | TextPrompt] = TypeAdapter(
    Annotated[ChatPrompt | TextPrompt, Field(discriminator="type")]
)


def ask(
    tx: Session, settings: Settings, server: str, id_: str, asked: Asked, meant: Weights
) -> None:
    """In the project's transaction. Raises `RateLimited` when too many are open."""
    most = settings.answers_at_once
    if tx.scalars(select(func.count()).select_from(Completion)).one() >= most:
        raise RateLimited(
            f"This project waits for {most:,} answers of models already, which is the most. Try "
            "again when one has come; an operator sets TUNERY_ANSWERS_AT_ONCE.",
            retry_after=2,
        )
    tx.add(
        Completion(
            id=id_,
            project_id=asked.project_id,
            server=server,
            base=meant.base,
            job_id=meant.job_id,
            step=meant.step,
            quantization=meant.quantization,
            double_quant=meant.double_quant,
            prompt=asked.prompt.model_dump_json(),
            sampling=asked.sampling.model_dump_json(),
        )
    )
    tx.execute(select(func.pg_notify(COMPLETION_CHANNEL, "")))


def new_completion_id() -> str:
    return new_id(PREFIX)


def claim(
    tx: Session, storage: Storage, settings: Settings, ask: CompletionClaim
) -> CompletionLease | None:
    """Leases to this worker the completion whose turn it is; None without one. The server process
    that its client waits at is told.
    """
    worker = workers.see(tx, ask, pools=settings.pools)
    if workers.state_of(tx, worker) != "active":
        return None
    completion = tx.scalars(next_for(tx, ask, worker.id)).one_or_none()
    if completion is None:
        return None
    completion.token += 1
    completion.worker = worker.id
    tx.flush()
    id_, token = completion.id, completion.token
    lent = weights.lent(tx, storage, completion)
    if lent is None:
        gone = Refusal(
            code="model_not_found", message="The model was deleted just now.", param="model"
        )
        tell(tx, completion.server, id_, token, CompletionPart(number=0, refusal=gone))
        return None
    tell(tx, completion.server, id_, token, None)
    return CompletionLease(
        id=id_,
        token=token,
        secret=lease_secret(settings.secret.get_secret_value(), id_, token),
        lease_seconds=LEASE_SECONDS,
        project_id=completion.project_id,
        prompt=PROMPT.validate_json(completion.prompt),
        sampling=Sampling.model_validate_json(completion.sampling),
        quantization=completion.quantization,
        double_quant=completion.double_quant,
        **lent,
    )


def next_for(tx: Session, ask: CompletionClaim, worker_id: str) -> Select[Completion]:
    """The projects take turns: first the one for which the fewest are computed. Among equals what
    is warm comes first, then what has waited longest.
    """
    warm = is_warm(ask)
    computed = (
        select(func.count())
        .where(IN_WORK.project_id == Completion.project_id, IN_WORK.worker.is_not(None))
        .scalar_subquery()
    )
    fits = [
        Completion.worker.is_(None),
        or_(
            Completion.given_back_by.is_distinct_from(worker_id),
            Completion.free_since <= from_now(-OTHERS_SECONDS),
        ),
        warm if ask.only_warm else or_(warm, Completion.free_since <= from_now(-COLD_SECONDS)),
    ]
    if closed := bases.not_loadable(tx, ask):
        fits.append(Completion.base.not_in(closed))
    if elsewhere := workers.held_elsewhere(tx, ask):
        waited = Completion.free_since <= from_now(-HOLDERS_SECONDS)
        fits.append(or_(warm, Completion.base.not_in(elsewhere), waited))
    return (
        select(Completion)
        .where(*fits)
        .order_by(computed, case((warm, 0), else_=1), Completion.created_at)
        .limit(1)
        .with_for_update(of=Completion, skip_locked=True)
    )


def is_warm(ask: CompletionClaim) -> ColumnElement[bool]:
    """Its base is in the worker's memory, and in the precision that it wants."""
    alike = or_(
        Completion.quantization.not_in(["nf4", "fp4"]),
        Completion.double_quant == ask.warm_double_quant,
    )
    return (Completion.base == (ask.warm_base or "")) & or_(
        Completion.quantization.is_(None),
        (Completion.quantization == ask.warm_quantization) & alike,
    )


def tell(tx: Session, server: str, id_: str, token: int, part: CompletionPart | None) -> None:
    """The server process that the client waits at, once this transaction has ended."""
    for word in words_of(id_, token, part):
        tx.execute(select(func.pg_notify(server, word)))


def pass_on(tx: Session, id_: str, token: int, part: CompletionPart) -> None:
    """To the process that waits. Raises `LeaseLost`."""
    server = tx.scalar(
        select(Completion.server).where(
            Completion.id == id_, Completion.token == token, Completion.worker.is_not(None)
        )
    )
    if server is None:
        raise LeaseLost(f"{id_} is another claim's now, or nobody waits for it any more.")
    tell(tx, server, id_, token, part)


def give_back(tx: Session, id_: str, token: int) -> bool:
    """Takes it from its worker, for another one. False if it is gone."""
    freed = tx.scalar(
        update(Completion)
        .where(Completion.id == id_, Completion.token == token, Completion.worker.is_not(None))
        .values(worker=None, given_back_by=Completion.worker, free_since=NOW)
        .returning(Completion.id)
    )
    tx.execute(select(func.pg_notify(COMPLETION_CHANNEL, "")))
    return freed is not None


def forget(tx: Session, ids: Collection[str]) -> None:
    tx.execute(delete(Completion).where(Completion.id.in_(ids)))


def touch(tx: Session, ids: Collection[str]) -> None:
    """Somebody still waits for these."""
    tx.execute(update(Completion).where(Completion.id.in_(ids)).values(seen_at=NOW))


def count(tx: Session, project_id: str, usage: list[Usage]) -> None:
    """Adds to what the project's answers took today."""
    took = {
        "answers": len(usage),
        "prompt_tokens": sum(one.prompt_tokens for one in usage),
        "completion_tokens": sum(one.completion_tokens for one in usage),
    }
    tx.execute(
        insert(Answered)
        .values(project_id=project_id, day=TODAY, **took)
        .on_conflict_do_update(
            index_elements=[Answered.project_id, Answered.day],
            set_={name: getattr(Answered, name) + more for name, more in took.items()},
        )
    )


def forget_orphans(tx: Session) -> None:
    """Those whose server process is gone."""
    tx.execute(delete(Completion).where(Completion.seen_at < from_now(-ORPHAN_SECONDS)))


def nobody_free(tx: Session, base: str, seconds: float) -> NoWorkerFree:
    """Why no worker has claimed it in so many seconds. Needs the control role."""
    protocol = Worker.protocol >= ANSWERING_PROTOCOL
    query = select(Worker).where(workers.is_given_jobs(), protocol)
    there = tx.scalars(query).all()
    if not there:
        why = (
            "no worker is connected that answers. An operator looks at GET /v1/admin/workers; a "
            "worker that was just started takes some seconds"
        )
    elif all(base in worker.lacks for worker in there):
        why = f"none of the {len(there)} workers can load {base}"
    else:
        why = (
            f"the {len(there)} workers that are there train other models, answer others, or "
            "could not load it"
        )
    return NoWorkerFree(f"No worker was free to answer within {seconds:.0f} s: {why}. Try again.")
