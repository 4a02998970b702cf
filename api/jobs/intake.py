"""From a request to a queued job: its model and files looked up, its settings frozen."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.db.revision import leave_to_newer
from api.files import files
from api.ids import new_id
from api.jobs import cautions, specs, state
from api.jobs.estimates import devices, forecast
from api.jobs.evaluations.rows import refuse_evaluation, refuse_unread
from api.jobs.named import named
from api.jobs.requests import CreateJob
from api.models import bases, tuned
from api.models.tuned import Source
from api.settings import Pool
from api.tables import NOW, BaseModel, File, Job, JobMetadata
from api.tenants.projects import Caller
from api.trackers import keys, runs
from tunery.data.columns import Columns
from tunery.data.rows import CHATS
from tunery.errors import FileHasFaults, InvalidRequest
from tunery.messages import PROTOCOL
from tunery.plan.shape import ENCODERS
from tunery.plan.targets import refuse_no_experts, targeted
from tunery.states import DesiredState, FileState, JobState

LEARNT_FROM = {
    "supervised": {*CHATS, "completion", "text"},
    "dpo": {"preference"},
    "masked_lm": {"text"},
}
WANTED = {
    "supervised": "chats, prompts with completions, or texts",
    "dpo": "pairs of preferred and rejected answers",
    "masked_lm": "texts",
}
HELD = dict.fromkeys(CHATS, "chats") | {
    "completion": "prompts with completions",
    "text": "texts",
    "preference": "pairs of preferred and rejected answers",
}


def create(
    tx: Session,
    caller: Caller,
    asked: CreateJob,
    known_warnings: Sequence[str] = (),
    pools: Sequence[Pool] = (),
) -> Job:
    """A new job: queued at once when its files are checked, else waiting for them. `known_warnings`
    become the job's, if it is queued. A worker of one of the `pools` may be started for it.

    Raises:
        NotFound: no such model or file in this project.
        InvalidRequest: a setting that cannot work; the message says how to fix it.
        FileHasFaults: the check of a file found faults.
        DoesNotFit: no worker's device could hold it.

    """
    if columns := asked.training.columns:
        for file_id in filter(None, (asked.training_file, asked.validation_file)):
            files.read_by(tx, file_id, columns, param="training.columns")
    base, source, data = look_up(tx, asked)
    keys.require(tx, caller.project_id, asked)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    if checked(data):
        spec, _ = specs.freeze(asked, base, source, data, seed=seed)
        devices.require_one_that_fits(
            tx,
            base,
            spec,
            pools,
            longest=forecast.longest_row(data["training_file"], spec),
            data=forecast.bytes_of(data.values(), spec),
        )
    job_id = new_id("ftjob-")
    job = Job(
        id=job_id,
        project_id=caller.project_id,
        base_model_id=base.id,
        key_id=caller.own_key_id,
        person_id=caller.person_id,
        model_name=state.tuned_model_name(job_id, base.id, caller.project, asked.suffix),
        source_job_id=source.job_id if source else None,
        source=asdict(source) if source else None,
        training_file_id=asked.training_file,
        validation_file_id=asked.validation_file,
        suffix=asked.suffix,
        seed=seed,
        has_metadata=bool(asked.metadata),
        request=asked.model_dump(mode="json", exclude_unset=True),
        exports_asked=len(asked.exports or []),
        hyperparameters=asked.settings.model_dump(mode="json"),
        state=JobState.VALIDATING_FILES,
        event_count=1,
    )
    tx.add(job)
    with unless_removed(base.id):
        tx.flush()
    for key, value in (asked.metadata or {}).items():
        tx.add(
            JobMetadata(
                project_id=job.project_id,
                job_id=job.id,
                key=key,
                value=value,
                sequence=job.sequence,
            )
        )
    runs.follow(tx, job, asked)
    state.add_event(tx, job, f"Created fine-tuning job: {job.id}", level="info")
    checking = " and ".join(f"{param.replace('_', ' ')}: {f.id}" for param, f in data.items())
    state.record(tx, job, f"Validating {checking}")
    queue_if_checked(tx, job, known_warnings, pools)
    return job


@contextmanager
def unless_removed(base_id: str) -> Iterator[None]:
    """Raises `NotFound` if an operator has just removed the base model."""
    try:
        yield
    except IntegrityError as error:
        if "base_model" in str(error.orig):
            raise tuned.unknown(base_id) from error
        raise


def look_up(
    tx: Session, asked: CreateJob, unregistered: BaseModel | None = None
) -> tuple[BaseModel, Source | None, dict[str, File]]:
    """The base model of a request, the tuned one that it goes on from, if any, and its files, by
    the request's fields. Raises as `create`.
    """
    model = unregistered or tuned.get(tx, asked.model, lock=True)
    source = None
    if isinstance(model, BaseModel):
        base = model
    else:
        base = tx.get_one(BaseModel, model.job.base_model_id)
        source = tuned.source_of(tx, model)
        specs.refuse_another_shape(asked, source)
    bases.refuse_broken(tx, base)
    refuse_unfit_method(asked, base)
    refuse_missing_layers(asked, base)
    refuse_evaluation(tx, asked)
    longest = named(asked).max_length
    if longest is not None and longest > base.context_length:
        said = "max_seq_length" if asked.training.max_length is None else "max_length"
        raise InvalidRequest(
            f"training.{said} is {longest}, the context of {base.id} is "
            f"{base.context_length} tokens. Lower it or leave it out.",
            param=f"training.{said}",
        )
    given = {"training_file": asked.training_file, "validation_file": asked.validation_file}
    data = {
        param: files.get(tx, file_id, param=param, lock=True)
        for param, file_id in given.items()
        if file_id
    }
    for param, file in data.items():
        refuse_unfit(file, base, source, asked, param)
    return base, source, data


def refuse_missing_layers(asked: CreateJob, base: BaseModel) -> None:
    """Raises `InvalidRequest` for targets that are no linear layers of the base, or none of its
    experts' parameters, if it is known.
    """
    wanted, shape = named(asked), devices.shape_of(base)
    if shape is None:
        return
    if wanted.target_modules is not None:
        targeted(shape, wanted.target_modules)
    if wanted.target_parameters is not None:
        refuse_no_experts(shape, wanted.target_parameters)


def checked(data: dict[str, File]) -> bool:
    return all(file.status == FileState.PROCESSED for file in data.values())


def finish_check(
    tx: Session,
    file_id: str,
    report: dict[str, Any],
    columns: Columns | None = None,
    pools: Sequence[Pool] = (),
) -> None:
    """Records a file's report, made with those columns, and takes up the jobs that waited for it.
    Idempotent. Raises `MadeByNewer`.
    """
    files.record_report(tx, file_id, report, columns)
    waiting = tx.scalars(
        select(Job)
        .where(
            or_(Job.training_file_id == file_id, Job.validation_file_id == file_id),
            Job.state == JobState.VALIDATING_FILES,
        )
        .order_by(Job.id)
        # The job's other file may be recorded at this very moment: one goes after the other.
        .with_for_update()
    )
    for job in waiting.all():
        queue_if_checked(tx, job, pools=pools)


def refuse_unfit_method(asked: CreateJob, base: BaseModel) -> None:
    encoder = base.architecture in ENCODERS
    if encoder != (asked.method_type == "masked_lm"):
        kind = "an encoder" if encoder else "a decoder"
        fits = "masked_lm" if encoder else "supervised or dpo"
        raise InvalidRequest(
            f"{base.id} is {kind} ({base.architecture}), which the method {asked.method_type} does "
            f"not train. Choose the method {fits}, or another model.",
            param="method.type",
        )


def refuse_unfit(
    file: File, base: BaseModel, source: Source | None, asked: CreateJob, param: str
) -> None:
    if file.purpose != files.FINE_TUNE:
        raise InvalidRequest(
            f"File {file.id} has purpose {file.purpose!r}; a {param.replace('_', ' ')} needs one "
            f"uploaded with purpose {files.FINE_TUNE!r}.",
            param=param,
        )
    if file.status == FileState.ERROR:
        raise FileHasFaults(
            f"File {file.id} has faults: {file.status_details} Fix them and upload the file again; "
            f"GET /v1/files/{file.id}/report lists them all.",
            param=param,
        )
    formats = set((file.report or {}).get("formats", ()))
    method = asked.method_type
    if unfit := formats - LEARNT_FROM[method]:
        holds, wants = HELD[unfit.pop()], WANTED[method]
        raise FileHasFaults(
            f"File {file.id} holds {holds}; the method {method} learns from {wants}.",
            param=param,
        )
    if param == ("validation_file" if asked.validation_file else "training_file"):
        refuse_unread(file, asked)
    if asked.training.overflow == "split" and (whole := formats - {"text"}):
        raise InvalidRequest(
            f"File {file.id} holds {HELD[whole.pop()]}, and training.overflow split is for texts: "
            "other rows cannot be split. Leave it out, and longer rows are cut at their end.",
            param="training.overflow",
        )
    has_template = base.has_chat_template or specs.template_for(asked, base, source, file).template
    if formats & CHATS and not has_template:
        raise InvalidRequest(
            f"{base.id} has no chat template and {file.id} holds chats. Name one "
            '(training.chat_template, such as "chatml"), use prompt/completion rows or texts, or '
            "a model with a template.",
            param="model",
        )


def queue_if_checked(
    tx: Session, job: Job, known_warnings: Sequence[str] = (), pools: Sequence[Pool] = ()
) -> None:
    """Freezes the spec and queues the job (or pauses it, if that is wished) once all its files are
    checked; fails it on a bad one. Raises `MadeByNewer`.
    """
    base = tx.get_one(BaseModel, job.base_model_id)
    given = {"training_file": job.training_file_id, "validation_file": job.validation_file_id}
    data = {
        param: tx.get_one(File, file_id, populate_existing=True)
        for param, file_id in given.items()
        if file_id
    }
    try:
        asked = CreateJob.model_validate(job.request)
    except ValidationError:
        leave_to_newer(tx, f"job {job.id}")
        # An older version of the service took it in. The other jobs on the file must not wait.
        unreadable = "This version of the service cannot read the request. Create the job again."
        fail(tx, job.id, {JobState.VALIDATING_FILES}, InvalidRequest(unreadable))
        return
    source = Source(**job.source) if job.source else None
    for param, file in data.items():
        try:
            refuse_unfit(file, base, source, asked, param)
        except (InvalidRequest, FileHasFaults) as refusal:
            fail(tx, job.id, {JobState.VALIDATING_FILES}, refusal)
            return
    if not checked(data):
        return
    try:
        spec, resolved = specs.freeze(asked, base, source, data, seed=job.seed)
        longest = forecast.longest_row(data["training_file"], spec)
        held = forecast.bytes_of(data.values(), spec)
        devices.require_one_that_fits(tx, base, spec, pools, longest=longest, data=held)
    except InvalidRequest as refusal:
        fail(tx, job.id, {JobState.VALIDATING_FILES}, refusal)
        return
    template = specs.template_for(asked, base, source, data["training_file"])
    warnings = [*cautions.of_job(asked, job.model_name, data), *cautions.of_template(template)]
    warnings += known_warnings
    for warning in warnings:
        state.record(tx, job, warning, level="warn")
    paused = job.desired_state == DesiredState.PAUSE
    state.move(
        tx,
        job.id,
        expected={JobState.VALIDATING_FILES},
        to=JobState.PAUSED if paused else JobState.QUEUED,
        message=f"Files validated, moving job to {'paused' if paused else 'queued'} state",
        spec=spec.model_dump(mode="json"),
        warnings=warnings,
        memory_bytes=devices.least_bytes(base, spec, longest=longest, data=held),
        hyperparameters=resolved.hyperparameters | spec.objective.hyperparameters,
        reasons=resolved.reasons,
        # A worker of the protocol before does not read all data sets that this version checks.
        min_protocol=PROTOCOL,
        gpus=spec.gpus,
        estimate=forecast.of_job(tx, base, spec, data["training_file"]).model_dump(),
        available_at=NOW,
    )


def fail(
    tx: Session, job_id: str, expected: set[JobState], error: InvalidRequest | FileHasFaults
) -> None:
    state.move(
        tx,
        job_id,
        expected=expected,
        to=JobState.FAILED,
        message=error.message,
        level="error",
        failure_class="user",
        error_code=error.code or "invalid_request",
        error_message=error.message,
        error_param=error.param,
    )
