"""How much there is to train, and how long it takes on the workers' devices."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import literal, select
from sqlalchemy.orm import Session

from api.jobs.estimates import devices
from api.jobs.estimates.devices import Device
from api.jobs.estimates.schemas import DeviceEstimate, JobEstimate
from api.tables import Attempt, BaseModel, File, Job, Worker
from tunery.errors import DoesNotFit
from tunery.plan.choice import choose
from tunery.plan.duration import reading_seconds, training_seconds
from tunery.plan.memory import data_bytes
from tunery.spec import Preference, TrainingSpec
from tunery.states import JobState

# Of text, for a token: enough to plan by before anything is tokenized.
TOKEN_BYTES = 4
REMEMBERED_JOBS = 20
# A century: what is further away no date may hold, and nobody waits for.
FORESEEN_SECONDS = 100 * 365 * 86_400


@dataclass(frozen=True)
class Load:
    """What there is to train on, about: rows and tokens of one epoch, tokens of the longest row, of
    a step.
    """

    rows: int
    tokens: int
    longest: int
    batch_size: int
    n_epochs: int
    max_steps: int | None = None

    @property
    def row_tokens(self) -> int:
        return -(-self.tokens // self.rows)

    @property
    def step_tokens(self) -> int:
        return self.row_tokens * self.batch_size

    @property
    def bytes(self) -> int:
        """What it takes of the machine's memory."""
        return data_bytes(self.rows, self.tokens)

    @property
    def steps(self) -> int:
        epochs = self.n_epochs * math.ceil(self.rows / self.batch_size)
        return epochs if self.max_steps is None else min(self.max_steps, epochs)

    @property
    def tokens_in_all(self) -> int:
        """Those of all steps."""
        if self.max_steps is None:
            return self.tokens * self.n_epochs
        return min(self.tokens * self.n_epochs, self.steps * self.step_tokens)


def of_job(tx: Session, base: BaseModel, spec: TrainingSpec, file: File) -> JobEstimate:
    """What a job on that training file will be. Its time is known if it is known of each device
    that it may be given to.
    """
    load = load_of(file, spec)
    found = JobEstimate(rows=load.rows, tokens=load.tokens, steps=load.steps)
    on_devices = on_all(tx, base, spec, file)
    times = [one.seconds for one in on_devices if one.fits is not False]
    if times and all(times):
        found.seconds = (
            min(time[0] for time in times if time),
            max(time[1] for time in times if time),
        )
        history = all(one.seconds_from == "history" for one in on_devices if one.fits is not False)
        found.seconds_from = "history" if history else "model"
    return found


def finish(job: Job, at: datetime, *, seconds_left: float | None = None) -> datetime | None:
    """When a job that runs at that time will have finished, by the pace that was measured, else by
    its estimate and the steps it has left. None: it is not known, or too far away.
    """
    if seconds_left is None:
        seconds = (job.estimate or {}).get("seconds")
        if seconds is None:
            return None
        done = job.progress["step"] / job.progress["total_steps"] if job.progress else 0
        seconds_left = (1 - done) * sum(seconds) / 2
    return at + timedelta(seconds=seconds_left) if seconds_left < FORESEEN_SECONDS else None


def on_all(tx: Session, base: BaseModel, spec: TrainingSpec, file: File) -> list[DeviceEstimate]:
    """On each device of the workers."""
    load, speeds = load_of(file, spec), known_speeds(tx, base, file.project_id)
    return [
        on_device(device, base, spec, load, speeds.get(device.name, []))
        for device in devices.list_all(tx)
    ]


def rows_of(file: File) -> int:
    return int((file.report or {})["rows"])


def longest_row(file: File, spec: TrainingSpec) -> int:
    """About how many tokens the longest row has. An older report does not tell: 1."""
    size = (file.report or {}).get("longest_row_bytes", 0)
    return max(1, min(most_tokens(spec), tokens_in(size)))


def most_tokens(spec: TrainingSpec) -> int:
    """Of a row, which of preferences is two answers."""
    return 2 * spec.max_length if isinstance(spec.objective, Preference) else spec.max_length


def tokens_in(size: int) -> int:
    """About how many tokens a text of so many bytes makes."""
    return -(-size // TOKEN_BYTES)


def load_of(file: File, spec: TrainingSpec) -> Load:
    report = file.report or {}
    rows, most = int(report["rows"]), most_tokens(spec)
    tokens = max(rows, tokens_in(report.get("text_bytes", file.bytes)))
    if spec.overflow == "split":
        rows = max(rows, -(-tokens // most))
    else:
        tokens = min(tokens, rows * most)
    return Load(
        rows=rows,
        tokens=tokens,
        longest=max(longest_row(file, spec), -(-tokens // rows)),
        batch_size=spec.batch_size,
        n_epochs=spec.n_epochs,
        max_steps=spec.max_steps,
    )


def bytes_of(data: Iterable[File], spec: TrainingSpec) -> int:
    """What data sets take of the machine's memory, about."""
    return sum(load_of(file, spec).bytes for file in data)


def on_device(
    device: Device, base: BaseModel, spec: TrainingSpec, load: Load, speeds: list[float]
) -> DeviceEstimate:
    """`speeds` are those of earlier jobs on this base and such a device, in tokens a second."""
    found = DeviceEstimate(device=device.name, memory_bytes=device.memory_bytes, gpus=device.gpus)
    if spec.gpus > device.gpus:
        found.fits = False
        found.reason = (
            f"It is to be trained on {spec.gpus} GPUs, and a worker with this device offers "
            f"{device.gpus} to one training."
        )
        return found
    tokens = load.tokens_in_all / at_once(device, spec)
    if speeds:
        found.seconds, found.seconds_from = (tokens / max(speeds), tokens / min(speeds)), "history"
    shape = devices.shape_of(base)
    if shape is None:
        found.reason = f"{base.id} was registered without its shape; `tunery models add` it again."
        return found
    memory = device.memory_for(spec.gpus)
    if memory is None:
        found.reason = "The worker has not told its memory yet; it does when its engine is up."
        return found
    try:
        found.plan = choose(
            devices.needs_of(base, shape, spec, device.compute, load.bytes),
            quantization=spec.quantization,
            longest=load.longest,
            step_tokens=load.step_tokens,
            memory_bytes=memory,
            gpus=spec.gpus,
        )
    except DoesNotFit as refusal:
        found.fits, found.reason = False, refusal.message
        found.seconds = found.seconds_from = None
        return found
    found.fits = True
    if not speeds:
        trained = training_seconds(
            shape,
            found.plan,
            device=device.name,
            tokens=math.ceil(tokens),
            row_tokens=load.row_tokens,
            full=spec.lora is None,
        )
        if trained:
            read = reading_seconds(load.rows, load.tokens)
            found.seconds, found.seconds_from = (trained[0] + read, trained[1] + read), "model"
    return found


def at_once(device: Device, spec: TrainingSpec) -> int:
    """How many devices compute at the same time; processes on a CPU share its cores."""
    return 1 if device.name == "cpu" else spec.gpus


def known_speeds(tx: Session, base: BaseModel, project_id: str) -> dict[str | None, list[float]]:
    """By device, the tokens a second on one of it of the project's newest jobs on this base that
    succeeded at their first attempt, all of it counted.
    """
    newest = (
        select(Job.id)
        .where(
            Job.project_id == project_id,
            Job.base_model_id == base.id,
            # Not as a parameter: the index is for this very word.
            Job.state == literal(JobState.SUCCEEDED.value, literal_execute=True),
            Job.token == 1,
            Job.exported_job_id.is_(None),
        )
        .order_by(Job.finished_at.desc())
        .limit(REMEMBERED_JOBS)
        .subquery()
    )
    query = (
        select(Worker.device, Attempt.ended_at - Attempt.started_at, File, Job.spec)
        .select_from(newest)
        .join(Job, Job.id == newest.c.id)
        .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.token == Job.token))
        .join(Worker, Worker.id == Attempt.worker_id)
        .join(File, File.id == Job.training_file_id)
    )
    speeds = defaultdict(list)
    for device, took, file, frozen in tx.execute(query):
        try:
            spec = TrainingSpec.model_validate(frozen)
        except ValidationError:  # frozen by another version of the service
            continue
        tokens = load_of(file, spec).tokens_in_all / at_once(Device(device, None), spec)
        speeds[device].append(tokens / took.total_seconds())
    return dict(speeds)
