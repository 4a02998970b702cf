"""From a step's metrics to a run at a tracker that has heard of it: after the fact, out of the
events, each step once. A run that cannot be told is tried again for a day; its job never knows.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from api.jobs import state
from api.jobs.requests import CreateJob
from api.jobs.schemas import method_of, training_of
from api.tables import NOW, Event, Job, TrackedRun, TrackerKey, from_now
from api.trackers.keys import WANDB
from tunery.states import UNFINISHED, JobState

# A run under way is told of what is new at most so often: each telling starts a process.
BATCH_SECONDS = 60
BATCH_STEPS = 2_000
# After each telling in vain, doubled each time up to the longest, until it was in vain for so long.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30, 7200
GIVE_UP_SECONDS = 24 * 3600
# How long a run is its claimer's: longer than a telling can take.
CLAIM_SECONDS = 180


@dataclass(frozen=True)
class Telling:
    """All that one takes. `sealed` is None without a key. `exit_code` is None while more may come,
    else the run ends with it.
    """

    project_id: str
    sealed: str | None
    run: dict[str, Any]
    config: dict[str, Any]
    steps: list[dict[str, Any]]
    exit_code: int | None


@dataclass(frozen=True)
class Outcome:
    """Where the run is seen, or why nothing is known to have arrived: words without any of the
    tracker's own, which might repeat a secret.
    """

    url: str | None = None
    error: str | None = None


def claim(tx: Session) -> tuple[TrackedRun, Telling] | None:
    """The run that is due longest and has something to be told. If its claimer dies, it comes up
    again, with the same steps; those that arrived are known by their numbers.
    """
    news = exists().where(Event.job_id == TrackedRun.job_id, Event.step > TrackedRun.told_step)
    found = tx.execute(
        select(TrackedRun, Job)
        .join(Job, Job.id == TrackedRun.job_id)
        # Not `clock_timestamp()`, which no index serves.
        .where(TrackedRun.next_at <= func.now(), or_(Job.state.not_in(UNFINISHED), news))
        .order_by(TrackedRun.next_at)
        .limit(1)
        .with_for_update(of=TrackedRun, skip_locked=True)
    ).one_or_none()
    if found is None:
        return None
    run, job = found
    run.next_at = tx.scalar(select(from_now(CLAIM_SECONDS)))
    run.claims += 1
    tx.flush()
    key = tx.get(TrackerKey, (run.project_id, WANDB))
    return run, telling(tx, run, job, key.sealed if key else None)


def telling(tx: Session, run: TrackedRun, job: Job, sealed: str | None) -> Telling:
    steps = list(
        tx.scalars(
            select(Event.data)
            .where(Event.job_id == run.job_id, Event.step > run.told_step)
            .order_by(Event.step)
            .limit(BATCH_STEPS)
        )
    )
    ended = JobState(job.state).terminal and len(steps) < BATCH_STEPS
    (asked,) = job.request["integrations"]
    return Telling(
        project_id=run.project_id,
        sealed=sealed,
        run={"id": job.id, "name": job.id}
        | {name: value for name, value in asked["wandb"].items() if value},
        config=config_of(job),
        steps=[measured(step or {}) for step in steps],
        exit_code=int(job.state != JobState.SUCCEEDED) if ended else None,
    )


def measured(step: dict[str, Any]) -> dict[str, Any]:
    """Its number and what differs from step to step."""
    return {
        name: value
        for name, value in step.items()
        if name != "total_steps" and isinstance(value, int | float)
    }


def follow(tx: Session, job: Job, asked: CreateJob) -> None:
    """From now on, if that was asked for."""
    if asked.integrations:
        tx.add(TrackedRun(project_id=job.project_id, job_id=job.id))
        tx.flush()


def config_of(job: Job) -> dict[str, Any]:
    spec = job.spec or {}
    return {
        "model": job.request.get("model", job.base_model_id),
        "base_model": job.base_model_id,
        "fine_tuned_model": job.fine_tuned_model,
        "training_file": job.training_file_id,
        "validation_file": job.validation_file_id,
        "seed": job.seed,
        "method": method_of(job)["type"],
        "hyperparameters": job.hyperparameters,
        "training": training_of(spec) if spec else None,
        "lora": spec.get("lora"),
    }


def record(tx: Session, claimed: TrackedRun, told: Telling, outcome: Outcome) -> None:
    """How a telling ended. Nothing, if the run was claimed again meanwhile."""
    run = tx.scalars(
        select(TrackedRun)
        .where(TrackedRun.job_id == claimed.job_id, TrackedRun.claims == claimed.claims)
        .with_for_update()
    ).one_or_none()
    if run is None:
        return
    now = tx.scalars(select(NOW)).one()
    if outcome.error is None:
        if outcome.url and run.url is None:
            run.url = outcome.url
            state.record(tx, tx.get_one(Job, run.job_id), f"W&B run created: {outcome.url}")
        run.failures, run.failing_since = 0, None
        if told.steps:
            run.told_step = told.steps[-1]["step"]
        more = len(told.steps) == BATCH_STEPS
        pause = timedelta(seconds=0 if more else BATCH_SECONDS)
        run.next_at = None if told.exit_code is not None else now + pause
    else:
        run.failures += 1
        run.failing_since = run.failing_since or now
        pause = timedelta(seconds=pause_after(run.failures))
        run.next_at = now + pause
        if now - run.failing_since >= timedelta(seconds=GIVE_UP_SECONDS):
            run.next_at = None
            job = tx.get_one(Job, run.job_id)
            words = f"Weights & Biases was not told of this job: {outcome.error}. It was tried for "
            words += "a day and is not tried again; the job itself is not affected."
            state.record(tx, job, words, level="warn")
    tx.flush()


def pause_after(failures: int) -> int:
    """In seconds."""
    return min(FIRST_PAUSE_SECONDS << min(failures - 1, 16), LONGEST_PAUSE_SECONDS)
