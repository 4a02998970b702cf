"""A worker's hold on a job: claim, heartbeat, and the rescue of a job whose worker is gone.

A lease that has expired is not lost yet: only when the janitor has taken the job back is it.
"""

from pydantic import ValidationError
from sqlalchemy import ColumnElement, case, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.db.revision import leave_to_newer
from api.jobs import state
from api.jobs.estimates import forecast
from api.jobs.estimates.devices import Device
from api.jobs.exports import exports
from api.jobs.queue import endings, turns
from api.models import bases, tuned
from api.settings import Settings
from api.storage.kept import files_of, link_to, links_to
from api.storage.signing import lease_secret
from api.storage.storage import Storage
from api.tables import (
    NOW,
    Attempt,
    Attendance,
    BaseModel,
    Checkpoint,
    File,
    Job,
    Lease,
    Worker,
    from_now,
)
from api.workers import workers
from tunery import messages
from tunery.facts import FileFacts, FileLink
from tunery.failpoint import failpoint
from tunery.spec import TrainingSpec
from tunery.states import (
    AttemptEnd,
    DesiredState,
    FailureClass,
    JobState,
    WorkerState,
)

# So long a job is left to the workers that have fetched its base, if there are any: others would
# have to fetch gigabytes.
HOLDERS_SECONDS = 10.0


def claim(
    tx: Session, storage: Storage, settings: Settings, ask: messages.ClaimRequest
) -> messages.Lease | None:
    """Leases to this worker the job whose turn it is (`api.jobs.queue.turns`); None without one.
    Raises `MadeByNewer`.
    """
    worker = workers.see(tx, ask, pools=settings.pools)
    if workers.state_of(tx, worker) != "active":
        return None
    job_id = turns.next_job(tx, settings, suits(tx, ask), ask.warm_base)
    if job_id is None:
        return None
    kind = "Export" if job_id.startswith(exports.PREFIX) else "Fine-tuning job"
    job = state.move(
        tx,
        job_id,
        expected={JobState.QUEUED},
        to=JobState.RUNNING,
        message=f"{kind} started on worker {ask.worker}",
        token=Job.token + 1,
        idle_attempts=Job.idle_attempts + 1,
        fetching=None,
    )
    assert job  # noqa: S101  (its row is locked)
    job.estimated_finish = forecast.finish(job, tx.scalars(select(NOW)).one())
    until = from_now(settings.lease_seconds)
    held = {"token": job.token, "worker": ask.worker, "until": until, "step": 0}
    tx.execute(
        insert(Lease)
        .values(job_id=job.id, **held)
        .on_conflict_do_update(index_elements=[Lease.job_id], set_=held)
    )
    price, currency = settings.price_of(ask.pool)
    tx.add(
        Attempt(
            project_id=job.project_id,
            job_id=job.id,
            token=job.token,
            worker_id=worker.id,
            worker=ask.worker,
            pool=ask.pool,
            price_per_hour=price,
            currency=currency,
            gpus=job.gpus,
        )
    )
    tx.flush()
    try:
        lease = lease_of(tx, storage, settings, job)
    except ValidationError as error:
        leave_to_newer(tx, f"job {job_id}")
        # Its settings were frozen by an older version of the service. The others must not wait.
        unreadable = messages.Failed(
            failure_class=FailureClass.USER,
            code="unreadable_spec",
            message="This version of the service cannot read the job's settings "
            f"({error.error_count()} of them). Create the job again.",
        )
        endings.fail(tx, job, unreadable)
        return None
    if lease.spec.base_revision != lease.base_model.revision:
        endings.fail(tx, job, replaced(lease))
        return None
    free(tx, worker, beside=job)
    failpoint("api.claimed")
    return lease


def free(tx: Session, worker: Worker, *, beside: Job) -> None:
    """Of whatever else the worker still holds, it only sends the results. A row that is locked is
    left out: its attempt is ending just now.
    """
    others = select(Attempt.job_id, Attempt.token).where(
        Attempt.worker_id == worker.id,
        Attempt.job_id != beside.id,
        Attempt.ended_at.is_(None),
        Attempt.freed_at.is_(None),
    )
    free_now = others.with_for_update(skip_locked=True)
    tx.execute(
        update(Attempt)
        .where(tuple_(Attempt.job_id, Attempt.token).in_(free_now))
        # A clock that went back must not make its time negative.
        .values(freed_at=func.greatest(NOW, Attempt.started_at))
    )


def replaced(lease: messages.Lease) -> messages.Failed:
    """Its base was broken, and has been registered with other files since the job was made."""
    base, meant = lease.base_model, lease.spec.base_revision
    return messages.Failed(
        failure_class=FailureClass.BASE,
        code="base_model_replaced",
        message=f"The base model {base.id} was repaired: it is at revision {base.revision} now, "
        f"the job is for revision {meant}. Create the job again.",
    )


def suits(tx: Session, ask: messages.ClaimRequest) -> ColumnElement[bool]:
    """A job that the worker can train, as far as is known."""
    fits = Job.min_protocol <= ask.protocol
    if closed := bases.not_loadable(tx, ask):
        fits &= Job.base_model_id.not_in(closed)
    if elsewhere := workers.held_elsewhere(tx, ask):
        waited = Job.available_at <= from_now(-HOLDERS_SECONDS)
        fits &= or_(Job.base_model_id.not_in(elsewhere), waited)
    return fits & Device(ask.device, ask.memory_bytes, ask.gpus).holds_job


def lease_of(tx: Session, storage: Storage, settings: Settings, job: Job) -> messages.Lease:
    """All that one attempt needs, as the worker is told it."""
    newest_first = select(Checkpoint).where(Checkpoint.job_id == job.id)
    checkpoints = [
        checkpoint_link(storage, checkpoint)
        for checkpoint in tx.scalars(newest_first.order_by(Checkpoint.step.desc()))
    ]
    trained = job if job.exported_job_id is None else tx.get_one(Job, job.exported_job_id)
    base = bases.facts_of(tx.get_one(BaseModel, job.base_model_id))
    return messages.Lease(
        job_id=job.id,
        token=job.token,
        secret=lease_secret(settings.secret.get_secret_value(), job.id, job.token),
        lease_seconds=settings.lease_seconds,
        spec=TrainingSpec.model_validate(trained.spec),
        # No worker needs them, see there; the spec has the template.
        base_model=base.model_copy(
            update={"not_for_ollama": None, "chat_template": None, "examined": None}
        ),
        training_file=data_link(tx, storage, job.training_file_id),
        validation_file=data_link(tx, storage, job.validation_file_id),
        checkpoint=checkpoints[0] if checkpoints else None,
        earlier_checkpoints=checkpoints[1:],
        project_id=job.project_id,
        adapter=adapter_link(tx, storage, job),
        export=exports.order_of(job, trained) if trained is not job else None,
        base_files=bases.links_of(storage, base),
    )


def adapter_link(tx: Session, storage: Storage, job: Job) -> messages.AdapterLink | None:
    """To what it starts from, or what is exported."""
    if job.export and job.exported_job_id:
        files = tuned.adapter_files(tx, job.exported_job_id, job.export["step"])
    elif job.source:
        source = tuned.Source(**job.source)
        files = tuned.adapter_files(tx, source.job_id, source.step)
    else:
        return None
    return messages.AdapterLink(files=links_to(storage, files))


def data_link(tx: Session, storage: Storage, file_id: str | None) -> FileLink | None:
    """None if there is no such file, or no more: an export does without."""
    file = tx.get_one(File, file_id) if file_id else None
    if file is None or file.deleted_at:
        return None
    container = (file.report or {}).get("container", "jsonl")
    # By its name the worker knows CSV.
    facts = FileFacts(name=f"{file.id}.{container}", bytes=file.bytes, sha256=file.sha256)
    return link_to(storage, file.key, facts)


def checkpoint_link(storage: Storage, checkpoint: Checkpoint) -> messages.CheckpointLink:
    return messages.CheckpointLink(
        step=checkpoint.step, files=links_to(storage, files_of(checkpoint))
    )


def heartbeat(
    tx: Session, settings: Settings, ask: messages.HeartbeatRequest
) -> messages.HeartbeatReply:
    """Renews a worker's leases, and says what it is to do with each.

    Raises:
        ProtocolTooOld: see `workers.see`.

    """
    if ask.worker is None:
        raise workers.too_old("This worker", 1)
    desired = [renew(tx, settings, beat) for beat in ask.leases]
    seen = workers.see(tx, ask.worker, pools=settings.pools, leaving=ask.leaving)
    draining = seen.state == WorkerState.DRAINING
    directives: dict[str | None, str] = {
        None: "lost",
        DesiredState.RUN: "release" if draining else "run",
        DesiredState.PAUSE: "pause",
        DesiredState.CANCEL: "cancel",
    }
    leases = [
        messages.Directive.model_validate(
            {"job_id": beat.job_id, "token": beat.token, "directive": directives[wish]}
        )
        for beat, wish in zip(ask.leases, desired, strict=True)
    ]
    return messages.HeartbeatReply(leases=leases, draining=draining)


def renew(tx: Session, settings: Settings, beat: messages.LeaseBeat) -> str | None:
    """What the job's user wishes; None if the claim is over."""
    return tx.scalar(
        update(Lease)
        .where(
            Lease.job_id == beat.job_id,
            Lease.token == beat.token,
            Job.id == Lease.job_id,
            Job.token == Lease.token,
            Job.state == JobState.RUNNING,
        )
        .values(until=from_now(settings.lease_seconds), step=beat.step)
        .returning(Job.desired_state)
    )


def attend(tx: Session, *, lease_seconds: float) -> None:
    """An API is there to hear heartbeats. After a gap of half a lease it counts from anew."""
    gap = Attendance.seen_at < from_now(-lease_seconds / 2)
    tx.execute(
        insert(Attendance)
        .values(id=1, since=NOW, seen_at=NOW)
        .on_conflict_do_update(
            index_elements=[Attendance.id],
            set_={"since": case((gap, NOW), else_=Attendance.since), "seen_at": NOW},
        )
    )


def rescue(tx: Session, settings: Settings) -> Job | None:
    """Takes one job back from a worker that has not been heard of for its whole lease, while an API
    was there to hear it: after an outage every worker has a lease's time to come back.
    """
    listened = (
        select(Attendance.id)
        .where(
            Attendance.since < from_now(-settings.lease_seconds),
            Attendance.seen_at > from_now(-settings.lease_seconds / 2),
        )
        .exists()
    )
    gone = tx.execute(
        select(Job, Lease.worker, Lease.until)
        .join(Lease, (Lease.job_id == Job.id) & (Lease.token == Job.token))
        .where(Job.state == JobState.RUNNING, Lease.until < NOW, listened)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if gone is None:
        return None
    job, worker, until = gone
    lost = messages.Failed(
        failure_class=FailureClass.INFRA,
        code="worker_lost",
        message=f"Worker {worker} was not heard of in time.",
    )
    endings.interrupt(tx, settings, job, AttemptEnd.LOST, lost, at=until)
    return job
