"""Exports of what jobs have trained: each a row of the job table that a worker claims, tries again
and publishes as it does a training, and that no list of jobs shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.db.session import WAKE_CHANNEL
from api.ids import new_id
from api.jobs import state
from api.jobs.estimates import devices
from api.jobs.exports.schemas import CreateExport, ExportObject
from api.jobs.requests import CreateJob
from api.models import tuned
from api.tables import Artifact, BaseModel, Checkpoint, Event, Job
from api.tenants.projects import Caller
from tunery import exports
from tunery.base_model import served_base
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.exports import OPTIONS, Options, is_whole
from tunery.messages import PROTOCOL, ExportOrder
from tunery.plan.memory import Compute, Plan
from tunery.spec import TrainingSpec
from tunery.states import DesiredState, JobState

PREFIX = "ftexport-"


def create(
    tx: Session,
    caller: Caller,
    job_id: str,
    asked: CreateExport,
    require_room: Callable[[], None],
) -> tuple[Job, bool]:
    """An export of the job's finished model, or of a checkpoint of it that is kept, and whether it
    is a new one: the same asked for again is the same, unless it has failed or was cancelled. A new
    one needs room.

    Raises:
        NotFound: no such job or checkpoint in this project, or it is deleted.
        Conflict: the job has no finished model, or its settings cannot be read any more.
        InvalidRequest: the format cannot carry what was trained.

    """
    job = state.get(tx, job_id)
    # It keeps the checkpoints, and the model from being deleted, until there is an export of it;
    # and who asks for the same at this moment waits.
    tx.refresh(job, with_for_update={"key_share": True})
    state.refuse_deleted_model(job)
    step = None
    if asked.checkpoint is not None:
        step = step_of(tx, job, asked.checkpoint)
    elif job.state != JobState.SUCCEEDED:
        raise Conflict(
            f"Job {job.id} is {job.state} and has no finished model to export. Wait for its end, "
            "or name a checkpoint of it.",
            code="job_not_succeeded",
            param="checkpoint",
        )
    base = tx.get_one(BaseModel, job.base_model_id)
    spec = spec_of(job)
    if spec is None:
        raise Conflict(
            f"This version of the service cannot read the settings of job {job.id}. Its artifacts "
            "are as they were.",
            code="unreadable_spec",
        )
    try:
        exports.refuse(
            asked.options,
            architecture=base.architecture,
            lora=spec.lora,
            not_for_ollama=exports.OWN_TEMPLATE if spec.chat_template else base.not_for_ollama,
        )
    except InvalidRequest as refusal:
        refusal.param = "format"
        raise
    known = the_same(tx, job, asked.options, step)
    if known:
        return known, False
    require_room()
    by = (caller.own_key_id, caller.person_id)
    return make(tx, job, asked.options, step, by=by), True


def the_same(tx: Session, job: Job, options: Options, step: int | None) -> Job | None:
    """The newest export of the job that was asked for so and stands."""
    return tx.scalars(
        select(Job)
        .where(
            Job.exported_job_id == job.id,
            Job.export == order(options, step),
            Job.state.not_in([JobState.FAILED, JobState.CANCELLED]),
            Job.desired_state != DesiredState.CANCEL,
            Job.model_deleted_at.is_(None),
        )
        .order_by(Job.sequence.desc())
        .limit(1)
    ).one_or_none()


def order(options: Options, step: int | None) -> dict[str, Any]:
    return {"options": options.model_dump(mode="json", exclude_none=True), "step": step}


def spec_of(job: Job) -> TrainingSpec | None:
    """None for one that was frozen by another version of the service."""
    try:
        return TrainingSpec.model_validate(job.spec)
    except ValidationError:
        return None


def step_of(tx: Session, job: Job, checkpoint: int | str) -> int:
    """Of a checkpoint by its step, its id, or its name."""
    query = select(Checkpoint.step).where(Checkpoint.job_id == job.id)
    if isinstance(checkpoint, int):
        query = query.where(Checkpoint.step == checkpoint)
    elif named := tuned.CHECKPOINT_NAME.fullmatch(checkpoint):
        step = int(named[2]) if named[1] == job.model_name else -1
        query = query.where(Checkpoint.step == step)
    else:
        query = query.where(Checkpoint.id == checkpoint)
    found = tx.scalar(query)
    if found is None:
        raise NotFound(
            f"Job {job.id} keeps no checkpoint {checkpoint!r}. GET /v1/fine_tuning/jobs/{job.id}"
            "/checkpoints lists those it keeps; name one by its step, its id, or its model name.",
            param="checkpoint",
        )
    return found


def make(
    tx: Session,
    job: Job,
    options: Options,
    step: int | None,
    *,
    by: tuple[str | None, str | None],
) -> Job:
    """`by` are the ids of a key and of a person, as a job has them."""
    export_id = new_id(PREFIX)
    export = Job(
        id=export_id,
        project_id=job.project_id,
        base_model_id=job.base_model_id,
        model_name=export_id,
        exported_job_id=job.id,
        export=order(options, step),
        key_id=by[0],
        person_id=by[1],
        training_file_id=job.training_file_id,
        validation_file_id=job.validation_file_id,
        seed=job.seed,
        request=order(options, step),
        hyperparameters={},
        memory_bytes=memory_for(tx, job, options),
        min_protocol=PROTOCOL,
        state=JobState.QUEUED,
        event_count=1,
    )
    tx.add(export)
    tx.flush()
    of = f"step {step} of {job.id}" if step is not None else job.id
    state.add_event(tx, export, f"Created export: {of} as {options.format}", level="info")
    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
    return export


def memory_for(tx: Session, job: Job, options: Options) -> dict[Compute, int] | None:
    """Only a whole model needs the base loaded, as it was trained on. None: it fits anywhere, or
    who knows.
    """
    if not is_whole(options):
        return None
    spec, base = spec_of(job), tx.get_one(BaseModel, job.base_model_id)
    try:
        plan = Plan.model_validate(job.plan)
    except ValidationError:  # of another version, or from before plans were told
        return None
    return devices.base_bytes(base, spec, plan.quantization) if spec else None


def make_asked(tx: Session, job: Job) -> None:
    """Those that the job was created with, at its success. They were found possible when its
    settings were frozen; whatever is wrong with them now, the job has succeeded.
    """
    try:
        asked = CreateJob.model_validate(job.request).exports or []
    except ValidationError:
        message = "This version of the service cannot read which exports were asked for."
        state.record(tx, job, message, level="warn")
        return
    for wanted in asked:
        export = make(tx, job, wanted.options, None, by=(job.key_id, job.person_id))
        state.record(tx, job, f"Export to {wanted.format} begins: {export.id}")


def order_of(export: Job, trained: Job) -> ExportOrder:
    """Raises `pydantic.ValidationError` for what another version of the service wrote."""
    return ExportOrder(
        options=OPTIONS.validate_python((export.export or {})["options"]),
        plan=Plan.model_validate(trained.plan) if trained.plan else None,
    )


def get(tx: Session, job_id: str, export_id: str, *, lock: bool = False) -> Job:
    state.get(tx, job_id)
    query = select(Job).where(
        Job.id == export_id, Job.exported_job_id == job_id, Job.deleted_at.is_(None)
    )
    export = tx.scalars(query.with_for_update() if lock else query).one_or_none()
    if export is None:
        raise NotFound(f"Job {job_id} has no export {export_id!r}.")
    return export


def cancel(tx: Session, job_id: str, export_id: str) -> Job:
    """As `jobs.cancel`."""
    return state.call_off(tx, get(tx, job_id, export_id, lock=True))


def list_newest(tx: Session, job_id: str, *, limit: int, after: str | None) -> list[Job]:
    """Up to `limit` + 1 of the job's exports."""
    state.get(tx, job_id)
    query = select(Job).where(Job.exported_job_id == job_id, Job.deleted_at.is_(None))
    if after:
        cursor = tx.scalar(
            select(Job.sequence).where(Job.id == after, Job.exported_job_id == job_id)
        )
        if cursor is None:
            raise InvalidRequest(f"No export {after!r} to continue after.", param="after")
        query = query.where(Job.sequence < cursor)
    return list(tx.scalars(query.order_by(Job.sequence.desc()).limit(limit + 1)))


def show(tx: Session, rows: Sequence[Job]) -> list[ExportObject]:
    """Of one job, with their files and what their workers noted."""
    ids = [export.id for export in rows]
    files: dict[str, list[Artifact]] = {export_id: [] for export_id in ids}
    facts: dict[str, dict[str, Any]] = {export_id: {} for export_id in ids}
    query = select(Artifact).where(Artifact.job_id.in_(ids)).order_by(Artifact.name)
    for artifact in tx.scalars(query):
        files[artifact.job_id].append(artifact)
    noted = select(Event.job_id, Event.data).where(Event.job_id.in_(ids))
    for export_id, data in tx.execute(noted.order_by(Event.number)):
        facts[export_id] |= {name: fact for name, fact in (data or {}).items() if name != "log"}
    return [
        ExportObject.of(
            export,
            files=files[export.id],
            facts=facts[export.id],
            serve=serve(tx, export),
        )
        for export in rows
    ]


def serve(tx: Session, export: Job) -> str | None:
    """The command that has it served; None for an adapter in GGUF, whose base is to be found first,
    for encoders, which answer nothing, and for what was deleted.
    """
    if export.model_deleted_at:
        return None
    made, job = export.export or {}, tx.get_one(Job, export.exported_job_id)
    base = tx.get_one(BaseModel, job.base_model_id)
    spec = spec_of(job)
    if spec is None or spec.objective.type == "masked_lm" or spec.lora is None:
        return None
    name = job.model_name if made["step"] is None else f"{job.model_name}:ckpt-step-{made['step']}"
    match made["options"]:
        case {"format": "gguf", "quantization": _}:
            return f"llama-server -m {export.id}/model.gguf --alias {name}"
        case {"format": "ollama", "quantization": _}:
            return f"ollama create tuned -f {export.id}/Modelfile"
        case {"format": "peft"} if base.architecture in exports.VLLM_LAYERS:
            served = served_base(base.id, base.revision, base.source)
            return exports.vllm_serve(served, name=name, folder=export.id, r=spec.lora.r)
        case {"format": "merged"}:
            return f"vllm serve {export.id} --served-model-name {name}"
    return None


def file_of(tx: Session, job_id: str, export_id: str, name: str) -> Artifact:
    export = get(tx, job_id, export_id)
    if export.model_deleted_at:
        raise NotFound(
            f"The model of job {job_id} was deleted, and with it the files of export {export_id}.",
            code="model_deleted",
        )
    files = {file.name: file for file in state.list_artifacts(tx, export_id)}
    if name not in files:
        there = f"It has {', '.join(files)}." if files else "They appear when it has succeeded."
        raise NotFound(f"Export {export_id} has no file {name!r}. {there}")
    return files[name]
