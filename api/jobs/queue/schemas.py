"""The queue, as those who run the service see it."""

from typing import Annotated, Any, Literal

from pydantic import Field

from api.http.shapes import seconds
from api.jobs.schemas import Attempts, QueueObject
from api.tables import Attempt, Job
from api.tenants.schemas import ProjectName
from tunery.fields import (
    BaseModelId,
    CreatedAt,
    Described,
    JobId,
    Kind,
    ProjectId,
    UnixTime,
    WorkerId,
)


class QueueEntry(Described):
    """A job or an export of any project that waits or runs."""

    object: Kind[Literal["queue.entry"]] = "queue.entry"
    id: Annotated[str, Field(examples=["ftjob-NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of the job or export."""
    export_of: JobId | None
    """Id of the job that an export is made of; null: it is a job."""
    project_id: ProjectId
    project: ProjectName
    base_model: BaseModelId
    status: Literal["queued", "running"]
    """Whether it waits or runs."""
    created_at: CreatedAt
    attempts: Attempts
    memory_bytes: Annotated[
        dict[str, int] | None, Field(examples=[{"bf16": 1_932_735_283, "fp32": 1_503_238_553}])
    ]
    """Minimum memory that it needs, in bytes: on a GPU (`bf16`) and on a CPU (`fp32`); null: not
    known.
    """
    queue: QueueObject | None
    """Where it stands and what it waits for; null: it runs."""
    worker_id: WorkerId | None
    """Id of the worker that runs it; null: it waits."""
    worker: Annotated[str, Field(examples=["gpu-1"])] | None
    """Name of the worker that runs it, for people; null: it waits."""
    started_at: UnixTime | None
    """When that worker claimed it, in Unix seconds (UTC); null: it waits."""
    progress: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"step": 120, "total_steps": 300, "trained_tokens": 184_320}]),
    ]
    """Progress of the training, as a `Progress`; null until it has begun."""
    estimated_finish: UnixTime | None
    """When it is expected to finish, in Unix seconds (UTC); null: not known."""

    @classmethod
    def of(
        cls,
        job: Job,
        project: str,
        attempt: Attempt | None,
        queue: QueueObject | None,
        finish: int | None,
    ) -> "QueueEntry":
        return cls(
            id=job.id,
            export_of=job.exported_job_id,
            project_id=job.project_id,
            project=project,
            base_model=job.base_model_id,
            status="queued" if queue else "running",
            created_at=seconds(job.created_at),
            attempts=job.token,
            memory_bytes=job.memory_bytes,
            queue=queue,
            worker_id=attempt.worker_id if attempt else None,
            worker=attempt.worker if attempt else None,
            started_at=seconds(attempt.started_at) if attempt else None,
            progress=job.progress,
            estimated_finish=finish,
        )
