"""`tunery files`: data sets, and the result files of jobs."""

import sys
import time
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
from tunery.cli.verbs import verbs
from tunery.cli.wanted_columns import WantedColumns, columns_of

app = typer.Typer(help="Manage data sets and result files.", no_args_is_help=True)

File = Annotated[str, typer.Argument(help="Id of the file.", metavar="FILE_ID")]

LOOK_SECONDS = 0.5

Answer = dict[str, Any]


@app.command("list", epilog="Example: tunery files list --purpose fine-tune")
def list_files(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number to list.")] = 100,
    purpose: Annotated[
        str | None,
        typer.Option(help="List only files of this purpose: fine-tune or fine-tune-results."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List files, the newest first."""
    with verbs() as ask:
        page = ask.list_files(limit, purpose)
    if as_json:
        print_json(page)
        return
    rows = (
        (file["id"], file["status"], size(file["bytes"]), day(file["created_at"]), file["filename"])
        for file in page["data"]
    )
    print_table(("file", "status", "size", "created", "name"), rows)


@app.command("get", epilog="Example: tunery files get file-abc123")
def get_file(file: File, as_json: Json = False) -> None:
    """Show one file."""
    with verbs() as ask:
        show(ask.get_file(file), as_json)


def show(file: Answer, as_json: bool) -> None:
    if as_json:
        print_json(file)
        return
    print_fields(
        {
            "id": file["id"],
            "name": file["filename"],
            "status": file["status"],
            "faults": file.get("status_details"),
            "purpose": file["purpose"],
            "size": size(file["bytes"]),
            "sha256": file["sha256"],
            "created": day(file["created_at"]),
            "columns": file.get("columns"),
            "expires": day(file.get("expires_at")) or None,
        }
    )


@app.command(epilog="Example: tunery files upload rows.jsonl")
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A data set.")],
    columns: WantedColumns = None,
    wait: Annotated[bool, typer.Option(help="Wait until the rows are checked.")] = True,
    as_json: Json = False,
) -> None:
    """Upload a data set, and wait for what its check says."""
    with verbs() as ask:
        file = ask.upload_file(path, columns_of(columns))
        while wait and file["status"] == "uploaded":
            time.sleep(LOOK_SECONDS)
            file = ask.get_file(file["id"])
    show(file, as_json)
    if file["status"] == "error":
        sys.exit(f"tunery: {path} has faults; `tunery files report {file['id']}` lists them.")


@app.command(epilog="Example: tunery files report file-abc123")
def report(
    file: File,
    model: Annotated[
        str | None, typer.Option(help="A model's name: count tokens, show how rows are masked.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the check of a data set found, every fault of it."""
    from tunery.cli.validate import show_faults, show_tokens

    with verbs() as ask:
        found = ask.get_file_report(file, model)
    if as_json:
        print_json(found)
        return
    show_faults(plain(), file, found)
    if "tokens" in found:
        show_tokens(plain(), found["tokens"])


@app.command(epilog="Example: tunery files download file-abc123 --into rows.jsonl")
def download(
    file: File,
    into: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="File to write; by default the file's own name in this folder."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a file, checked against its SHA-256."""
    with verbs() as ask:
        # The name may be a stranger's: only its last part is used.
        to = into or Path(Path(ask.get_file(file)["filename"]).name or file)
        found = ask.download_file(file, to)
    print_line(f"{to}, {size(found['bytes'])}", found, as_json=as_json)


@app.command(epilog="Example: tunery files delete file-abc123")
def delete(file: File, as_json: Json = False) -> None:
    """Delete a file for good. It is refused while an unfinished job needs it."""
    with verbs() as ask:
        answer = ask.delete_file(file)
    print_line(f"{file} deleted", answer, as_json=as_json)
