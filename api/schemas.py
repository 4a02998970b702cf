"""Requests and answers of the public API: OpenAI's shapes, and ours beside them under one key.

Times are Unix seconds. An unknown field in a request is refused, never ignored.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.tables import Artifact, Attempt, Checkpoint, Event, File, Job, Worker
from api.tables import BaseModel as BaseModelRow
from tunery.messages import Metrics
from tunery.plan.memory import Plan
from tunery.spec import Lora, Quantization

Item = TypeVar("Item")


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


def storable(text: str) -> str:
    """Postgres keeps neither NUL nor half a surrogate pair."""
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair; write valid Unicode") from None
    return text


def none_offered(integrations: list[Any]) -> list[Any]:
    if integrations:
        raise ValueError("no integration is offered yet; leave it out or send an empty list")
    return integrations


Word = Annotated[str, AfterValidator(storable)]


def auto_or(kind: type[int | float], low: float, high: float, words: str) -> BeforeValidator:
    """`"auto"` or a number between, both ends included; anything else refused in one sentence."""

    def check(value: Any) -> Any:  # noqa: ANN401
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == "auto" or (number and low <= value <= high and kind(value) == value):
            return value
        raise ValueError(f'must be {words}, or "auto"')

    return BeforeValidator(check)


class Hyperparameters(Request):
    n_epochs: Annotated[
        int | Literal["auto"], auto_or(int, 1, 50, "a whole number from 1 to 50")
    ] = "auto"
    batch_size: Annotated[
        int | Literal["auto"], auto_or(int, 1, 256, "a whole number from 1 to 256")
    ] = "auto"
    learning_rate_multiplier: Annotated[
        float | Literal["auto"], auto_or(float, 1e-6, 1e6, "a number above 0")
    ] = "auto"


class Supervised(Request):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Request):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised = Supervised()
    dpo: Any = None
    reinforcement: Any = None

    @model_validator(mode="after")
    def offered(self) -> "Method":
        if self.type != "supervised" or self.dpo is not None or self.reinforcement is not None:
            raise ValueError("only the supervised method is offered yet")
        return self


class TrainingSettings(Request):
    """`max_length` in tokens: longer rows are cut there. By default the base's context.
    `quantization` is that of the base, as in `TrainingSpec`.
    """

    max_length: Annotated[int, Field(ge=8, strict=True)] | None = None
    quantization: Quantization = "auto"


class CreateJob(Request):
    model: Word
    training_file: Annotated[Word, Field(min_length=1)]
    validation_file: Annotated[Word, Field(min_length=1)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[Word, Field(min_length=1, max_length=64)],
                Annotated[Word, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    integrations: Annotated[list[Any], AfterValidator(none_offered)] | None = None
    lora: Lora = Lora()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def settings_in_one_place(self) -> "CreateJob":
        if self.method and self.hyperparameters and self.hyperparameters.model_fields_set:
            raise ValueError(
                "give `hyperparameters` inside `method`, or at the top level, not in both"
            )
        return self

    @property
    def settings(self) -> Hyperparameters:
        if self.method:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()


class Page(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


def page(rows: Sequence[Any], limit: int, shape: Callable[[Any], Any]) -> Page[Any]:
    """A page from one row more than `limit`, which tells whether there are more."""
    items = [shape(row) for row in rows[:limit]]
    return Page(
        data=items,
        has_more=len(rows) > limit,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )


def seconds(time: datetime) -> int:
    return int(time.timestamp())


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: str | None
    expires_at: int | None = None
    sha256: str

    @classmethod
    def of(cls, file: File) -> "FileObject":
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=seconds(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            sha256=file.sha256,
        )


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobExtras(BaseModel):
    """What OpenAI's job object has no place for. `learning_rate` is the optimizer's peak rate;
    `memory_bytes` is the least that it needs on a GPU (`bf16`) and on a CPU (`fp32`), `plan` how
    its worker cuts it to its device (`tunery.plan.memory.Plan`); `reasons` says why each `auto`
    became what it is; `attempts` counts claims.
    """

    learning_rate: float | None = None
    max_length: int | None = None
    quantization: str | None = None
    lora: dict[str, Any] | None = None
    memory_bytes: dict[str, int] | None = None
    plan: dict[str, Any] | None
    reasons: dict[str, str] | None = None
    base_revision: str | None = None
    progress: dict[str, Any] | None
    attempts: int
    failure_class: str | None


class JobObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    tunery: JobExtras

    @classmethod
    def of(cls, job: Job, metadata: dict[str, str]) -> "JobObject":
        spec = job.spec or {}  # it may be one that only an older version can read
        left = (job.progress or {}).get("seconds_left")
        finish = seconds(job.progress_at) + round(left) if left and job.progress_at else None
        return cls(
            id=job.id,
            created_at=seconds(job.created_at),
            finished_at=seconds(job.finished_at) if job.finished_at else None,
            model=job.base_model_id,
            fine_tuned_model=job.fine_tuned_model,
            organization_id=job.project_id,
            status=job.state,
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            result_files=[job.result_file_id] if job.result_file_id else [],
            trained_tokens=job.trained_tokens,
            error=JobError(
                code=job.error_code, message=job.error_message or "", param=job.error_param
            )
            if job.error_code
            else None,
            hyperparameters=job.hyperparameters,
            method={"type": "supervised", "supervised": {"hyperparameters": job.hyperparameters}},
            seed=job.seed,
            estimated_finish=finish if job.state == "running" else None,
            integrations=[],
            metadata=metadata or None,
            user_provided_suffix=job.suffix,
            tunery=JobExtras(
                learning_rate=spec.get("learning_rate"),
                max_length=spec.get("max_length"),
                quantization=spec.get("quantization", "nf4") if spec else None,
                lora=spec.get("lora"),
                memory_bytes=job.memory_bytes,
                plan=job.plan,
                reasons=job.reasons,
                base_revision=spec.get("base_revision"),
                progress=job.progress,
                attempts=job.token,
                failure_class=job.failure_class,
            ),
        )


class DeviceEstimate(BaseModel):
    """One kind of device among the workers. `fits` is None where that cannot be told, with the
    `reason`; False comes with what is needed and what would fit.

    `plan` is what the engine would go by. `seconds` are from, to: of `history`, the project's own
    jobs on this base and device, or of a `model` of the device; None if its speed is not known.
    """

    device: str | None
    memory_bytes: int | None
    fits: bool | None = None
    plan: Plan | None = None
    reason: str | None = None
    seconds: tuple[float, float] | None = None
    seconds_from: Literal["history", "model"] | None = None


class EstimateObject(BaseModel):
    """What a job would be. `tokens` are of one epoch; they and `longest_row_tokens` are estimated
    from the bytes of the rows' texts. `steps` are optimizer steps over all epochs.
    """

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    model: str
    rows: int
    tokens: int
    longest_row_tokens: int
    tokens_are_estimated: Literal[True] = True
    steps: int
    hyperparameters: dict[str, int | float]
    learning_rate: float
    max_length: int
    reasons: dict[str, str]
    devices: list[DeviceEstimate]


class EventObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None
    tunery: dict[str, Any] | None

    @classmethod
    def of(cls, event: Event) -> "EventObject":
        # Strict clients decode any `data` as a step's metrics, so other facts have their own place.
        metrics = event.type == "metrics"
        return cls(
            id=event_id(event.job_id, event.number),
            created_at=seconds(event.created_at),
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data if metrics else None,
            tunery=None if metrics else event.data,
        )


def event_id(job_id: str, number: int) -> str:
    return f"ftevent-{job_id.removeprefix('ftjob-')}-{number}"


class CheckpointObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: str) -> "CheckpointObject":
        metrics = Metrics.model_validate(checkpoint.metrics)
        return cls(
            id=checkpoint.id,
            created_at=seconds(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{model}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=checkpoint.job_id,
            step_number=checkpoint.step,
            # The validation data is measured whole, so its figures are the full ones as well.
            metrics=metrics.model_dump(exclude_none=True)
            | {
                f"full_{name}": value
                for name, value in metrics.model_dump(exclude_none=True).items()
                if name.startswith("valid_")
            },
        )


class AttemptObject(BaseModel):
    """One claim of the job. `seconds` is how long it had a device, None while it still has."""

    object: Literal["fine_tuning.job.attempt"] = "fine_tuning.job.attempt"
    id: str
    number: int
    worker: str
    started_at: int
    ended_at: int | None
    seconds: float | None
    outcome: str | None
    failure_class: str | None
    message: str | None
    step: int

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptObject":
        ended = attempt.ended_at
        return cls(
            id=f"ftattempt-{attempt.job_id.removeprefix('ftjob-')}-{attempt.token}",
            number=attempt.token,
            worker=attempt.worker,
            started_at=seconds(attempt.started_at),
            ended_at=seconds(ended) if ended else None,
            seconds=(ended - attempt.started_at).total_seconds() if ended else None,
            outcome=attempt.outcome,
            failure_class=attempt.failure_class,
            message=attempt.message,
            step=attempt.step,
        )


class WorkerObject(BaseModel):
    """A worker, and the job it is at. `memory_bytes` is its device's."""

    object: Literal["worker"] = "worker"
    id: str
    name: str
    state: str
    device: str | None
    memory_bytes: int | None
    build: str | None
    protocol: int
    first_seen_at: int
    last_seen_at: int
    failures: int
    quarantined_until: int | None
    job_id: str | None

    @classmethod
    def of(cls, worker: Worker, state: str, attempt: Attempt | None) -> "WorkerObject":
        until = worker.quarantined_until
        return cls(
            id=worker.id,
            name=worker.name,
            state=state,
            device=worker.device,
            memory_bytes=worker.memory_bytes,
            build=worker.build,
            protocol=worker.protocol,
            first_seen_at=seconds(worker.created_at),
            last_seen_at=seconds(worker.seen_at),
            failures=worker.failures,
            quarantined_until=seconds(until) if until and state == "quarantined" else None,
            job_id=attempt.job_id if attempt else None,
        )


class ArtifactObject(BaseModel):
    object: Literal["fine_tuning.job.artifact"] = "fine_tuning.job.artifact"
    id: str
    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactObject":
        return cls(
            id=artifact.name, name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256
        )


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def of_base(cls, model: BaseModelRow) -> "ModelObject":
        return cls(id=model.id, created=seconds(model.created_at), owned_by="tunery")

    @classmethod
    def of_job(cls, job: Job, project: str) -> "ModelObject":
        return cls(
            id=job.fine_tuned_model or "",
            created=seconds(job.finished_at or job.created_at),
            owned_by=project,
        )
