"""What a job would be, before it is created."""

import math
from collections import defaultdict
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api import devices, intake
from api.devices import Device
from api.schemas.estimates import DeviceEstimate, EstimateObject
from api.schemas.requests import CreateJob
from api.tables import Attempt, BaseModel, File, Job, Worker
from tunery.errors import Conflict, DoesNotFit
from tunery.plan.duration import training_seconds
from tunery.plan.memory import choose
from tunery.spec import TrainingSpec
from tunery.states import JobState

REMEMBERED_JOBS = 20


@dataclass(frozen=True)
class Load:
    """What there is to train on, about: tokens of one epoch, of the longest row, of a step."""

    rows: int
    tokens: int
    longest: int
    batch_size: int
    n_epochs: int

    @property
    def row_tokens(self) -> int:
        return -(-self.tokens // self.rows)

    @property
    def step_tokens(self) -> int:
        return self.row_tokens * self.batch_size

    @property
    def steps(self) -> int:
        return self.n_epochs * math.ceil(self.rows / self.batch_size)


def estimate(tx: Session, asked: CreateJob) -> EstimateObject:
    """Creates nothing.

    Raises:
        NotFound, InvalidRequest, FileHasFaults: as `jobs.create`.
        Conflict: a file is still being checked.

    """
    base, source, data = intake.look_up(tx, asked)
    if not intake.checked(data):
        raise Conflict(
            "A file is still being checked. Ask again when GET /v1/files/{id} shows it processed.",
            code="file_not_checked",
        )
    spec, resolved = intake.freeze(asked, base, source, data, seed=asked.seed or 0)
    load = load_of(data["training_file"], spec)
    speeds = known_speeds(tx, base)
    return EstimateObject(
        model=asked.model,
        rows=load.rows,
        tokens=load.tokens,
        longest_row_tokens=load.longest,
        steps=load.steps,
        hyperparameters=resolved.hyperparameters,
        learning_rate=spec.learning_rate,
        max_length=spec.max_length,
        reasons=resolved.reasons,
        devices=[
            on_device(device, base, spec, load, speeds.get(device.name, []))
            for device in devices.list_all(tx)
        ],
    )


def load_of(file: File, spec: TrainingSpec) -> Load:
    report = file.report or {}
    rows = int(report["rows"])
    most = rows * spec.max_length
    tokens = max(rows, min(most, intake.tokens_in(report.get("text_bytes", file.bytes))))
    return Load(
        rows=rows,
        tokens=tokens,
        longest=max(intake.longest_row(file, spec), -(-tokens // rows)),
        batch_size=spec.batch_size,
        n_epochs=spec.n_epochs,
    )


def on_device(
    device: Device, base: BaseModel, spec: TrainingSpec, load: Load, speeds: list[float]
) -> DeviceEstimate:
    """`speeds` are those of earlier jobs on this base and such a device, in tokens a second."""
    found = DeviceEstimate(device=device.name, memory_bytes=device.memory_bytes)
    tokens = load.tokens * load.n_epochs
    if speeds:
        found.seconds, found.seconds_from = (tokens / max(speeds), tokens / min(speeds)), "history"
    shape = devices.shape_of(base)
    if shape is None:
        found.reason = f"{base.id} was registered without its shape; `tunery models add` it again."
        return found
    if device.memory_bytes is None:
        found.reason = "The worker has not told its memory yet; it does when its engine is up."
        return found
    try:
        found.plan = choose(
            shape,
            r=spec.lora.r,
            quantization=spec.quantization,
            longest=load.longest,
            step_tokens=load.step_tokens,
            memory_bytes=device.memory_bytes,
            compute=device.compute,
            dropout=spec.lora.dropout > 0,
        )
    except DoesNotFit as refusal:
        found.fits, found.reason = False, refusal.message
        found.seconds = found.seconds_from = None
        return found
    found.fits = True
    if not speeds:
        found.seconds = training_seconds(
            shape, found.plan, device=device.name, tokens=tokens, row_tokens=load.row_tokens
        )
        found.seconds_from = "model" if found.seconds else None
    return found


def known_speeds(tx: Session, base: BaseModel) -> dict[str | None, list[float]]:
    """By device, the tokens a second of the project's newest jobs on this base that succeeded at
    their first attempt, all of it counted.
    """
    query = (
        select(Worker.device, Attempt.ended_at - Attempt.started_at, File, Job.spec)
        .select_from(Job)
        .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.token == Job.token))
        .join(Worker, Worker.id == Attempt.worker_id)
        .join(File, File.id == Job.training_file_id)
        .where(Job.base_model_id == base.id, Job.state == JobState.SUCCEEDED, Job.token == 1)
        .order_by(Job.finished_at.desc())
        .limit(REMEMBERED_JOBS)
    )
    speeds = defaultdict(list)
    for device, took, file, frozen in tx.execute(query):
        try:
            load = load_of(file, TrainingSpec.model_validate(frozen))
        except ValidationError:  # frozen by another version of the service
            continue
        speeds[device].append(load.tokens * load.n_epochs / took.total_seconds())
    return dict(speeds)
