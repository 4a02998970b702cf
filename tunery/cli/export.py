"""`tunery export`: a trained model in another form, made on a worker and fetched from there."""

import sys
import time
from pathlib import Path
from typing import Any

from openai import APIConnectionError, InternalServerError, OpenAI
from rich.console import Console

from tunery.base_model import where_served
from tunery.cli.access import service
from tunery.cli.download import fetch_all
from tunery.cli.show import plain, print_json
from tunery.cli.verbs import JOBS
from tunery.cli.watch import AWAY_SECONDS, ENDED, INTERRUPTED

LOOK_SECONDS = 1.0

Export = dict[str, Any]


def run(job_id: str, asked: Export, into: Path | None, *, as_json: bool = False) -> None:
    """Leaving early changes nothing about the export; its files can be fetched later as well."""
    console = plain(as_json=as_json)
    exports = f"{JOBS}/{job_id}/exports"
    with service() as client:
        made: Export = client.post(exports, cast_to=Export, body=asked)
        try:
            export = follow(client, f"{exports}/{made['id']}", console)
        except KeyboardInterrupt:
            console.print(f"{made['id']} goes on. The same command comes back to it.")
            sys.exit(INTERRUPTED)
        if export["error"]:
            sys.exit(f"tunery: {export['error']['message']}")
        if export["status"] != "succeeded":
            sys.exit(f"tunery: {export['id']} was {export['status']}")
        folder = into or Path(export["id"])
        fetch_all(client, f"{exports}/{export['id']}/files", export["files"], folder)
        base = client.get(f"{JOBS}/{job_id}", cast_to=Export)["tunery"]["base_model"]
    if as_json:
        print_json(export)
    console.print(f"{len(export['files'])} files in {folder}")
    if serve := export["tunery"]["serve"]:
        command = serve.replace(export["id"], str(folder))
        console.print(f"serve it: {command}\n{where_served(base, command).strip()}".rstrip())


def follow(client: OpenAI, path: str, console: Console) -> Export:
    """Until it has ended; says what its worker notes."""
    said, seen = 0, ""
    while True:
        try:
            export: Export = client.get(path, cast_to=Export)
            if export["status"] != seen:
                seen = export["status"]
                console.print(f"{export['id']} {seen}")
            events = client.get(f"{path}/events?limit=1000", cast_to=Export)["data"]
        except (APIConnectionError, InternalServerError):
            time.sleep(AWAY_SECONDS)
            continue
        for event in events[::-1][said:]:
            console.print(f"  {event['message']}")
        said = len(events)
        if seen in ENDED:
            return export
        time.sleep(LOOK_SECONDS)
