"""The `tunery` command. All but `up`, `demo` and `validate` talk to a running service through its
public API, at `OPENAI_BASE_URL` with `OPENAI_API_KEY` (as in the `client.env` that `up` writes).
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Tunery: self-hosted fine-tuning jobs behind the OpenAI fine-tuning API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="Base models that jobs start from.", no_args_is_help=True)
app.add_typer(models, name="models")

DataDir = Annotated[Path, typer.Option(help="Where the service keeps everything.")]
Port = Annotated[int, typer.Option(help="The API's port on 127.0.0.1.")]


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
def status(
    job: Annotated[str | None, typer.Argument(help="One job, followed to its end.")] = None,
) -> None:
    """List the jobs, or follow one."""
    from tunery.cli.status import run

    run(job)


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    model: Annotated[
        Path | None,
        typer.Option(help="A base model's folder: count tokens and show how rows are masked."),
    ] = None,
) -> None:
    """Check a data set offline, every line of it."""
    from tunery.cli.validate import run

    raise typer.Exit(run(file, model))


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

    Needs a key with the scope admin in OPENAI_API_KEY.
    """
    from tunery.cli.models import add

    add(folder, name=name, revision=revision, licence=licence)


@models.command("list")
def list_models() -> None:
    """List base and tuned models."""
    from tunery.cli.models import show

    show()
