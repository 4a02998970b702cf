"""`tunery jobs`: what can be done with fine-tuning jobs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunery.cli.show import (
    Json,
    day,
    plain,
    print_fields,
    print_json,
    print_line,
    print_table,
    size,
)
from tunery.cli.verbs import JOBS, verbs
from tunery.cli.wanted_columns import WantedColumns, columns_of

app = typer.Typer(help="Manage fine-tuning jobs.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id of the job.", metavar="JOB")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Maximum number to list.")]

Answer = dict[str, Any]


@app.command("list", epilog="Example: tunery jobs list --status running --json")
def list_jobs(
    limit: Limit = 20,
    status: Annotated[
        str | None, typer.Option(help="List only jobs in this state: queued, running, succeeded, …")
    ] = None,
    model: Annotated[str | None, typer.Option(help="List only jobs on this model.")] = None,
    search: Annotated[
        str | None, typer.Option(help="A part of the id, the suffix or the tuned model's name.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Start after this id, the last of the page before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with verbs() as ask:
        page = ask.list_jobs(limit, status, model, search, after)
    if as_json:
        print_json(page)
        return
    print_table(("job", "status", "step", "model"), map(row_of, page["data"]))
    if page["has_more"]:
        plain(as_json=True).print(f"More: tunery jobs list --after {page['last_id']}")


def row_of(job: Answer) -> tuple[str, str, str, str]:
    progress = job["tunery"]["progress"]
    step = f"{progress['step']}/{progress['total_steps']}" if progress else ""
    return job["id"], job["status"], step, job["fine_tuned_model"] or job["model"]


@app.command("get", epilog="Example: tunery jobs get ftjob-abc123")
def get_job(job: Job, as_json: Json = False) -> None:
    """Show one job."""
    with verbs() as ask:
        found = ask.get_job(job)
    if as_json:
        print_json(found)
    else:
        print_fields(fields_of(found))
        for warning in found["tunery"]["warnings"] or []:
            plain().print(f"Warning: {warning}")


def fields_of(job: Answer) -> Answer:
    more, error = job["tunery"], job["error"]
    method = job["method"]["type"]
    settings = (job["method"].get(method) or {}).get("hyperparameters") or {}
    return {
        "id": job["id"],
        "status": job["status"],
        "waits for": (more.get("queue") or {}).get("reason"),
        "error": f"{error['code']}: {error['message']}" if error else None,
        "model": job["model"],
        "tuned model": job["fine_tuned_model"],
        "method": f"{method}, {more['quantization'] or 'its settings cannot be read'}",
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()) or None,
        "training file": job["training_file"],
        "validation file": job["validation_file"],
        "step": row_of(job)[2] or None,
        "trained tokens": job["trained_tokens"],
        "created": day(job["created_at"]),
        "may finish": day(job["estimated_finish"]) or None,
        "finished": day(job["finished_at"]) or None,
        "attempts": more["attempts"],
    }


@app.command(epilog="Example: tunery jobs cancel ftjob-abc123")
def cancel(job: Job, as_json: Json = False) -> None:
    """Cancel a job for good. A running one stops at its next step."""
    with verbs() as ask:
        show_change(ask.cancel_job(job), as_json)


@app.command(epilog="Example: tunery jobs pause ftjob-abc123")
def pause(job: Job, as_json: Json = False) -> None:
    """Pause a job: a running one keeps a checkpoint and frees its device."""
    with verbs() as ask:
        show_change(ask.pause_job(job), as_json)


@app.command(epilog="Example: tunery jobs resume ftjob-abc123")
def resume(job: Job, as_json: Json = False) -> None:
    """Resume a paused job from its checkpoint."""
    with verbs() as ask:
        show_change(ask.resume_job(job), as_json)


def show_change(job: Answer, as_json: bool) -> None:
    print_line(f"{job['id']} {job['status']}", job, as_json=as_json)


@app.command(epilog="Example: tunery jobs delete ftjob-abc123")
def delete(job: Job, as_json: Json = False) -> None:
    """Delete an ended job and its model, for good. Its result file stays."""
    with verbs() as ask:
        answer = ask.delete_job(job)
    print_line(f"{job} deleted", answer, as_json=as_json)


@app.command(epilog="Example: tunery jobs events ftjob-abc123 --limit 100")
def events(
    job: Job,
    limit: Limit = 20,
    after: Annotated[
        str | None, typer.Option(help="Show events older than the one with this id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a job's newest events, in the order in which they happened."""
    with verbs() as ask:
        page = ask.list_events(job, limit, after)
    if as_json:
        print_json(page)
        return
    for event in reversed(page["data"]):
        plain().print(f"{day(event['created_at'])}  {event['level']:<5}  {event['message']}")


@app.command(epilog="Example: tunery jobs metrics ftjob-abc123 --csv > metrics.csv")
def metrics(
    job: Job,
    limit: Annotated[
        int,
        typer.Option(
            min=10, max=10_000, help="Maximum number of steps to show. Peaks are always shown."
        ),
    ] = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every step as CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show a job's loss and its other metrics, step by step."""
    if as_csv and as_json:
        raise typer.BadParameter("Give one of --csv and --json.")
    with verbs() as ask:
        if as_csv:
            from tunery.cli.download import pour

            pour(ask.client, f"{JOBS}/{job}/metrics?format=csv", sys.stdout.buffer)
            return
        found = ask.get_metrics(job, limit)
    if as_json:
        print_json(found)
    else:
        print_table(found["columns"], ([in_short(x) for x in row] for row in found["points"]))


def in_short(value: float | None) -> str:
    """Of a metric, to four significant digits."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


@app.command(epilog="Example: tunery jobs checkpoints ftjob-abc123")
def checkpoints(job: Job, as_json: Json = False) -> None:
    """List the checkpoints that are kept of a job."""
    with verbs() as ask:
        page = ask.list_checkpoints(job)
    if as_json:
        print_json(page)
        return
    rows = (
        (
            each["step_number"],
            in_short(each["metrics"].get("valid_loss")),
            day(each["created_at"]),
            each["fine_tuned_model_checkpoint"],
        )
        for each in page["data"]
    )
    print_table(("step", "valid_loss", "created", "name"), rows)


@app.command(epilog="Example: tunery jobs samples ftjob-abc123")
def samples(job: Job, as_json: Json = False) -> None:
    """Show how the base and the tuned model answered held-out rows at the newest checkpoint, and
    which of those rows the model does best and worst on.
    """
    with verbs() as ask:
        page = ask.list_samples(job)
    if as_json:
        print_json(page)
        return
    if not page["data"]:
        sys.exit(f"tunery: job {job} has no samples: they need validation rows and a checkpoint.")
    newest, console = page["data"][0], plain()
    for answer in newest["answers"]:
        console.print(answer["prompt"].strip())
        print_fields({f"  {who}": answer[who] for who in ("expected", "base", "tuned")})
    for which in ("best", "worst"):
        rows = (
            (row["line"], in_short(row["base_loss"]), in_short(row["loss"]))
            for row in newest[which]
        )
        print_table((f"{which}: line", "loss before", "now"), rows)


@app.command(epilog="Example: tunery jobs logs ftjob-abc123 --tail 50 --follow")
def logs(
    job: Job,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Number of the attempt; by default the newest.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option(min=0, help="Number of lines to show, from the end.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Keep printing until the attempt ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show the engine's log of a job."""
    from tunery.cli.logs import run

    run(job, attempt=attempt, tail=tail, follow=follow, as_json=as_json)


@app.command(epilog="Example: tunery jobs download ftjob-abc123 --into adapter")
def download(
    job: Job,
    into: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to download into; by default the job's id."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a finished job's model: each file is checked against its SHA-256, and one that is
    here already is not fetched again.
    """
    folder = into or Path(job)
    with verbs() as ask:
        files = ask.download_job(job, folder)["files"]
    total = size(sum(file["bytes"] for file in files))
    print_line(f"{len(files)} files in {folder}, {total}", files, as_json=as_json)


EVAL = "Example: tunery eval ftjob-abc123 --data rows.jsonl --grader grader.json"


def evaluate(
    model: Annotated[str, typer.Argument(help="Id of a job, or name of a tuned model.")],
    data: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Rows that both models answer.")
    ],
    grader: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="A grader, as JSON or YAML.")
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Model to compare it with; by default the one that it was made from."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="The most rows.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 256,
    columns: WantedColumns = None,
    as_json: Json = False,
) -> None:
    """Ask a tuned model and its base, grade the answers, and say whether the tuned one is better.
    Ends with an error if it is worse.
    """
    from tunery.cli.evaluate import run

    run(
        model,
        data=data,
        grader=grader,
        base=base,
        rows=rows,
        max_tokens=max_tokens,
        columns=columns_of(columns),
        as_json=as_json,
    )
