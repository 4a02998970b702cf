"""What hangs on a job: its events, metrics, checkpoints, samples, attempts and files."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from api.http.shapes import OrAbsent, seconds
from api.jobs.requests import CreateJob
from api.jobs.schemas import WhyFailed
from api.tables import Artifact, Attempt, Checkpoint, Event, Job, SampleSet
from tunery.fields import (
    CheckpointStep,
    CreatedAt,
    Described,
    FileBytes,
    FileName,
    JobId,
    Kind,
    Seconds,
    Sha256,
    TunedModel,
    UnixTime,
)
from tunery.measured import Metrics, Samples
from tunery.messages import PoolName
from tunery.replay import request_of
from tunery.spec import TrainingSpec

A_REQUEST = {"model": "tunery-demo", "training_file": "file-E3pyIgKpaUnArl63XykWZeiN"}


class RequestObject(Described):
    """The request that creates a job again."""

    object: Kind[Literal["fine_tuning.job.request"]] = "fine_tuning.job.request"
    job_id: JobId
    asked: Annotated[dict[str, Any], Field(examples=[A_REQUEST])]
    """The request as it was sent. The service decides again what was left to it."""
    resolved: Annotated[dict[str, Any], Field(examples=[A_REQUEST | {"seed": 42}])]
    """The same with the seed and with every setting as it was resolved, which repeats the training.
    Until the files are checked: `asked` with the seed.
    """

    @classmethod
    def of(cls, job: Job) -> "RequestObject":
        asked = {
            name: without_notes(value) if name in {"lora", "training"} else value
            for name, value in job.request.items()
        }
        resolved = asked | {"seed": job.seed}
        try:
            spec = TrainingSpec.model_validate(job.spec)
        except ValidationError:  # there is none yet, or only another version can read it
            return cls(job_id=job.id, asked=in_order(asked), resolved=in_order(resolved))
        planned = (job.plan or {}).get("quantization", spec.quantization)
        resolved.pop("hyperparameters", None)  # they are in `method`
        return cls(
            job_id=job.id,
            asked=in_order(asked),
            resolved=in_order(resolved | request_of(spec, planned)),
        )


def in_order(request: dict[str, Any]) -> dict[str, Any]:
    """The fields in the order in which people write them."""
    return {name: request[name] for name in CreateJob.model_fields if name in request}


def without_notes(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what the service noted about names that change nothing."""
    return {name: value for name, value in settings.items() if name != "without_effect"}


class EventObject(Described):
    """Something that happened to a job or an export."""

    id: Annotated[
        str,
        Field(description="Id of the event.", examples=["ftevent-NqVwYS81VP7Hb1DX8pPd5khx-7"]),
    ]
    object: Kind[Literal["fine_tuning.job.event"]] = "fine_tuning.job.event"
    created_at: CreatedAt
    level: Annotated[str, Field(examples=["info"])]
    """How serious the event is: `info`, `warn` or `error`."""
    message: Annotated[str, Field(examples=["Step 120/300: training loss=0.82"])]
    """What happened, in a sentence for people."""
    type: Annotated[str, Field(examples=["metrics"])]
    """`metrics` for the metrics of a step, `message` for all else."""
    data: OrAbsent[Annotated[dict[str, Any], Field(examples=[{"step": 120, "train_loss": 0.8214}])]]
    """Metrics of the step, by name; left out of a message."""
    tunery: Annotated[dict[str, Any], Field(examples=[{"base_valid_loss": 2.3104}])] | None
    """Facts of a message, by name; null: none."""

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


class CurvesObject(Described):
    """A job's metrics, step by step."""

    object: Kind[Literal["fine_tuning.job.metrics"]] = "fine_tuning.job.metrics"
    job_id: JobId
    total_steps: Annotated[int, Field(examples=[300])] | None
    """Optimizer steps of the whole training; null before the first one is measured."""
    columns: Annotated[list[str], Field(examples=[["step", "train_loss", "learning_rate"]])]
    """Names of the columns; the first is the step."""
    points: Annotated[
        list[list[float | int | None]],
        Field(examples=[[[1, 2.3104, 0.00001], [2, 2.2871, 0.00002]]]),
    ]
    """One row for each step, with a value for each column; null: it was not measured."""
    measured_points: Annotated[int, Field(examples=[300])]
    """Steps that were measured."""
    thinned: bool
    """Whether some of these steps are left out of `points`. The first and the last step are always
    there, and the extremes of each column that goes up and down.
    """


class CheckpointObject(Described):
    """The state of a training at a step, which is kept."""

    id: Annotated[
        str,
        Field(description="Id of the checkpoint.", examples=["ftckpt_N2kHD9FSUuErsEz5jhy0I9lO"]),
    ]
    object: Kind[Literal["fine_tuning.job.checkpoint"]] = "fine_tuning.job.checkpoint"
    created_at: CreatedAt
    fine_tuned_model_checkpoint: Annotated[
        TunedModel,
        Field(
            description="Name of the checkpoint as a model, which a job can go on from.",
            examples=["ft:tunery-demo:default:cows:8pPd5khx:ckpt-step-120"],
        ),
    ]
    fine_tuning_job_id: JobId
    step_number: CheckpointStep
    metrics: Annotated[
        dict[str, Any],
        Field(examples=[{"step": 120, "train_loss": 0.8214, "full_valid_loss": 0.9032}]),
    ]
    """Metrics of that step by name. The validation data is always measured whole, so each `valid_`
    figure is there as `full_valid_` too.
    """

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
    """How the model of a checkpoint did on the validation file."""

    object: Kind[Literal["fine_tuning.job.samples"]] = "fine_tuning.job.samples"
    id: Annotated[str, Field(examples=["ftsamples-NqVwYS81VP7Hb1DX8pPd5khx-120"])]
    """Id of these samples."""
    created_at: CreatedAt
    step_number: CheckpointStep

    @classmethod
    def of(cls, row: SampleSet) -> "SamplesObject":
        return cls(
            id=f"ftsamples-{row.job_id.removeprefix('ftjob-')}-{row.step}",
            created_at=seconds(row.created_at),
            step_number=row.step,
            **row.samples,
        )


class AttemptObject(Described):
    """One claim of the job by a worker."""

    object: Kind[Literal["fine_tuning.job.attempt"]] = "fine_tuning.job.attempt"
    id: Annotated[str, Field(examples=["ftattempt-NqVwYS81VP7Hb1DX8pPd5khx-2"])]
    """Id of the attempt."""
    number: Annotated[int, Field(examples=[2])]
    """Number of the attempt, starting at 1."""
    worker: Annotated[str, Field(examples=["gpu-1"])]
    """Name of the worker."""
    pool: PoolName
    """Pool of machines that the worker belongs to."""
    started_at: UnixTime
    """When the worker claimed the job, in Unix seconds (UTC)."""
    ended_at: UnixTime | None
    """When the attempt ended, in Unix seconds (UTC); null while it runs."""
    seconds: Seconds | None
    """Seconds that the job had a device; null while it still has."""
    outcome: Annotated[str, Field(examples=["released"])] | None
    """How the attempt ended: `succeeded`, `failed`, `cancelled`, `paused`, `lost` (its worker was
    not heard from) or `released` (its worker shut down or was drained); null while it runs.
    """
    failure_class: WhyFailed
    message: Annotated[str, Field(examples=["Worker gpu-1 was not heard of in time."])] | None
    """What failed, in a sentence for people; null if nothing did."""
    phase: Annotated[str, Field(examples=["training_file"])] | None
    """What the worker was at when it failed: `base`, `training_file`, `validation_file`, `training`
    or `publishing`; null where that does not say whose fault it may be.
    """
    step: Annotated[int, Field(examples=[120])]
    """Optimizer steps taken when it ended, as last reported by its worker; 0 while it runs."""

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptObject":
        ended, until = attempt.ended_at, attempt.had_device_until
        return cls(
            id=f"ftattempt-{attempt.job_id.removeprefix('ftjob-')}-{attempt.token}",
            number=attempt.token,
            worker=attempt.worker,
            pool=attempt.pool,
            started_at=seconds(attempt.started_at),
            ended_at=seconds(ended) if ended else None,
            seconds=(until - attempt.started_at).total_seconds() if until else None,
            outcome=attempt.outcome,
            failure_class=attempt.failure_class,
            phase=attempt.phase,
            message=attempt.message,
            step=attempt.step,
        )


class ArtifactObject(Described):
    """A file of the finished adapter or model."""

    object: Kind[Literal["fine_tuning.job.artifact"]] = "fine_tuning.job.artifact"
    id: Annotated[FileName, Field(description="The file's name, which is its id too.")]
    name: FileName
    bytes: FileBytes
    sha256: Sha256

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactObject":
        return cls(
            id=artifact.name, name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256
        )
