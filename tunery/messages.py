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

from pydantic import AfterValidator, ConfigDict, Field

from tunery.exports import Options
from tunery.measured import Metrics, Progress, Samples
from tunery.plan.memory import Plan
from tunery.plan.shape import Shape
from tunery.spec import TrainingSpec
from tunery.states import FailureClass
from tunery.wire import Answer, Count, LogTail, Message, Text

PROTOCOL = 4
OLDEST_PROTOCOL = PROTOCOL - 1

# The Celery message that wakes a worker. It carries nothing: the job is the row.
WAKE_TASK = "tunery.wake"
WAKE_QUEUE = "tunery"


# A header of the answer to a claim: why nobody is given a job just now.
NO_JOB_BECAUSE = "tunery-no-job-because"

MOST_FILES = 1_000
MOST_EVENTS = 1_000
MOST_FACT_BYTES = 128 << 10


PlainName = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class FileFacts(Message):
    """One file by name and content. `name` is a plain file name, no folder."""

    name: PlainName
    bytes: Annotated[int, Field(ge=0, le=2**53)]
    sha256: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]


class FileLink(FileFacts):
    """A file and where to get it. `url` may be relative to the API's own address."""

    model_config = ConfigDict(extra="ignore")

    url: str


def each_name_once(files: list[FileFacts]) -> list[FileFacts]:
    names = set[str]()
    for file in files:
        if file.name in names:
            raise ValueError(f"names {file.name} twice")
        names.add(file.name)
    return files


Files = Annotated[list[FileFacts], Field(max_length=MOST_FILES), AfterValidator(each_name_once)]

# All that turning rows into tokens needs of a base model's folder.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class BaseModelFacts(Message):
    """A base model as it is registered. `source` is a folder that every worker can read,
    `revision` its own version (a commit, else a hash over its files), `context_length` is in
    tokens. `not_for_ollama` is why Ollama has no words for its chat template, if so. A command line
    older than `shape` or this does not tell it.
    """

    id: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
    revision: Annotated[str, Field(min_length=1, max_length=128)]
    source: Annotated[str, Field(max_length=4_096)]
    licence: Annotated[str, Field(max_length=1_024)] | None
    architecture: Annotated[str, Field(max_length=128)]
    hidden_size: int
    context_length: int
    has_chat_template: bool
    files: Files
    shape: Shape | None = None
    # Older workers take no fact that they do not know.
    not_for_ollama: Annotated[Text | None, Field(exclude_if=lambda none: none is None)] = None

    @property
    def tokenizer(self) -> list[FileFacts]:
        return [file for file in self.files if file.name in TOKENIZER_FILES]


class AdapterLink(Answer):
    """The weights that a training starts from, and PEFT's config of them."""

    files: list[FileLink]


class CheckpointLink(Answer):
    step: int
    files: list[FileLink]


Word = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
# Of a machine and of what is in it: letters, digits and what stands between them in such names.
WORKER_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._:@/()+-]{0,127}$"
WorkerName = Annotated[str, Field(max_length=128, pattern=WORKER_NAME)]
# Printable ASCII, but for the signs of HTML.
DeviceName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -%'-;=?-~]*$")]


class WorkerFacts(Message):
    """A worker as it knows itself. `id` is kept in its work folder, and so outlives a restart;
    `worker` is the name people gave it, and what it is known by without an `id`; `memory_bytes` is
    its device's. `lacks` are the base models that it cannot load, by their id the folder where it
    did not find them as they are registered.
    """

    protocol: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
    worker: WorkerName
    id: WorkerName | None = None
    device: DeviceName | None = None
    memory_bytes: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None
    build: DeviceName | None = None
    lacks: dict[Word, Annotated[str, Field(max_length=4_096, pattern=r"^[^\x00]*$")]] = Field(
        default_factory=dict, exclude_if=lambda lacks: not lacks, max_length=1000
    )

    @property
    def known_as(self) -> str:
        return self.id or self.worker


class ClaimRequest(WorkerFacts):
    """`warm_base` is the id of the base model that the worker's engine has loaded."""

    warm_base: Word | None = None


class ExportOrder(Answer):
    """What is made of a trained model; `plan` is the one that its training followed, if known."""

    options: Options
    plan: Plan | None


class Lease(Answer):
    """A claimed job, with all that one attempt needs. `token` counts its attempts; `secret` is the
    bearer for this job's routes, and good for nothing else. `checkpoint` is the newest; those in
    `earlier_checkpoints`, newest first, are for the case that it is damaged. `adapter` is there if
    the spec names one.

    With an `export` it is one: `spec` is that of the exported job, `adapter` what that has trained,
    and of its data sets those that still exist are there.
    """

    job_id: str
    token: int
    secret: str
    lease_seconds: float
    spec: TrainingSpec
    base_model: BaseModelFacts
    training_file: FileLink | None
    validation_file: FileLink | None
    checkpoint: CheckpointLink | None
    earlier_checkpoints: list[CheckpointLink] = Field(default_factory=list)
    project_id: str | None = None
    adapter: AdapterLink | None = None
    export: ExportOrder | None = None


class LeaseBeat(Message):
    job_id: Word
    token: Count
    step: Count


class HeartbeatRequest(Message):
    """Sent while idle too, without leases. `leaving`: the worker's last, before it ends. Protocol 1
    told no `worker`.
    """

    worker: WorkerFacts | None = None
    leases: Annotated[list[LeaseBeat], Field(max_length=1_000)]
    leaving: Annotated[bool, Field(exclude_if=lambda leaving: not leaving)] = False


class Directive(Answer):
    """What the worker is to do with one lease: go on; stop and keep nothing (cancel); stop, keep a
    checkpoint and give the job back (pause, or release: the worker is drained); or drop it, for it
    is no longer its own.
    """

    job_id: str
    token: int
    directive: Literal["run", "pause", "release", "cancel", "lost"]


class HeartbeatReply(Answer):
    """`draining`: the worker is given no more jobs."""

    leases: list[Directive]
    draining: bool = False


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
    """`data` are facts by name. A `plan` among them is the job's, if it is one
    (`tunery.plan.memory.Plan`); `total_steps` are of the whole training.
    """

    level: Literal["info", "warn", "error"] = "info"
    message: Text
    metrics: Metrics | None = None
    data: Annotated[dict[str, Any], Field(max_length=64), AfterValidator(facts)] | None = None


class EventBatch(Message):
    """Events of one lease. `first` numbers the first one within the lease, from 0, so that a batch
    sent twice is stored once.
    """

    first: Count
    events: Annotated[list[JobEvent], Field(max_length=MOST_EVENTS)]
    progress: Progress | None = None


class LogPart(Message):
    """A piece of the engine's log of one attempt. `start` and `bytes` count the bytes of the log as
    it was written; a part sent twice is the same both times.
    """

    start: Count
    bytes: Annotated[int, Field(ge=1, le=1 << 20)]
    text: Annotated[
        str, Field(max_length=1 << 20), AfterValidator(lambda text: text.replace("\x00", ""))
    ]


class UploadTarget(Answer):
    """Where to PUT one file's bytes. `url` is None if they are already there."""

    url: str | None
    headers: dict[str, str] = Field(default_factory=dict)


class CheckpointWritten(Message):
    step: Count
    epoch: Count
    metrics: Metrics
    files: Files
    samples: Samples | None = None


class Succeeded(Message):
    outcome: Literal["succeeded"] = "succeeded"
    trained_tokens: Count
    files: Files
    metrics_csv: PlainName


class Exported(Message):
    outcome: Literal["exported"] = "exported"
    files: Annotated[Files, Field(min_length=1)]


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


class Failed(Message):
    outcome: Literal["failed"] = "failed"
    failure_class: FailureClass
    code: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")]
    message: Text
    log_tail: LogTail = ""
    # An older API takes no fact that it does not know.
    phase: Annotated[Phase | None, Field(exclude_if=lambda none: none is None)] = None


class Released(Message):
    """The worker gives the job back unfinished and unpunished: it was told to stop, or is shutting
    down. What becomes of the job is as its user wishes.
    """

    outcome: Literal["released"] = "released"


class FinishRequest(Message):
    result: Annotated[Succeeded | Exported | Failed | Released, Field(discriminator="outcome")]
