"""`tunery create` and `tunery import`: a job from what was written for other programs."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tunery.cli.access import service
from tunery.cli.download import fetch_all
from tunery.cli.show import plain, print_json
from tunery.cli.status import show_end
from tunery.cli.watch import follow
from tunery.data.columns import Columns


@dataclass
class Wanted:
    """A request that lacks only its files' ids. `dropped` says what of the original has no effect
    here, `refused` what cannot be done, each by its name.
    """

    body: dict[str, Any]
    training: Path | None = None
    validation: Path | None = None
    dropped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    columns: Columns | None = None


def create(wanted: Wanted, *, stay: bool, into: Path | None = None, as_json: bool = False) -> None:
    """Uploads the files, creates the job, and follows it to its end if it is to `stay`; then the
    model goes `into` a folder, if one is named.
    """
    console = plain(as_json=as_json)
    for note in wanted.dropped:
        console.print(f"Left out: {note}")
    if wanted.refused:
        sys.exit("tunery: this cannot be carried over:\n" + "\n".join(wanted.refused))
    for what in ("training", "validation"):
        path = getattr(wanted, what)
        if path is not None and not path.is_file():
            sys.exit(f"tunery: there is no file {path}. Name the one to train on: --{what} FILE.")
    with service() as client:
        body = dict(wanted.body)
        for name in ("training", "validation"):
            if path := getattr(wanted, name):
                named = {"columns": wanted.columns} if wanted.columns else None
                file = client.files.create(file=path, purpose="fine-tune", extra_body=named)
                console.print(f"Uploaded {path.name} as {file.id}")
                body[f"{name}_file"] = file.id
        made = client.post("/fine_tuning/jobs", body=body, cast_to=dict[str, Any])
        console.print(f"Created job {made['id']}")
        tell_estimate(console, made["tunery"])
        if not stay:
            for warning in made["tunery"].get("warnings") or []:  # else `follow` tells them
                console.print(f"Warning: {warning}")
            if as_json:
                print_json(made)
            return
        job = follow(client, made["id"], console)
        show_end(job, as_json=as_json)
        if into is not None:
            artifacts = f"/fine_tuning/jobs/{job.id}/artifacts"
            files = client.get(artifacts, cast_to=dict[str, Any])["data"]
            fetch_all(client, artifacts, files, into)
            console.print(f"The model is in {into}")


def tell_estimate(console: Console, extras: dict[str, Any]) -> None:
    """How much there is to do, once that is known."""
    if estimate := extras.get("estimate"):
        steps, rows = estimate["steps"], estimate["rows"]
        console.print(f"About {steps:,} steps on {rows:,} rows of {estimate['tokens']:,} tokens")
