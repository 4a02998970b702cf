"""`tunery create` and `tunery import`: a job from what was written for other programs."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.cli.status import show_end
from tunery.cli.watch import follow


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


def create(wanted: Wanted, *, stay: bool, as_json: bool = False) -> None:
    """Uploads the files, creates the job, and follows it to its end if it is to `stay`."""
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
                file = client.files.create(file=path, purpose="fine-tune")
                console.print(f"Uploaded {path.name} as {file.id}")
                body[f"{name}_file"] = file.id
        made = client.post("/fine_tuning/jobs", body=body, cast_to=dict[str, Any])
        console.print(f"Created job {made['id']}")
        if not stay:
            if as_json:
                print_json(made)
            return
        job = follow(client, made["id"], console)
    show_end(job, as_json=as_json)
