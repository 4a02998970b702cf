"""Files of the service, fetched: whole and as they were announced, or not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from openai import APIConnectionError, OpenAI, Stream
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

CHUNK_BYTES = 1 << 20

Announced = dict[str, Any]


class Bytes(Stream[bytes]):
    """A file as it comes."""

    def __stream__(self) -> Iterator[bytes]:
        try:
            yield from self.response.iter_bytes(CHUNK_BYTES)
        except Exception as error:  # of the HTTP library that this version of the SDK has
            raise APIConnectionError(request=self.response.request) from error


def bar() -> Progress:
    """On stderr, where that is a terminal: what is printed on stdout stays what was asked for."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def fetch_all(client: OpenAI, path: str, files: list[Announced], folder: Path) -> None:
    """Each of the `files` under `path` into the folder. Raises `OSError` if that fails; what has
    come by then stays, and is not fetched again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        fetch_to(client, f"{path}/{file['name']}", file, folder / file["name"])


def fetch_to(client: OpenAI, path: str, file: Announced, to: Path) -> None:
    """`file` announces its `bytes` and `sha256`. Raises `OSError`, also where another file of that
    name is: it is never overwritten.
    """
    if is_here(to, file):
        return
    if to.exists():
        raise FileExistsError(f"{to} is there already, and it is another file. Name another place.")
    fetch(client, path, file, to)


def is_here(to: Path, file: Announced) -> bool:
    if not to.is_file() or to.stat().st_size != file["bytes"]:
        return False
    with to.open("rb") as content:
        return bool(hashlib.file_digest(content, "sha256").hexdigest() == file["sha256"])


def fetch(client: OpenAI, path: str, file: Announced, to: Path) -> None:
    """The file appears whole or not at all. Raises `OSError` if it is not what was announced."""
    digest = hashlib.sha256()
    partial = to.with_name(f".{to.name}.part")
    try:
        with (
            bar() as progress,
            partial.open("wb") as out,
            client.get(path, cast_to=bytes, stream=True, stream_cls=Bytes) as content,
        ):
            task = progress.add_task(to.name, total=file["bytes"])
            for chunk in content:
                digest.update(chunk)
                out.write(chunk)
                progress.advance(task, len(chunk))
        if digest.hexdigest() != file["sha256"]:
            raise OSError(f"{to.name} did not arrive as it was made; ask for it again")
        partial.rename(to)
    finally:
        partial.unlink(missing_ok=True)


def pour(client: OpenAI, path: str, out: BinaryIO) -> None:
    """What is under `path`, as it comes."""
    with client.get(path, cast_to=bytes, stream=True, stream_cls=Bytes) as content:
        out.writelines(content)
    out.flush()
