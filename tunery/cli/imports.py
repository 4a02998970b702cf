"""`tunery import`: jobs that ran elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunery.cli.show import Json
from tunery.errors import InvalidRequest

app = typer.Typer(help="Import jobs of other services.", no_args_is_help=True)


@app.command(
    "openai-job",
    epilog="Example: tunery import openai-job job.json --model meta-llama/Llama-3.1-8B "
    "--training rows.jsonl",
)
def import_openai_job(
    job: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="JSON of the job, as OpenAI's API returns it."
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the base to train.")],
    training: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Training data.")],
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Validation data.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Repeat a job that ran at OpenAI on an open base, and say what cannot be carried over."""
    from tunery.cli import openai_job
    from tunery.cli.create import create

    try:
        found = openai_job.read(job)
    except InvalidRequest as error:
        sys.exit(f"tunery: {error}")
    wanted = openai_job.wanted_of(found, model=model, training=training, validation=validation)
    create(wanted, stay=follow, as_json=as_json)
