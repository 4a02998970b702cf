"""A job's progress, live: bar, loss, time left."""

import sys
import time
from collections.abc import Callable
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

ENDED = {"succeeded", "failed", "cancelled"}
POLL_SECONDS = 0.5


def follow(
    client: OpenAI, job_id: str, console: Console, tend: Callable[[], None] = lambda: None
) -> FineTuningJob:
    """Shows the job until it ends, and its end. Leaving early changes nothing about the job. `tend`
    is called at each look.
    """
    columns = (
        TextColumn("{task.description:<17}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[loss]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("queued", total=0, loss="", left="")
        shown: tuple[str, int] | None = None
        while True:
            job = client.fine_tuning.jobs.retrieve(job_id)
            state = progress_of(job)
            loss = last_loss(client, job_id) if state else ""
            left = state.get("seconds_left")
            progress.update(
                bar,
                description=job.status,
                completed=state.get("step", 0),
                total=state.get("total_steps", 0),
                loss=loss,
                left=f"{left:.0f} s left" if left and job.status == "running" else "",
            )
            mark = (str(job.status), tenth(state))
            if progress.disable and mark != shown:
                step = f" step {state['step']}/{state['total_steps']} {loss}" if state else ""
                console.print(f"{job.status}{step}")
                shown = mark
            if job.status in ENDED:
                return job
            tend()
            time.sleep(POLL_SECONDS)


def tenth(state: dict[str, Any]) -> int:
    return int(10 * state["step"] / state["total_steps"]) if state else 0


def progress_of(job: FineTuningJob) -> dict[str, Any]:
    extras = (job.model_extra or {}).get("tunery") or {}
    return extras.get("progress") or {}


def last_loss(client: OpenAI, job_id: str) -> str:
    for event in client.fine_tuning.jobs.list_events(job_id, limit=20).data:
        if event.type == "metrics" and isinstance(event.data, dict):
            return f"loss {event.data['train_loss']:.3f}"
    return ""
