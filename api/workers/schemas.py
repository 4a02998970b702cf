"""Workers."""

from typing import Annotated, Literal

from pydantic import Field

from api.http.shapes import seconds
from api.tables import Attempt, Worker
from tunery.fields import Bytes, Described, JobId, Kind, UnixTime, WorkerId
from tunery.messages import A_DEVICE, PROTOCOL, PoolName


class WorkerObject(Described):
    """A worker, and the job it is at."""

    object: Kind[Literal["worker"]] = "worker"
    id: WorkerId
    name: Annotated[str, Field(examples=["gpu-1"])]
    """Name of the worker, for people."""
    pool: PoolName
    """Pool of machines that it belongs to."""
    state: Annotated[str, Field(examples=["active"])]
    """`active`: it is given jobs. `draining`: it is given no more. `quarantined`: it is given none
    for a while, after failures of its machine. `offline`: it left, or was silent for a minute.
    """
    device: Annotated[str, Field(examples=[A_DEVICE])] | None
    """Name of its GPU, or `cpu`; null: it has not reported it yet."""
    memory_bytes: Annotated[Bytes, Field(examples=[25_757_220_864])] | None
    """Memory of its device in bytes; null: it has not reported it yet."""
    gpus: Annotated[int, Field(examples=[1])]
    """Number of GPUs that it offers to one training; on a CPU, of processes."""
    build: Annotated[str, Field(examples=["0.1.0 (transformers 5.23.0)"])] | None
    """Versions of Tunery and of transformers that it runs; null: not reported."""
    protocol: Annotated[int, Field(examples=[PROTOCOL])]
    """Version of the worker protocol that it speaks."""
    first_seen_at: UnixTime
    """When it was first heard from, in Unix seconds (UTC)."""
    last_seen_at: UnixTime
    """When it was last heard from, in Unix seconds (UTC)."""
    lacks: Annotated[dict[str, str], Field(examples=[{"tunery-demo": "/srv/models/tunery-demo"}])]
    """Base models that it cannot load: by their ids, the source where it did not find them as they
    are registered, or from which it could not fetch them.
    """
    holds: Annotated[list[str], Field(examples=[["Qwen/Qwen3-0.6B"]])]
    """Ids of the base models that it has fetched."""
    failures: Annotated[int, Field(examples=[0])]
    """Number of attempts that its machine failed since its last success, each on another job."""
    quarantined_until: UnixTime | None
    """When its quarantine ends, in Unix seconds (UTC); null: it is in none."""
    job_id: JobId | None
    """Id of the job or export that it is at; null: none."""

    @classmethod
    def of(cls, worker: Worker, state: str, attempt: Attempt | None) -> "WorkerObject":
        until = worker.quarantined_until
        return cls(
            id=worker.id,
            name=worker.name,
            pool=worker.pool,
            state=state,
            device=worker.device,
            memory_bytes=worker.memory_bytes,
            gpus=worker.gpus,
            build=worker.build,
            protocol=worker.protocol,
            first_seen_at=seconds(worker.created_at),
            last_seen_at=seconds(worker.seen_at),
            lacks=worker.lacks,
            holds=worker.holds,
            failures=worker.failures,
            quarantined_until=seconds(until) if until and state == "quarantined" else None,
            job_id=attempt.job_id if attempt else None,
        )
