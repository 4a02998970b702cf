"""Workers."""

from typing import Literal

from pydantic import BaseModel

from api.http.shapes import seconds
from api.tables import Attempt, Worker


class WorkerObject(BaseModel):
    """A worker, and the job it is at. `memory_bytes` is its device's; `lacks` are the base models
    that it cannot load, by their id the folder where it did not find them as they are registered.
    """

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
    lacks: dict[str, str]
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
            lacks=worker.lacks,
            failures=worker.failures,
            quarantined_until=seconds(until) if until and state == "quarantined" else None,
            job_id=attempt.job_id if attempt else None,
        )
