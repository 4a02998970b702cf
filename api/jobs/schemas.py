"""Jobs, and what hangs on them."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from api.http import unreadable
from api.http.shapes import OrAbsent, seconds
from api.jobs.estimates.schemas import JobEstimate
from api.tables import Artifact, Attempt, Checkpoint, Event, Job, SampleSet
from tunery.measured import Metrics, Samples
from tunery.spec import TrainingSpec


class JobError(BaseModel):
    code: str
    message: str
    param: str | None

    @classmethod
    def of(cls, job: Job) -> "JobError | None":
        if not job.error_code:
            return None
        message = job.error_message or ""
        return cls(code=job.error_code, message=message, param=job.error_param)


WaitsFor = Literal[
    "retry_pause",
    "storage",
    "base_model_broken",
    "no_worker",
    "no_worker_fits",
    "own_quota",
    "jobs_ahead",
    "starting",
]


class QueueObject(BaseModel):
    """Where a queued job stands: `jobs_ahead` are claimed before it, of whichever project (None:
    more than 1,000); one on the base that a worker has loaded may still overtake it by a minute.
    `reason` says in a sentence what it `waits_for`. `expected_start` is from, to; None if that is
    not known.
    """

    position: int | None
    jobs_ahead: int | None
    waits_for: WaitsFor
    reason: str
    expected_start: tuple[int, int] | None


class JobExtras(BaseModel):
    """What OpenAI's job object has no place for. `training` has all settings of that name as they
    were resolved, by `TrainingSpec`'s names. `learning_rate` is the optimizer's peak rate;
    `warnings` are sentences about what may not be meant, once its files are checked.
    `memory_bytes` is the least that it needs on a GPU (`bf16`) and on a CPU (`fp32`), `plan` how
    its worker cuts it to its device (`tunery.plan.memory.Plan`); `reasons` says why each `auto`
    became what it is; `attempts` counts claims. `base_model` is that of a tuned model which the job
    goes on from, too. `estimate` was made before it ran; `queue` is told of one job that is queued,
    and not in lists.
    """

    training: dict[str, Any] | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    quantization: str | None = None
    lora: dict[str, Any] | None = None
    memory_bytes: dict[str, int] | None = None
    plan: dict[str, Any] | None
    reasons: dict[str, str] | None = None
    warnings: list[str] | None = None
    base_model: str
    base_revision: str | None = None
    estimate: JobEstimate | None = None
    queue: QueueObject | None = None
    progress: dict[str, Any] | None
    attempts: int
    failure_class: str | None


# The settings of a spec that a request's `training` decides.
TRAINING = (
    "n_epochs",
    "batch_size",
    "micro_batch_size",
    "learning_rate",
    "lr_scheduler",
    "warmup_ratio",
    "optimizer",
    "weight_decay",
    "max_grad_norm",
    "max_length",
    "overflow",
    "train_on_inputs",
    "quantization",
    "double_quant",
    "early_stopping_patience",
    "load_best_model_at_end",
    "samples",
    "max_lost_share",
)


def training_of(spec: dict[str, Any]) -> dict[str, Any]:
    """As resolved. What a spec does not say is as it always was."""
    fields = TrainingSpec.model_fields
    said = {
        name: spec.get(name, fields[name].default)
        for name in TRAINING
        if name in spec or not fields[name].is_required()
    }
    return {"finetuning_type": "lora" if spec.get("lora") else "full"} | said


def method_of(job: Job) -> dict[str, Any]:
    kind = (job.request.get("method") or {}).get("type", "supervised")
    return {"type": kind, kind: {"hyperparameters": job.hyperparameters}}


def integrations_of(job: Job) -> list[dict[str, Any]]:
    """In full: OpenAI's types have null for what was left out, but for the tags."""
    left_out: dict[str, Any] = {"name": None, "entity": None, "tags": []}
    return [
        {**asked, "wandb": left_out | asked["wandb"]}
        for asked in job.request.get("integrations") or []
    ]


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
        """Of one whose JSON cannot be read, what its plain columns say."""
        try:
            return cls.whole(job, metadata)
        except unreadable.Misshapen as error:
            unreadable.note("job", job.id, error)
            return cls.bare(job, metadata)

    @classmethod
    def bare(cls, job: Job, metadata: dict[str, str]) -> "JobObject":
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
            error=JobError.of(job),
            hyperparameters={},
            method={"type": "supervised", "supervised": {"hyperparameters": {}}},
            seed=job.seed,
            estimated_finish=None,
            integrations=[],
            metadata=metadata or None,
            user_provided_suffix=job.suffix,
            tunery=JobExtras(
                plan=None,
                base_model=job.base_model_id,
                progress=None,
                attempts=job.token,
                failure_class=job.failure_class,
            ),
        )

    @classmethod
    def whole(cls, job: Job, metadata: dict[str, str]) -> "JobObject":
        spec = job.spec or {}  # it may be one that only an older version can read
        finish = job.estimated_finish
        return cls(
            id=job.id,
            created_at=seconds(job.created_at),
            finished_at=seconds(job.finished_at) if job.finished_at else None,
            model=job.request.get("model", job.base_model_id),
            fine_tuned_model=job.fine_tuned_model,
            organization_id=job.project_id,
            status=job.state,
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            result_files=[job.result_file_id] if job.result_file_id else [],
            trained_tokens=job.trained_tokens,
            error=JobError.of(job),
            hyperparameters=job.hyperparameters,
            method=method_of(job),
            seed=job.seed,
            # What is late may end at any moment.
            estimated_finish=seconds(max(finish, datetime.now(UTC))) if finish else None,
            integrations=integrations_of(job),
            metadata=metadata or None,
            user_provided_suffix=job.suffix,
            tunery=JobExtras(
                training=training_of(spec) if spec else None,
                learning_rate=spec.get("learning_rate"),
                max_length=spec.get("max_length"),
                quantization=spec.get("quantization", "nf4") if spec else None,
                lora=spec.get("lora"),
                memory_bytes=job.memory_bytes,
                plan=job.plan,
                reasons=job.reasons,
                warnings=job.warnings,
                base_model=job.base_model_id,
                base_revision=spec.get("base_revision"),
                estimate=JobEstimate.model_validate(job.estimate) if job.estimate else None,
                progress=job.progress,
                attempts=job.token,
                failure_class=job.failure_class,
            ),
        )


class EventObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: OrAbsent[dict[str, Any]]
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
    """Of a job, or of an export."""
    return f"ftevent-{job_id.rpartition('-')[2]}-{number}"


class CurvesObject(BaseModel):
    """A job's metrics: `points` are rows of `columns`, the first of which is the step. If they are
    `thinned`, some of the `measured_points` are left out: the first, the last and the extremes
    of each column that goes up and down are not.
    """

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    total_steps: int | None
    columns: list[str]
    points: list[list[float | int | None]]
    measured_points: int
    thinned: bool


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


class SamplesObject(Samples):
    """How the model of a checkpoint did on the validation file: some of its rows answered, those
    with the least loss and those with the most.
    """

    object: Literal["fine_tuning.job.samples"] = "fine_tuning.job.samples"
    id: str
    created_at: int
    step_number: int

    @classmethod
    def of(cls, row: SampleSet) -> "SamplesObject":
        return cls(
            id=f"ftsamples-{row.job_id.removeprefix('ftjob-')}-{row.step}",
            created_at=seconds(row.created_at),
            step_number=row.step,
            **row.samples,
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
    phase: str | None
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
            phase=attempt.phase,
            message=attempt.message,
            step=attempt.step,
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
