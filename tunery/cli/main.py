"""The `tunery` command. All but `up`, `demo`, `validate` and, of
a local file, `estimate` talk to a running service through its
public API; `tunery.cli.access` says which.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from tunery.errors import InvalidRequest

app = typer.Typer(
    help="Tunery: self-hosted fine-tuning jobs behind the OpenAI fine-tuning API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(help="Base models that jobs start from.", no_args_is_help=True)
app.add_typer(models, name="models")
imports = typer.Typer(help="Jobs of other services.", no_args_is_help=True)
app.add_typer(imports, name="import")
keys = typer.Typer(help="API keys, for operators.", no_args_is_help=True)
app.add_typer(keys, name="keys")

DataDir = Annotated[Path, typer.Option(help="Where the service keeps everything.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The API's port on 127.0.0.1.")]
Project = Annotated[str, typer.Option(help="The project's name.")]


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tunery {version('tunery')}")
        raise typer.Exit


@app.callback()
def tunery(
    _: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def up(data_dir: DataDir = Path("data"), port: Port = 8321) -> None:
    """Run the whole service here, until Ctrl-C."""
    from tunery.cli.up import run

    run(data_dir, port)


@app.command()
def demo(data_dir: DataDir = Path(".demo"), port: Port = 8322) -> None:
    """Run the service, fine-tune the demo model on a shipped data set, and show the difference."""
    from tunery.cli.demo import run

    run(data_dir, port)


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="The service's address.")] = "http://127.0.0.1:8321",
) -> None:
    """Name the service that the other commands talk to. The API key is asked for, or piped in."""
    from tunery.cli.login import run

    run(url)


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(help="One job, followed to its end.")] = None,
) -> None:
    """List the jobs, or follow one."""
    from tunery.cli.status import run

    run(job)


@app.command()
def logs(
    job: Annotated[str, typer.Argument()],
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which of its attempts; the newest by default.")
    ] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many lines of the end.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on until the attempt is over.")] = False,
) -> None:
    """Show the engine's log of a job."""
    from tunery.cli.logs import run

    run(job, attempt=attempt, tail=tail, follow=follow)


@app.command()
def export(
    job: Annotated[str, typer.Argument(help="A job of yours.")],
    format_: Annotated[
        Literal["peft", "merged", "gguf", "ollama"],
        typer.Option("--format", help="What its model is to be."),
    ],
    checkpoint: Annotated[
        int | None, typer.Option(help="Of the checkpoint of that step; else of the finished model.")
    ] = None,
    onto: Annotated[
        Literal["trained", "original"] | None,
        typer.Option(help="Merged onto the base as it was trained on, or the original one."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the weights.")] = None,
    into: Annotated[
        Path | None, typer.Option(help="The folder for its files; by default the export's id.")
    ] = None,
) -> None:
    """Export a job's model, wait for it, and fetch its files."""
    from tunery.cli.export import run

    asked = {"format": format_, "checkpoint": checkpoint, "onto": onto, "dtype": dtype}
    run(job, {name: value for name, value in asked.items() if value is not None}, into)


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    model: Annotated[
        Path | None,
        typer.Option(help="A base model's folder: count tokens and show how rows are masked."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="With --model: cut rows at so many tokens.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole report as JSON.")
    ] = False,
) -> None:
    """Check a data set offline, every line of it."""
    from tunery.cli.validate import run

    if max_length and not model:
        raise typer.BadParameter("--max-length needs --model.")
    raise typer.Exit(run(file, model, max_length, as_json))


@app.command()
def estimate(
    file: Annotated[str, typer.Argument(help="A local data set, or the id of an uploaded one.")],
    model: Annotated[
        str | None, typer.Option(help="For an uploaded file: the base model's name.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="For a local file: the base's folder."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="For a local file: plan for a GPU of so many GiB.")
    ] = None,
    r: Annotated[int | None, typer.Option(min=1, max=256, help="The adapter's rank.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Cut rows at so many tokens.")
    ] = None,
    quantization: Annotated[Literal["auto", "nf4", "fp4", "int8", "none"], typer.Option()] = "auto",
) -> None:
    """Show what a job would be: its settings, its memory, its time. Nothing is created or sent."""
    from tunery.cli.estimate import of_local, of_service

    if Path(file).is_file():
        if folder is None or model is not None:
            raise typer.BadParameter(f"{file} is a local file: give --folder, and no --model.")
        of_local(
            Path(file),
            folder=folder,
            memory_gib=memory,
            r=r,
            max_length=max_length,
            quantization=quantization,
        )
    else:
        if model is None or folder is not None or memory is not None:
            raise typer.BadParameter(
                f"{file} is no local file. For the id of an uploaded one give --model alone."
            )
        of_service(file, model=model, r=r, max_length=max_length, quantization=quantization)


@app.command()
def create(
    axolotl: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Its YAML config.")],
    model: Annotated[
        str | None, typer.Option(help="The base's name here; by default the config's.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="The data; by default the config's.")
    ] = None,
    validation: Annotated[Path | None, typer.Option()] = None,
    follow: Annotated[bool, typer.Option(help="Stay until it ends.")] = True,
) -> None:
    """Create a job from an Axolotl config; what cannot be carried over is refused by name."""
    from tunery.cli import axolotl as axolotls
    from tunery.cli.create import create

    try:
        config, folder = axolotls.read(axolotl), axolotl.parent
    except InvalidRequest as error:
        sys.exit(f"tunery: {error}")
    wanted = axolotls.wanted_of(config, folder=folder, training=training, validation=validation)
    wanted.body["model"] = model or wanted.body["model"]
    create(wanted, stay=follow)


@imports.command("openai-job")
def import_openai_job(
    job: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Its JSON.")],
    model: Annotated[str, typer.Option(help="The base to train here.")],
    training: Annotated[Path, typer.Option(exists=True, dir_okay=False)],
    validation: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
    follow: Annotated[bool, typer.Option(help="Stay until it ends.")] = True,
) -> None:
    """Replay a job of OpenAI's on an open base, and say what could not carry over."""
    from tunery.cli import openai_job
    from tunery.cli.create import create

    try:
        found = openai_job.read(job)
    except InvalidRequest as error:
        sys.exit(f"tunery: {error}")
    wanted = openai_job.wanted_of(found, model=model, training=training, validation=validation)
    create(wanted, stay=follow)


@app.command()
def rerun(
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Its data, if the service has it no more."),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="For the new model's name; the manifest does not tell it.")
    ] = None,
) -> None:
    """Train once more what an adapter's manifest.json tells of, and compare the weights."""
    from tunery.cli.rerun import run

    run(manifest, data or [], suffix)


@models.command("add")
def add_model(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    name: Annotated[str, typer.Option(help="What jobs call it, such as meta-llama/Llama-3.1-8B.")],
    revision: Annotated[
        str | None, typer.Option(help="Its commit. By default a hash over its files.")
    ] = None,
    licence: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Register a base model's folder, which every worker must be able to read at that path.

    Needs a key with the scope admin in TUNERY_ADMIN_KEY; after `tunery up` on this machine it is
    found.
    """
    from tunery.cli.models import add

    add(folder, name=name, revision=revision, licence=licence)


@models.command("list")
def list_models() -> None:
    """List base and tuned models."""
    from tunery.cli.models import show

    show()


@keys.command("create")
def create_key(
    project: Project = "default",
    scopes: Annotated[
        str, typer.Option(help="Some of read, write, admin, worker, with commas between.")
    ] = "read,write",
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="After which it ends.")] = None,
) -> None:
    """Print a new API key, shown this once. Needs TUNERY_ADMIN_KEY, as `models add` does."""
    from tunery.cli.keys import create

    create(project, scopes.split(","), name, expires_days)


@keys.command("list")
def list_keys(project: Project = "default") -> None:
    """List a project's keys, without their secrets."""
    from tunery.cli.keys import show

    show(project)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Its id.")], project: Project = "default"
) -> None:
    """End a key."""
    from tunery.cli.keys import revoke

    revoke(key, project)
