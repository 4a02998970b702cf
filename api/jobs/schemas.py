"""Jobs."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.http import unreadable
from api.http.shapes import seconds
from api.jobs.estimates.schemas import JobEstimate, LearningRate, MaxLength, Reasons
from api.jobs.evaluations.schemas import Compared
from api.tables import Job
from tunery.data.named_templates import name_of
from tunery.fields import (
    BaseModelId,
    CreatedAt,
    Described,
    FileId,
    JobId,
    Kind,
    ModelName,
    ProjectId,
    Revision,
    Tokens,
    TunedModel,
    UnixTime,
)
from tunery.spec import TrainingSpec
from tunery.states import DesiredState, JobState

WhyFailed = Annotated[
    str | None,
    Field(
        description="Why it failed: `user` (data or settings), `infra` (the machine), `oom` (out "
        "of memory), `base` (the base model), `preempted` (ended from outside), `poisoned` "
        "(several attempts in a row without a newer checkpoint), `away` (storage or the API was "
        "not there) or `storage` (stored bytes are gone or damaged); null: it did not fail.",
        examples=["infra"],
    ),
]
Attempts = Annotated[
    int, Field(description="Number of times that a worker has claimed it.", examples=[1])
]
# Of what a worker makes: a job, or an export.
FinishedAt = Annotated[
    UnixTime | None,
    Field(
        description="When it succeeded, failed or was cancelled, in Unix seconds (UTC); null until "
        "then.",
        examples=[1764044912],
    ),
]
Status = Annotated[
    str,
    Field(
        description="`validating_files` (of a job), `queued`, `running`, `paused`, `succeeded`, "
        "`failed` or `cancelled`.",
        examples=["running"],
    ),
]


class JobError(Described):
    """Why a job or an export failed."""

    code: Annotated[str, Field(examples=["invalid_training_file"])]
    """Error code, for programs."""
    message: Annotated[str, Field(examples=["The worker gpu-1 was not heard of in time."])]
    """What failed, in sentences for people."""
    param: Annotated[str, Field(examples=["training_file"])] | None
    """The field of the request that is at fault; null: no single one."""

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
    "pool_starting",
    "own_quota",
    "jobs_ahead",
    "starting",
]


class QueueObject(Described):
    """Where a queued job stands. A job that was queued up to a minute later may still start first,
    if a worker has its base model loaded.
    """

    position: Annotated[int, Field(examples=[3])] | None
    """Place in the queue, from 1; null: over 1,000 jobs are ahead."""
    jobs_ahead: Annotated[int, Field(examples=[2])] | None
    """Jobs of all projects that are claimed before it; null: over 1,000."""
    waits_for: WaitsFor
    """What the job waits for, as a code for programs."""
    reason: Annotated[str, Field(examples=["2 jobs come before it."])]
    """What the job waits for, in a sentence for people."""
    expected_start: Annotated[tuple[int, int] | None, Field(examples=[[1764043500, 1764044400]])]
    """Earliest and latest expected start, in Unix seconds (UTC); null: not known."""


class JobExtras(Described):
    """What OpenAI's job object has no place for. What the training data decides is null until the
    files are checked.
    """

    training: Annotated[
        dict[str, Any] | None, Field(examples=[{"finetuning_type": "lora", "n_epochs": 3}])
    ] = None
    """All settings of `training` as they were resolved, by the names of `TrainingSpec`."""
    learning_rate: LearningRate | None = None
    """The optimizer's peak learning rate."""
    max_length: MaxLength | None = None
    """Maximum number of tokens in a row."""
    quantization: Annotated[str, Field(examples=["auto"])] | None = None
    """What the base is trained in; with `auto` the first worker decides, and `plan` says how."""
    lora: Annotated[
        dict[str, Any] | None, Field(examples=[{"r": 16, "alpha": 32, "dropout": 0.0}])
    ] = None
    """Settings of the adapter as they were resolved; null for full fine-tuning, too."""
    memory_bytes: Annotated[
        dict[str, int] | None, Field(examples=[{"bf16": 1_932_735_283, "fp32": 1_503_238_553}])
    ] = None
    """Minimum memory that it needs, in bytes: on each GPU (`bf16`) and on a CPU (`fp32`); null also
    if that is not known.
    """
    plan: Annotated[
        dict[str, Any] | None, Field(examples=[{"quantization": "nf4", "micro_tokens": 4096}])
    ]
    """How its worker fits it to the device, as a `Plan`; null until a worker has reported it."""
    reasons: Reasons | None = None
    """For each `auto`, a sentence that says why it became what it is."""
    warnings: (
        Annotated[list[str], Field(examples=[["The training file has only 12 rows."]])] | None
    ) = None
    """Sentences about data and settings that may be a mistake."""
    base_model: Annotated[
        BaseModelId,
        Field(description="Id of the base model: `model`, or what that tuned model was made from."),
    ]
    base_revision: Revision | None = None
    """Version of the base model: a commit, or a hash over its files."""
    estimate: JobEstimate | None = None
    """What the job was expected to be, before it ran."""
    queue: QueueObject | None = None
    """Where the job stands; null unless it is queued, and in lists."""
    progress: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"step": 120, "total_steps": 300, "trained_tokens": 184_320}]),
    ]
    """Progress of the training, as a `Progress`; null until it has begun."""
    fetching: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"bytes": 3_100_000_000, "total_bytes": 16_060_000_000}]),
    ] = None
    """How far its worker has fetched the base model, as a `Fetching`; null: it need not, or the job
    does not run, or the training has begun.
    """
    wanted: Literal["run", "pause", "cancel"] = "run"
    """What the user asked for last. A running job continues for a moment after a request to pause
    or cancel it.
    """
    evaluation: Annotated[
        Compared | None, Field(examples=[{"verdict": "better", "difference": 0.22}])
    ] = None
    """How the tuned model compares with its base; null: not yet, or that was not asked for."""
    attempts: Attempts
    failure_class: WhyFailed


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
    "train_on_reasoning",
    "quantization",
    "double_quant",
    "early_stopping_patience",
    "load_best_model_at_end",
    "samples",
    "warmup_steps",
    "max_steps",
    "validation_split",
    "chat_template",
    "max_lost_share",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "min_lr_ratio",
    "loraplus_lr_ratio",
    "gpus",
)


def training_of(spec: dict[str, Any]) -> dict[str, Any]:
    """As resolved. What a spec does not say is as it always was."""
    fields = TrainingSpec.model_fields
    said = {
        name: spec.get(name, fields[name].default)
        for name in TRAINING
        if name in spec or not fields[name].is_required()
    }
    if template := said["chat_template"]:
        said["chat_template"] = name_of(template)
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


class JobObject(Described):
    """A fine-tuning job, as OpenAI has it, with what is ours under `tunery`."""

    id: JobId
    object: Kind[Literal["fine_tuning.job"]] = "fine_tuning.job"
    created_at: CreatedAt
    finished_at: FinishedAt
    model: Annotated[
        ModelName, Field(description="The model that is trained, as the request named it.")
    ]
    fine_tuned_model: TunedModel | None
    """Name of the tuned model; null until the job has succeeded."""
    organization_id: Annotated[ProjectId, Field(description="Id of the job's project.")]
    status: Status
    training_file: Annotated[FileId, Field(description="Id of the file that is trained on.")]
    validation_file: FileId | None
    """Id of the file that the model is evaluated on; null: it is not evaluated."""
    result_files: list[FileId]
    """Id of the file with the metrics of each step, as CSV; empty until the job has succeeded."""
    trained_tokens: Tokens | None
    """Tokens trained on so far, over all epochs; null until the training has begun."""
    error: JobError | None
    """Why the job failed; null unless it has."""
    hyperparameters: Annotated[
        dict[str, Any],
        Field(examples=[{"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}]),
    ]
    """The hyperparameters: as they were asked for until the files are checked, then resolved."""
    method: Annotated[
        dict[str, Any],
        Field(
            examples=[{"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}]
        ),
    ]
    """The method of training, with the same hyperparameters."""
    seed: Annotated[int, Field(examples=[42])]
    """Seed of all randomness of the training."""
    estimated_finish: UnixTime | None
    """When the job is expected to finish, in Unix seconds (UTC); null: not known."""
    integrations: Annotated[
        list[Any],
        Field(
            examples=[
                [
                    {
                        "type": "wandb",
                        "wandb": {"project": "cows", "name": None, "entity": None, "tags": []},
                    }
                ]
            ]
        ),
    ]
    """Trackers that receive the job's metrics."""
    metadata: Annotated[dict[str, str] | None, Field(examples=[{"team": "dairy"}])]
    """The key-value pairs that the job was created with; null: none."""
    user_provided_suffix: Annotated[str, Field(examples=["cows"])] | None
    """The suffix that the job was created with; null: none."""
    tunery: JobExtras
    """What OpenAI's job object has no place for."""

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
                wanted=DesiredState(job.desired_state).value,
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
                fetching=job.fetching if job.state == JobState.RUNNING else None,
                wanted=DesiredState(job.desired_state).value,
                evaluation=Compared.model_validate(job.evaluation) if job.evaluation else None,
                attempts=job.token,
                failure_class=job.failure_class,
            ),
        )
