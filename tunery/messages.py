"""What a worker and the API say to each other over HTTP (`/worker/v1`).

`token` is the fencing token: it grows with each claim of a job, and a write that carries an
older one is answered 409 `lease_lost`.

The API speaks `PROTOCOL` and the one before it. What is added to an answer needs no new protocol:
a worker ignores what it does not know. What it must know to train a job right does need one: the
job says which (`min_protocol`). What a worker sends is read strictly.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tunery.exports import Options
from tunery.facts import BaseModelFacts, FileFacts, FileLink, Files, PlainName
from tunery.fields import (
    A_DIGEST,
    A_SIGNATURE,
    CHECKPOINT_STEP,
    Bytes,
    CheckpointStep,
    ProjectId,
    Seconds,
    Sha256,
    WorkerId,
)
from tunery.measured import Fetching, Metrics, Progress, Samples
from tunery.plan.memory import Plan
from tunery.spec import TrainingSpec
from tunery.states import FailureClass
from tunery.wire import Answer, Count, LogTail, Message, Text

PROTOCOL = 5
OLDEST_PROTOCOL = PROTOCOL - 1

# The Celery message that wakes a worker. It carries nothing: the job is the row.
WAKE_TASK = "tunery.wake"
WAKE_QUEUE = "tunery"


# A header of the answer to a claim: why nobody is given a job just now.
NO_JOB_BECAUSE = "tunery-no-job-because"

MOST_EVENTS = 1_000
MOST_FACT_BYTES = 128 << 10


class AdapterLink(Answer):
    """An adapter: what a training starts from, or what is exported."""

    files: list[FileLink]
    """The weights, and PEFT's config of them."""


class CheckpointLink(Answer):
    """A checkpoint to go on from."""

    step: CheckpointStep
    files: list[FileLink]
    """All files of the checkpoint."""


Word = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
# Of a machine and of what is in it: letters, digits and what stands between them in such names.
WORKER_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._:@/()+-]{0,127}$"
WorkerName = Annotated[
    str,
    Field(
        description="Name of the worker, for people.",
        max_length=128,
        pattern=WORKER_NAME,
        examples=["gpu-1"],
    ),
]
A_DEVICE = "NVIDIA H100 80GB HBM3"
# As Kubernetes has names, so that an autoscaler can have the same.
POOL_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
DEFAULT_POOL = "default"
PoolName = Annotated[str, Field(max_length=63, pattern=POOL_NAME, examples=["a100"])]
# Printable ASCII, but for the signs of HTML.
DeviceName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -%'-;=?-~]*$")]


CLAIMED = Field(
    description="Id of the claimed job or export.", examples=["ftjob-NqVwYS81VP7Hb1DX8pPd5khx"]
)
ClaimedId = Annotated[str, CLAIMED]
TOKEN = Field(
    description="The fencing token: the number of this claim of the job, from 1.", examples=[2]
)


class WorkerFacts(Message):
    """A worker as it knows itself."""

    protocol: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True, examples=[PROTOCOL])]
    """Version of this protocol that the worker speaks."""
    worker: WorkerName
    id: Annotated[WorkerId, Field(max_length=128, pattern=WORKER_NAME)] | None = None
    """Id of the worker; null: it is known by its name."""
    device: Annotated[DeviceName, Field(examples=[A_DEVICE])] | None = None
    """Name of the GPU, or "cpu"; null until the engine has started."""
    memory_bytes: (
        Annotated[Bytes, Field(ge=0, lt=2**63, strict=True, examples=[25_757_220_864])] | None
    ) = None
    """Memory of the device in bytes; null until the engine has started."""
    build: Annotated[DeviceName, Field(examples=["0.1.0 (transformers 5.23.0)"])] | None = None
    """Versions of Tunery and of transformers that the worker runs; null: not reported."""
    lacks: dict[Word, Annotated[str, Field(max_length=4_096, pattern=r"^[^\x00]*$")]] = Field(
        default_factory=dict,
        exclude_if=lambda lacks: not lacks,
        max_length=1000,
        examples=[{"tunery-demo": "/srv/models/tunery-demo"}],
    )
    """Base models that the worker cannot load: by their ids, the source where it did not find them
    as they are registered, or from which it could not fetch them.
    """

    holds: list[Word] = Field(
        default_factory=list,
        exclude_if=lambda holds: not holds,
        max_length=1000,
        examples=[["Qwen/Qwen3-0.6B"]],
    )
    """Ids of the base models that the worker has fetched. Their jobs are preferred."""
    # An older API takes no fact that it does not know.
    pool: Annotated[PoolName, Field(exclude_if=lambda pool: pool == DEFAULT_POOL)] = DEFAULT_POOL
    """Pool of machines that the worker belongs to."""
    gpus: Annotated[
        int, Field(ge=1, le=64, strict=True, exclude_if=lambda gpus: gpus == 1, examples=[2])
    ] = 1
    """Number of GPUs that one training may use; on a CPU, of processes."""

    @property
    def known_as(self) -> str:
        return self.id or self.worker


class ClaimRequest(WorkerFacts):
    """A worker that asks for a job."""

    warm_base: Annotated[Word, Field(examples=["tunery-demo"])] | None = None
    """Id of the base model that the engine has loaded; null: none. Its jobs are preferred."""


class ExportOrder(Answer):
    """What is made of a trained model."""

    options: Options
    """The format, with its settings."""
    plan: Plan | None
    """The plan that the training followed; null: it is not known."""


A_SECRET = f"lease.ftjob-NqVwYS81VP7Hb1DX8pPd5khx.2.{A_SIGNATURE}"


class Lease(Answer):
    """A claimed job, with all that one attempt needs."""

    job_id: ClaimedId
    token: Annotated[int, TOKEN]
    secret: Annotated[str, Field(examples=[A_SECRET])]
    """Bearer token for the routes of this job. It is valid for nothing else."""
    lease_seconds: Annotated[Seconds, Field(examples=[60.0])]
    """Seconds without a heartbeat after which the job may be taken back."""
    spec: TrainingSpec
    """How the job is trained; of an export, how the exported job was."""
    base_model: BaseModelFacts
    """The base model as it is registered."""
    training_file: FileLink | None
    """The data set that is trained on; null: an export whose data set was deleted."""
    validation_file: FileLink | None
    """The data set for evaluations; null: none, or an export whose data set was deleted."""
    checkpoint: CheckpointLink | None
    """The newest checkpoint; null: the training starts from its beginning."""
    earlier_checkpoints: list[CheckpointLink] = Field(default_factory=list)
    """Older checkpoints, newest first, in case the newest one is damaged."""
    project_id: ProjectId | None = None
    """Id of the job's project."""
    adapter: AdapterLink | None = None
    """The adapter that the training starts from, or the one that is exported; null: none."""
    export: ExportOrder | None = None
    """The export to make; null: the job is a training."""
    base_files: list[FileLink] = Field(default_factory=list)
    """Where to get the files of the base model, if it is in the service's storage; else empty."""


class LeaseBeat(Message):
    """A lease that the worker holds."""

    job_id: Annotated[Word, CLAIMED]
    token: Annotated[Count, TOKEN]
    step: Annotated[Count, Field(examples=[120])]
    """Optimizer steps taken so far."""


class Service(Answer):
    """The service that a worker is to work for."""

    version: Annotated[str, Field(examples=["0.1.0"])]
    """Version of the API."""
    protocol: Annotated[int, Field(examples=[2])]
    """Version of this protocol that the API speaks."""
    oldest_protocol: Annotated[int, Field(examples=[1])]
    """The oldest that it still speaks with workers."""


class HeartbeatRequest(Message):
    """Sent while idle too."""

    worker: WorkerFacts | None = None
    """The worker. A heartbeat without it is refused."""
    leases: Annotated[list[LeaseBeat], Field(max_length=1_000)]
    """The leases that the worker holds; empty while it is idle."""
    leaving: Annotated[bool, Field(exclude_if=lambda leaving: not leaving)] = False
    """Whether this is the worker's last heartbeat before it ends."""


class Directive(Answer):
    """What the worker is to do with one lease."""

    job_id: ClaimedId
    token: Annotated[int, TOKEN]
    directive: Literal["run", "pause", "release", "cancel", "lost"]
    """What to do. "run": go on. "cancel": stop and keep nothing. "pause", or "release" for a worker
    that is drained: stop, keep a checkpoint and give the job back. "lost": drop the job, which is
    no longer this worker's.
    """


class HeartbeatReply(Answer):
    """What the worker is to do."""

    leases: list[Directive]
    """A directive for each lease of the heartbeat, in the same order."""
    draining: bool = False
    """Whether the worker is given no more jobs."""


def facts(data: dict[str, Any]) -> dict[str, Any]:
    for name in data:
        if not FACT.fullmatch(name):
            raise ValueError(f"has {name[:64]!r}; a fact's name has 1 to 64 letters, digits and _")
    if len(json.dumps(data)) > MOST_FACT_BYTES:
        raise ValueError(f"is longer than {MOST_FACT_BYTES:,} bytes as JSON")
    total = data.get("total_steps", 1)
    if not isinstance(total, int) or isinstance(total, bool) or not 0 < total <= 2**53:
        raise ValueError("has total_steps that are no count")
    return data


FACT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class JobEvent(Message):
    """An event of the job: a message, or the metrics of a step."""

    level: Literal["info", "warn", "error"] = "info"
    """How serious the event is."""
    message: Annotated[Text, Field(examples=["Step 120/300: training loss=0.82"])]
    """What happened, in a sentence for people."""
    metrics: Metrics | None = None
    """Metrics of a step; null: the event is a message."""
    data: (
        Annotated[
            dict[str, Any],
            Field(max_length=64, examples=[{"total_steps": 300}]),
            AfterValidator(facts),
        ]
        | None
    ) = None
    """Facts by name; null: none. A `plan` among them becomes the job's, what is `examined` its base
    model's; `total_steps` counts the optimizer steps of the whole training.
    """


class EventBatch(Message):
    """Events of one lease. A batch sent twice is stored once."""

    first: Annotated[Count, Field(examples=[0])]
    """Number of the first event within the lease, from 0."""
    events: Annotated[list[JobEvent], Field(max_length=MOST_EVENTS)]
    """The events, in order."""
    progress: Progress | None = None
    """Progress of the attempt; null: unchanged."""
    fetching: Annotated[Fetching | None, Field(exclude_if=lambda none: none is None)] = None
    """How far the base model is fetched; left out: unchanged."""


class LogPart(Message):
    """A piece of the engine's log of one attempt. A part sent twice is the same both times."""

    start: Annotated[Count, Field(examples=[8192])]
    """Bytes of the log before this piece."""
    bytes: Annotated[int, Field(ge=1, le=1 << 20, examples=[71])]
    """Bytes of this piece as it was written."""
    text: Annotated[
        str,
        Field(
            max_length=1 << 20, examples=["2026-11-28 17:00:00.123 INFO Checkpoint at step 120\n"]
        ),
        AfterValidator(lambda text: text.replace("\x00", "")),
    ]
    """The lines of this piece."""


AN_UPLOAD = (
    f"/storage/jobs/ftjob-NqVwYS81VP7Hb1DX8pPd5khx/2/{A_DIGEST}?until=1764046800&size=48213"
    f"&sha256={A_DIGEST}&signature={A_SIGNATURE}"
)


A_DIRECT_UPLOAD = (
    "https://s3.eu-west-1.amazonaws.com/tunery/jobs/ftjob-NqVwYS81VP7Hb1DX8pPd5khx/2/"
    f"{A_DIGEST}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=86400&X-Amz-Signature=5d41402abc4b"
)


class DirectTarget(Answer):
    """Where storage itself takes bytes."""

    url: Annotated[str, Field(examples=[A_DIRECT_UPLOAD])]
    """Where to PUT the bytes."""
    headers: Annotated[dict[str, str], Field(examples=[{"x-amz-checksum-sha256": "n4bQ…CAo="}])]
    """Headers to send with them."""


class UploadTarget(Answer):
    """Where to PUT one file's bytes."""

    url: Annotated[str, Field(examples=[AN_UPLOAD])] | None
    """Where to PUT the bytes; null: they are there already. It may be relative to the API's own
    address.
    """
    headers: Annotated[dict[str, str], Field(examples=[{}])] = Field(default_factory=dict)
    """Headers to send with the bytes."""
    direct: Annotated[DirectTarget | None, Field(exclude_if=lambda none: none is None)] = None
    """Where storage itself takes them; left out if it cannot be reached from outside. If that
    fails, `url` takes them.
    """
    part_bytes: Annotated[
        int | None, Field(exclude_if=lambda none: none is None, examples=[1_073_741_824])
    ] = None
    """Bytes of each part but the last in which storage itself takes a file of this size, see
    `/worker/v1/jobs/{job_id}/uploads/parts`; left out if it takes none.
    """


PartDigests = Annotated[
    list[Annotated[Sha256, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]],
    Field(min_length=1, max_length=10_000, examples=[[A_DIGEST]]),
]


class PartsAsked(Message):
    """A large file that is to be sent in parts."""

    file: FileFacts
    """The whole file."""
    parts: PartDigests
    """SHA-256 of each part, in order."""


class PartTargets(Answer):
    """Where storage itself takes a file's parts."""

    upload_id: Annotated[str, Field(examples=["2~Ykz0wCmoY3"])]
    """Name of the upload."""
    parts: list[DirectTarget]
    """Where to PUT each part, in order."""


class PartsSent(PartsAsked):
    """All parts of a file have been sent."""

    upload_id: Annotated[str, Field(max_length=1_024, examples=["2~Ykz0wCmoY3"])]
    """Name of the upload, as it was answered."""


class CheckpointWritten(Message):
    """A checkpoint whose files are stored."""

    step: Annotated[Count, CHECKPOINT_STEP]
    epoch: Annotated[Count, Field(examples=[1])]
    """Epochs completed when it was written."""
    metrics: Metrics
    """Metrics of that step."""
    files: Files
    """All files of the checkpoint."""
    samples: Samples | None = None
    """How its model does on the validation file; null: that was not measured."""


class Succeeded(Message):
    """The training is done, and its results are stored."""

    outcome: Literal["succeeded"] = "succeeded"
    """How the attempt ended."""
    trained_tokens: Annotated[Count, Field(examples=[460_800])]
    """Tokens trained on, over all epochs."""
    files: Files
    """All files of the result."""
    metrics_csv: Annotated[
        PlainName,
        Field(
            description="Name of the file with the metrics of each step, which becomes the job's "
            "result file.",
            examples=["metrics.csv"],
        ),
    ]


class Exported(Message):
    """The export is made, and its files are stored."""

    outcome: Literal["exported"] = "exported"
    """How the attempt ended."""
    files: Annotated[Files, Field(min_length=1)]
    """All files of the export."""


# What a worker is at. A failure has a phase where that says whose fault it may be.
Phase = Literal["base", "training_file", "validation_file", "training", "publishing"]
DATA_PHASES: frozenset[Phase] = frozenset({"training_file", "validation_file"})

# Codes of failures. The API itself has refused something: not the worker's fault.
API_REFUSED = "api_refused"
# The engine broke in a way that says nothing against its machine.
ENGINE_ERROR = "engine_error"
# The worker's files of the base model are not those that are registered.
BASE_DIFFERS = "base_model_differs"
# They are, and cannot be loaded all the same.
BASE_BROKEN = "base_model_broken"
# The worker does not have the base model, and could not fetch it just now.
BASE_NOT_FETCHED = "base_model_not_fetched"


class Failed(Message):
    """The attempt failed."""

    outcome: Literal["failed"] = "failed"
    """How the attempt ended."""
    failure_class: FailureClass
    """Why it failed, which decides whether the job is tried again."""
    code: Annotated[
        str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$", examples=["out_of_memory"])
    ]
    """Error code, for programs."""
    message: Annotated[
        Text, Field(examples=["The worker ran out of memory. Choose a smaller base model."])
    ]
    """What failed, in a sentence for people."""
    log_tail: Annotated[
        LogTail, Field(examples=["torch.OutOfMemoryError: CUDA out of memory."])
    ] = ""
    """End of the engine's log."""
    # An older API takes no fact that it does not know.
    phase: Annotated[Phase | None, Field(exclude_if=lambda none: none is None)] = None
    """What the worker was at; left out where that does not say whose fault it may be."""


class Released(Message):
    """The worker gives the job back unfinished and unpunished: it was told to stop, or is shutting
    down. What becomes of the job is as its user wishes.
    """

    outcome: Literal["released"] = "released"
    """How the attempt ended."""


class FinishRequest(Message):
    """How an attempt ended."""

    result: Annotated[Succeeded | Exported | Failed | Released, Field(discriminator="outcome")]
    """What came of the attempt."""
