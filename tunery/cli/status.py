"""`tunery status`: the jobs, or one job followed to its end."""

import sys

from openai import OpenAI, OpenAIError
from rich.console import Console
from rich.table import Table

from tunery.cli.watch import follow, progress_of

SHOWN = 20
WIDTH = 200


def run(job_id: str | None) -> None:
    console = Console(highlight=False)
    try:
        client = OpenAI()
        if job_id is None:
            show_all(client, console)
            return
        job = follow(client, job_id, console)
        console.print(f"{job.id} {job.status}")
        if job.error:
            sys.exit(job.error.message)
        if job.fine_tuned_model:
            console.print(f"model {job.fine_tuned_model}")
    except OpenAIError as error:
        sys.exit(f"tunery: {error}")


def show_all(client: OpenAI, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("job", "status", "step", "model"):
        table.add_column(name, no_wrap=True, overflow="ignore")
    for job in client.fine_tuning.jobs.list(limit=SHOWN).data:
        state = progress_of(job)
        step = f"{state['step']}/{state['total_steps']}" if state else ""
        table.add_row(job.id, job.status, step, job.fine_tuned_model or job.model)
    # Ids are there to be copied: a narrow terminal wraps them rather than cutting them off.
    console.print(table, width=WIDTH, soft_wrap=True)
