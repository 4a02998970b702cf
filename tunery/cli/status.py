"""`tunery status`: the jobs, or one job followed to its end."""

import sys

from openai import OpenAI
from rich.console import Console

from tunery.cli.access import service
from tunery.cli.watch import follow, progress_of

SHOWN = 20


def run(job_id: str | None) -> None:
    console = Console(highlight=False)
    with service() as client:
        if job_id is None:
            show_all(client, console)
            return
        job = follow(client, job_id, console)
    console.print(f"{job.id} {job.status}")
    if job.error:
        sys.exit(job.error.message)
    if job.fine_tuned_model:
        console.print(f"model {job.fine_tuned_model}")


def show_all(client: OpenAI, console: Console) -> None:
    rows = [("job", "status", "step", "model")]
    for job in client.fine_tuning.jobs.list(limit=SHOWN).data:
        state = progress_of(job)
        step = f"{state['step']}/{state['total_steps']}" if state else ""
        rows.append((job.id, job.status, step, job.fine_tuned_model or job.model))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        # Ids are there to be copied: a narrow terminal wraps a line rather than cutting it off.
        console.print(line.rstrip(), soft_wrap=True, markup=False)
