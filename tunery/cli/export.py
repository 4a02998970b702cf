"""`tunery export`: a trained model in another form, made on a worker and fetched from there."""

import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import APIConnectionError, InternalServerError, OpenAI, Stream
from rich.console import Console

from tunery.cli.access import service
from tunery.cli.watch import AWAY_SECONDS, ENDED

LOOK_SECONDS = 1.0
CHUNK_BYTES = 1 << 20

Export = dict[str, Any]


class Bytes(Stream[bytes]):
    """A file as it comes."""

    def __stream__(self) -> Iterator[bytes]:
        yield from self.response.iter_bytes(CHUNK_BYTES)


def run(job_id: str, asked: dict[str, Any], into: Path | None) -> None:
    """Leaving early changes nothing about the export; its files can be fetched later as well."""
    console = Console(highlight=False)
    exports = f"/fine_tuning/jobs/{job_id}/exports"
    try:
        with service() as client:
            made: Export = client.post(exports, cast_to=Export, body=asked)
            export = follow(client, f"{exports}/{made['id']}", console)
            if export["error"]:
                sys.exit(f"tunery: {export['error']['message']}")
            if export["status"] != "succeeded":
                sys.exit(f"tunery: {export['id']} was {export['status']}")
            folder = into or Path(export["id"])
            folder.mkdir(parents=True, exist_ok=True)
            for file in export["files"]:
                fetch(client, f"{exports}/{export['id']}/files/{file['name']}", file, folder)
    except OSError as error:
        sys.exit(f"tunery: {error}")
    say(console, f"{len(export['files'])} files in {folder}")
    if serve := export["tunery"]["serve"]:
        say(console, f"serve it: {serve.replace(export['id'], str(folder))}")


def follow(client: OpenAI, path: str, console: Console) -> Export:
    """Until it has ended; says what its worker notes."""
    said, seen = 0, ""
    while True:
        try:
            export: Export = client.get(path, cast_to=Export)
            if export["status"] != seen:
                seen = export["status"]
                say(console, f"{export['id']} {seen}")
            events = client.get(f"{path}/events?limit=1000", cast_to=Export)["data"]
        except (APIConnectionError, InternalServerError):
            time.sleep(AWAY_SECONDS)
            continue
        for event in events[::-1][said:]:
            say(console, f"  {event['message']}")
        said = len(events)
        if seen in ENDED:
            return export
        time.sleep(LOOK_SECONDS)


def fetch(client: OpenAI, path: str, file: dict[str, Any], folder: Path) -> None:
    """The file appears whole or not at all. Raises `OSError` if it is not what was announced."""
    digest = hashlib.sha256()
    partial, whole = folder / f".{file['name']}", folder / file["name"]
    with (
        partial.open("wb") as out,
        client.get(path, cast_to=bytes, stream=True, stream_cls=Bytes) as content,
    ):
        for chunk in content:
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != file["sha256"]:
        partial.unlink()
        raise OSError(f"{file['name']} did not arrive as it was made; ask for it again")
    partial.rename(whole)


def say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)
