"""The option of commands that create a job."""

from pathlib import Path
from typing import Annotated

import typer

WantedEvaluation = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="A grader, or the job's evaluation, as JSON or YAML: compares the tuned model with "
        "its base at the end.",
    ),
]
