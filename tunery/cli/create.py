"""`tunery train`, `tunery create` and `tunery import`: a job from files on this machine."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openai import NotFoundError, OpenAI
from rich.console import Console

from tunery.cli.access import service
from tunery.cli.configs.rows import Joined
from tunery.cli.download import fetch_all
from tunery.cli.evaluate import settings_of
from tunery.cli.show import plain, print_json
from tunery.cli.status import show_end
from tunery.cli.validate import show_faults
from tunery.cli.watch import follow
from tunery.data.check import check
from tunery.data.columns import Columns
from tunery.errors import InvalidRequest

FILES = ("training", "validation")
# No file has this id.
UNSENT = "file-unsent"


@dataclass
class Wanted:
    """A request that lacks only its files' ids. `notes` says what is done otherwise than the
    original has it, `dropped` what of it has no effect here, `refused` what cannot be done, each by
    its name. Of the training file so many `validation_rows` are validated on.
    """

    body: dict[str, Any]
    training: Path | Joined | None = None
    validation: Path | Joined | None = None
    notes: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    validation_rows: int | None = None
    columns: Columns | None = None


def create(
    wanted: Wanted,
    *,
    stay: bool,
    into: Path | None = None,
    evaluation: Path | None = None,
    as_json: bool = False,
) -> None:
    """Checks and uploads the files, creates the job, with the `evaluation` of a file if one is
    named, and follows it to its end if it is to `stay`; then the model goes `into` a folder, if one
    is named. Nothing is sent of what is refused.
    """
    asked = {"evaluation": settings_of(evaluation)} if evaluation else {}
    console = plain(as_json=as_json)
    for note in wanted.dropped:
        console.print(f"Left out: {note}", markup=False)
    for note in wanted.notes:
        console.print(f"Note: {note}", markup=False)
    if wanted.refused:
        sys.exit("tunery: this cannot be carried over:\n" + "\n".join(wanted.refused))
    for what in FILES:
        for path in paths_of(getattr(wanted, what)):
            if not path.is_file():
                sys.exit(
                    f"tunery: there is no file {path}. Name the one to train on: --{what} FILE."
                )
    if wanted.training is None:
        sys.exit("tunery: there is no data to train on. Name a file: --training FILE.")
    with ExitStack() as until_sent:
        folder = Path(until_sent.enter_context(TemporaryDirectory()))
        files = checked(wanted, folder, console)
        client = until_sent.enter_context(service())
        body = wanted.body | asked
        ask_before(client, body, [*files])
        named = {"columns": wanted.columns} if wanted.columns else None
        for what, path in files.items():
            file = client.files.create(file=path, purpose="fine-tune", extra_body=named)
            console.print(f"Uploaded {path.name} as {file.id}")
            body[f"{what}_file"] = file.id
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
            listed = client.get(artifacts, cast_to=dict[str, Any])["data"]
            fetch_all(client, artifacts, listed, into)
            console.print(f"The model is in {into}")


def paths_of(source: Path | Joined | None) -> list[Path]:
    if isinstance(source, Joined):
        return source.paths
    return [source] if source else []


def checked(wanted: Wanted, folder: Path, console: Console) -> dict[str, Path]:
    """The files that are sent, of which those that are made are in the folder. Exits with an error
    if a row of one has a fault.
    """
    files, good = {}, True
    for what in FILES:
        source = getattr(wanted, what)
        if source is None:
            continue
        try:
            path = source.file(folder / what) if isinstance(source, Joined) else source
        except InvalidRequest as error:
            sys.exit(f"tunery: {error} Nothing was sent.")
        report = check(path, columns=wanted.columns).as_dict()
        show_faults(console, path if path in paths_of(source) else path.name, report)
        good &= report["ok"]
        files[what] = path
        if what == "training" and wanted.validation_rows:
            if wanted.validation_rows >= report["rows"]:
                sys.exit(
                    f"tunery: {wanted.validation_rows} rows to validate on are all of {path.name}. "
                    "Nothing was sent."
                )
            share = wanted.validation_rows / report["rows"]
            wanted.body["training"]["validation_split"] = share
    if not good:
        sys.exit("tunery: nothing was sent. Fix the rows and run this again.")
    return files


def ask_before(client: OpenAI, body: dict[str, Any], files: list[str]) -> None:
    """Raises the service's refusal of all but the files, which it looks for last."""
    unsent = {f"{what}_file": UNSENT for what in files}
    try:
        client.post("/fine_tuning/estimate", body=body | unsent, cast_to=dict[str, Any])
    except NotFoundError as error:
        if error.param not in unsent:
            raise


def tell_estimate(console: Console, extras: dict[str, Any]) -> None:
    """How much there is to do, once that is known."""
    if estimate := extras.get("estimate"):
        steps, rows = estimate["steps"], estimate["rows"]
        console.print(f"About {steps:,} steps on {rows:,} rows of {estimate['tokens']:,} tokens")
