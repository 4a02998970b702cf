"""What the agent and its engine say to each other: one JSON object a line, over two dedicated
pipes (libraries print on stdout). Every message names the job and the fencing token, so that a
late word about an old attempt is recognised and dropped.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tunery.completions import ChatPrompt, CompletionPart, Sampling, TextPrompt
from tunery.exports import Format, Options
from tunery.facts import FileFacts
from tunery.measured import Metrics, Pace, Progress, Samples
from tunery.messages import Phase
from tunery.plan.memory import Plan, Precision
from tunery.spec import TrainingSpec
from tunery.states import FailureClass

CHECKPOINT_REFUSED = "checkpoint_refused"
# Beside the folder of a training's results: what both models answered, a row a line.
EVALUATION = "evaluation.jsonl"


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attempt(Line):
    """Which job, under which claim, a line is about."""

    job_id: str
    token: int


class Train(Attempt):
    """Train one job. `folder` is this attempt's own, empty work folder; all paths are absolute. The
    base model's folder must hold the `base_files` that are registered. In the folder `adapter` lies
    the one that the spec starts from. A checkpoint is written at the end of each epoch and whenever
    `checkpoint_seconds` have passed. What makes the next start faster is kept in `cache`, across
    attempts, and in memory for the jobs of a project that is known.
    """

    type: Literal["train"] = "train"
    project_id: str | None
    spec: TrainingSpec
    base_folder: Path
    base_files: list[FileFacts]
    training_file: Path
    validation_file: Path | None
    adapter: Path | None = None
    checkpoint: Path | None
    checkpoint_seconds: float
    folder: Path
    cache: Path


class Export(Attempt):
    """Make another form of a trained model. `spec` is of the job that trained it, `plan` the one
    that its worker followed, if it is known. In the folder `adapter` lie PEFT's two files, of the
    job's end or of a checkpoint. How far a merged model is from it is measured on rows of the
    validation file, else the training file. Folders as in `Train`; the answer is `Finished`.
    """

    type: Literal["export"] = "export"
    project_id: str | None
    spec: TrainingSpec
    plan: Plan | None = None
    base_folder: Path
    base_files: list[FileFacts]
    adapter: Path
    options: Options
    training_file: Path | None = None
    validation_file: Path | None = None
    folder: Path
    cache: Path

    @property
    def format(self) -> Format:
        return self.options.format


class Stop(Attempt):
    """End this attempt at the next micro-step; answered by `Stopped`, which with `checkpoint`
    comes after the checkpoint of the last completed step.
    """

    type: Literal["stop"] = "stop"
    checkpoint: bool


class Complete(Line):
    """Answer this, between the micro-steps of what is trained or at once. In the folder `adapter`
    lie PEFT's two files; without it the base itself answers. Folders and files as in `Train`. It
    is answered by `Said`, until one of them is the last.
    """

    type: Literal["complete"] = "complete"
    completion_id: str
    token: int
    base_model: str
    base_revision: str
    base_folder: Path
    base_files: list[FileFacts]
    cache: Path
    quantization: Precision | None
    double_quant: bool
    adapter: Path | None
    chat_template: str | None
    prompt: Annotated[ChatPrompt | TextPrompt, Field(discriminator="type")]
    sampling: Sampling


class Drop(Line):
    """Nobody wants this completion's answer any more. It is not answered."""

    type: Literal["drop"] = "drop"
    completion_id: str
    token: int


class Serves(Line):
    """What the engine can answer from now: a base model in a precision, or none. Told after `Ready`
    and whenever that changes. While an attempt has it, it is `held`: it loads no other base; else
    it loads the one that is asked for.
    """

    type: Literal["serves"] = "serves"
    base_model: str | None
    quantization: Precision | None
    double_quant: bool
    held: bool


class Said(Line):
    """The next part of a completion's answers. The last one has a usage or a refusal, or says that
    the completion is released: this engine cannot compute it now.
    """

    type: Literal["said"] = "said"
    completion_id: str
    token: int
    part: CompletionPart


class Ready(Line):
    """The engine has imported everything and waits for a command. The memory is the device's, of
    which it sees so many `gpus`. Of a device that is `unusable` it says why, and carries out
    nothing.
    """

    type: Literal["ready"] = "ready"
    device: str
    memory_bytes: int
    gpus: int = 1
    unusable: str | None = None


class Started(Attempt):
    """Data and model are loaded; the next thing is step `progress.step + 1`."""

    type: Literal["started"] = "started"
    progress: Progress


class Entered(Attempt):
    """What the attempt is at from now on. If the engine dies, that says whose fault it may be."""

    type: Literal["entered"] = "entered"
    phase: Phase


class Alive(Attempt):
    """The attempt goes on, between other reports; at most one a second."""

    type: Literal["alive"] = "alive"


class Noted(Attempt):
    """Something the user should know, as an event of the job."""

    type: Literal["noted"] = "noted"
    level: Literal["info", "warn"] = "info"
    message: str
    data: dict[str, Any] | None = None


class Stepped(Attempt):
    """One optimizer step done."""

    type: Literal["stepped"] = "stepped"
    metrics: Metrics
    progress: Progress
    pace: Pace


class Checkpointed(Attempt):
    """A whole checkpoint lies in `folder`, flushed to disk; `epoch` counts the finished ones."""

    type: Literal["checkpointed"] = "checkpointed"
    epoch: int
    metrics: Metrics
    folder: Path
    samples: Samples | None = None


class Finished(Attempt):
    """The folder with the results is written and flushed. `metrics_csv` has one row a step; it and
    `trained_tokens` are a training's.
    """

    type: Literal["finished"] = "finished"
    folder: Path
    trained_tokens: int | None = None
    metrics_csv: Path | None = None


class Stopped(Attempt):
    type: Literal["stopped"] = "stopped"


class Broke(Attempt):
    """The attempt failed. The engine itself lives on. With `CHECKPOINT_REFUSED` as its code the
    attempt may be ordered again with another checkpoint or none. `phase` is what it was at, but for
    faults that are the machine's wherever they show.
    """

    type: Literal["broke"] = "broke"
    failure_class: FailureClass
    code: str
    message: str
    phase: Phase | None = None


Command = Annotated[Train | Export | Stop | Complete | Drop, Field(discriminator="type")]
Report = Annotated[
    Ready
    | Entered
    | Started
    | Alive
    | Noted
    | Stepped
    | Checkpointed
    | Finished
    | Stopped
    | Broke
    | Serves
    | Said,
    Field(discriminator="type"),
]
COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
REPORT: TypeAdapter[Report] = TypeAdapter(Report)


def without_folders(text: str, order: Train | Export | Complete) -> str:
    """A text as its owner may read it, who need not know where things lie on this machine: files
    are called by their names, the base by its own.
    """
    base = order.base_folder
    if isinstance(order, Complete):
        name, folders = order.base_model, [order.adapter] if order.adapter else []
    else:
        data = [file.parent for file in (order.training_file, order.validation_file) if file]
        name, folders = order.spec.base_model, [order.folder, *data]
    for folder in (base, base.resolve(), order.cache, *folders):
        text = text.replace(f"{folder}/", "")
    for folder in (base, base.resolve()):
        text = text.replace(str(folder), name)
    return text
