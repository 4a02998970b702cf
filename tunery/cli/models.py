"""`tunery models`: base models, and what jobs made of them."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from tunery.cli import jobs
from tunery.cli.show import Json, day, print_fields, print_json, print_line, print_table
from tunery.cli.verbs import Answer, verbs
from tunery.cli.wanted_template import WantedTemplate

app = typer.Typer(help="Manage base models and tuned models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")]

EXAMINED = (
    "{way} (examined on {device} with torch {torch}, transformers {transformers}, peft {peft})"
)


@app.command("list", epilog="Example: tunery models list")
def list_models(as_json: Json = False) -> None:
    """List base and tuned models."""
    with verbs() as ask:
        page = ask.list_models()
    if as_json:
        print_json(page)
        return
    rows = ((each["id"], each["owned_by"], trained(each)) for each in page["data"])
    print_table(("model", "owned by", "trained"), rows)


def trained(model: Answer) -> str | None:
    """How a base is trained, or why it cannot be."""
    words: str | None = model.get("broken") or model.get("examined", {}).get("way")
    return words


@app.command("get", epilog="Example: tunery models get meta-llama/Llama-3.1-8B")
def get_model(name: Name, as_json: Json = False) -> None:
    """Show one model."""
    with verbs() as ask:
        found = ask.get_model(name)
    examined = found.get("examined")
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "id": found["id"],
            "owned by": found["owned_by"],
            "created": day(found["created"]),
            "revision": found.get("revision"),
            "broken": found.get("broken"),
            "trained": examined and EXAMINED.format(**examined),
        }
    )


@app.command("add", epilog="Example: tunery models add Qwen/Qwen3-0.6B")
def add_model(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder, or a name on the model hub with a commit, tag or branch.",
            metavar="FOLDER|ORG/NAME[@REVISION]",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name that jobs use, such as org/model-8b; required for a folder."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="For a folder: commit of the model; by default a hash over its files."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence, such as Apache-2.0; by default what the hub's model card names."
        ),
    ] = None,
    chat_template: WantedTemplate = None,
    as_json: Json = False,
) -> None:
    """Register a base model: by its name on the hub, from which each worker fetches it, or a
    folder, which every worker must be able to read at that path.

    It is the service that asks the hub, which HF_ENDPOINT and HF_TOKEN name to it. Needs a key with
    the scope admin in TUNERY_ADMIN_KEY; after `tunery up` on this machine it is found.
    """
    from tunery.cli.register import run

    run(
        model,
        name=name,
        revision=revision,
        licence=licence,
        chat_template=chat_template,
        as_json=as_json,
    )


@app.command(epilog="Example: tunery models push /models/llama --name meta-llama/Llama-3.1-8B")
def push(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    name: Annotated[str, typer.Option(help="Name that jobs use, such as meta-llama/Llama-3.1-8B.")],
    revision: Annotated[
        str | None, typer.Option(help="Commit of the model; by default a hash over its files.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence, such as Apache-2.0.")] = None,
    chat_template: WantedTemplate = None,
    as_json: Json = False,
) -> None:
    """Send a base model's folder into the service's storage, from which each worker fetches it.

    Neither a hub nor a folder that all share is needed. Needs the same key as `add`.
    """
    from tunery.cli.register import push as send

    send(
        folder,
        name=name,
        revision=revision,
        licence=licence,
        chat_template=chat_template,
        as_json=as_json,
    )


@app.command(epilog="Example: tunery models download ft:demo:default::abc12345 --into adapter")
def download(
    name: Name,
    into: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to download into; by default the job's id."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download a tuned model, as `tunery jobs download` does."""
    with verbs() as ask:
        ask.get_model(name)  # which says so if there is none
        made = ask.list_jobs(1000, q=name.rpartition(":")[2])["data"]
        job = next((job["id"] for job in made if job["fine_tuned_model"] == name), None)
    if job is None:
        sys.exit(f"tunery: {name} is not a model that a job of this project made.")
    jobs.download(job, into, as_json)


@app.command(epilog="Example: tunery models delete ft:demo:default::abc12345")
def delete(name: Name, as_json: Json = False) -> None:
    """Delete a tuned model for good."""
    with verbs() as ask:
        answer = ask.delete_model(name)
    print_line(f"{name} deleted", answer, as_json=as_json)


@app.command(epilog="Example: tunery models remove Qwen/Qwen3-0.6B")
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a base model that no job and no endpoint names, with its files in the service's
    storage. Needs the same key as `add`.
    """
    with verbs(admin=True) as ask:
        answer = ask.delete(f"/admin/models/{quote(name, safe='')}")
    print_line(f"{name} removed", answer, as_json=as_json)


ATTEST = "Example: tunery attest http://127.0.0.1:8000 --proof adapter/proof.json"


def attest(
    url: Annotated[str, typer.Argument(help="Address of a server that answers as OpenAI's API.")],
    proof: Annotated[
        str,
        typer.Option(
            help="The proof.json of a training's result, or the name of a tuned model of the "
            "service.",
            metavar="FILE|MODEL",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The model's name at that server, if it has several.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's API key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that a server answers with the weights that were trained. Exits with 0 if it does, 3 if
    it answers as the base model, 4 as another, 5 if that cannot be told.
    """
    from tunery.cli.attest import run

    run(url, proof, model=model, key_env=key_env, as_json=as_json)
