"""What a worker and the API say to each other over HTTP (`/worker/v1`).

`token` is the fencing token: it grows with each claim of a job, and a write that carries an
older one is answered 409 `lease_lost`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunery.spec import TrainingSpec
from tunery.states import FailureClass

PROTOCOL = 1

# The Celery message that wakes a worker. It carries nothing: the job is the row.
WAKE_TASK = "tunery.wake"
WAKE_QUEUE = "tunery"


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileFacts(Message):
    """One file by name and content. `name` is a plain file name, no folder."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileLink(FileFacts):
    """A file and where to get it. `url` may be relative to the API's own address."""

    url: str


class BaseModelFacts(Message):
    """A base model as it is registered. `source` is a folder that every worker can read,
    `revision` its own version (a commit, else a hash over its files), `context_length` is in
    tokens.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
    revision: Annotated[str, Field(min_length=1, max_length=128)]
    source: str
    licence: str | None
    architecture: str
    hidden_size: int
    context_length: int
    has_chat_template: bool
    files: list[FileFacts]


class CheckpointLink(Message):
    step: int
    files: list[FileLink]


class ClaimRequest(Message):
    protocol: int
    worker: str


class Lease(Message):
    """A claimed job, with all that one attempt needs. `token` counts its attempts; `secret` is the
    bearer for this job's routes, and good for nothing else.
    """

    job_id: str
    token: int
    secret: str
    lease_seconds: float
    spec: TrainingSpec
    base_model: BaseModelFacts
    training_file: FileLink
    validation_file: FileLink | None
    checkpoint: CheckpointLink | None


class LeaseBeat(Message):
    job_id: str
    token: int
    step: int


class HeartbeatRequest(Message):
    leases: list[LeaseBeat]


class Directive(Message):
    """What the worker is to do with one lease: go on, cancel, or drop it (no longer its own)."""

    job_id: str
    token: int
    directive: Literal["run", "cancel", "lost"]


class HeartbeatReply(Message):
    leases: list[Directive]


class Metrics(Message):
    """Losses are means over trained tokens, in nats; accuracies are fractions of them."""

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None


class Progress(Message):
    """Where an attempt stands."""

    step: int
    total_steps: int
    trained_tokens: int
    seconds_left: float | None = None


class JobEvent(Message):
    level: Literal["info", "warn", "error"] = "info"
    message: str
    metrics: Metrics | None = None
    data: dict[str, Any] | None = None


class EventBatch(Message):
    """Events of one lease. `first` numbers the first one within the lease, from 0, so that a batch
    sent twice is stored once.
    """

    first: Annotated[int, Field(ge=0)]
    events: list[JobEvent]
    progress: Progress | None = None


class UploadTarget(Message):
    """Where to PUT one file's bytes. `url` is None if they are already there."""

    url: str | None
    headers: dict[str, str] = {}


class CheckpointWritten(Message):
    step: int
    epoch: int
    metrics: Metrics
    files: list[FileFacts]


class Succeeded(Message):
    outcome: Literal["succeeded"] = "succeeded"
    trained_tokens: int
    files: list[FileFacts]
    metrics_csv: str


class Failed(Message):
    outcome: Literal["failed"] = "failed"
    failure_class: FailureClass
    code: str
    message: str
    log_tail: str = ""


class Cancelled(Message):
    outcome: Literal["cancelled"] = "cancelled"


class Released(Message):
    """The worker gives the job back unfinished and unpunished (it is shutting down)."""

    outcome: Literal["released"] = "released"


class FinishRequest(Message):
    result: Annotated[Succeeded | Failed | Cancelled | Released, Field(discriminator="outcome")]
