"""The `tunery` command. All but `up`, `worker`, `demo`, `admin`, `validate` and, of a local file,
`estimate` talk to a running service through its public API; `tunery.cli.access` says which. What a
command needs is imported when it runs, so that help comes at once.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from tunery.cli import chat, files, imports, jobs, keys, models
from tunery.cli.show import Json, print_fields, print_json
from tunery.cli.verbs import verbs
from tunery.cli.wanted_columns import WantedColumns, columns_of
from tunery.cli.wanted_evaluation import WantedEvaluation
from tunery.cli.wanted_template import WantedTemplate
from tunery.errors import InvalidRequest

app = typer.Typer(
    help="Tunery: self-hosted fine-tuning jobs behind the OpenAI fine-tuning API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(files.app, name="files")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(imports.app, name="import")

DataDir = Annotated[Path, typer.Option(help="Folder for all of the service's data.")]
GPUS = "all: a worker for each GPU; 0,2: for these; none: one on the CPU."
Port = Annotated[int, typer.Option(min=1, max=65535, help="The API's port on 127.0.0.1.")]


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


@app.command(epilog="Example: tunery up --data-dir /srv/tunery --port 8321")
def up(
    data_dir: DataDir = Path("data"),
    port: Port = 8321,
    gpus: Annotated[
        str | None, typer.Option(help=f"{GPUS} Left out: one worker on what there is.")
    ] = None,
    worker: Annotated[
        bool, typer.Option(help="Train here, too; else `tunery worker` does elsewhere.")
    ] = True,
) -> None:
    """Run the whole service here, until Ctrl-C."""
    from tunery.cli.up import run

    if gpus and not worker:
        sys.exit("tunery: --gpus says where workers run, --no-worker that none does: leave one out")
    run(data_dir, port, gpus, worker=worker)


@app.command(epilog="Example: tunery worker --gpus 0,1 --idle-exit 600")
def worker(
    gpus: Annotated[
        str,
        typer.Option(help=GPUS),
    ] = "all",
    idle_exit: Annotated[
        float | None,
        typer.Option(min=0, help="End when there has been no work for so many seconds."),
    ] = None,
    gpus_per_job: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="How many GPUs each worker has, for one job at a time; else TUNERY_GPUS_PER_JOB.",
        ),
    ] = None,
) -> None:
    """Run this machine's workers for a service elsewhere, one for each GPU, until Ctrl-C. Reads
    TUNERY_API_URL, TUNERY_WORKER_KEY, TUNERY_WORK_DIR and a worker's other settings.
    """
    from tunery.cli.worker import run

    run(gpus, gpus_per_job, idle_exit)


@app.command(epilog="Example: tunery demo")
def demo(data_dir: DataDir = Path(".demo"), port: Port = 8322) -> None:
    """Run the service, fine-tune the demo model on a shipped data set, and compare the answers."""
    from tunery.cli.demo import run

    run(data_dir, port)


@app.command(
    epilog="Example: tunery admin --data-dir /srv/tunery backup /mnt/backup",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def admin(
    arguments: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="`tunery admin -- -h` lists them.")
    ],
    data_dir: DataDir = Path("data"),
) -> None:
    """Run an operator's command on the database: of `tunery up` in this folder, or DATABASE_URL."""
    from tunery.cli.admin import run

    run(data_dir, arguments)


@app.command(epilog="Example: tunery login https://tunery.example.com")
def login(
    url: Annotated[str, typer.Argument(help="The service's address.")] = "http://127.0.0.1:8321",
    key: Annotated[
        bool, typer.Option("--key", help="Ask for an API key, also where people sign in.")
    ] = False,
    browser: Annotated[
        bool | None,
        typer.Option(help="Sign in in this machine's browser; or in any, and type its code in."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose the service that the other commands talk to. Where people sign in at a provider, that
    is done in a browser, and makes a key for this machine. Else it asks for an API key. Reads the
    key from a pipe.
    """
    from tunery.cli.login import run

    if key and browser is not None:
        sys.exit("tunery: --key and --browser are two ways to log in: leave one out")
    run(url, with_key=key, browser=browser, as_json=as_json)


@app.command(epilog="Example: tunery whoami")
def whoami(as_json: Json = False) -> None:
    """Show which service and project the commands talk to, and what the project uses."""
    with verbs() as ask:
        project = ask.whoami()
    if as_json:
        print_json(project)
        return
    of = ((name, project["usage"][name], most) for name, most in project["limits"].items())
    uses = {name.replace("_", " "): f"{used} of {most or 'any'}" for name, used, most in of}
    print_fields(
        {"service": ask.client.base_url, "project": f"{project['name']} ({project['id']})", **uses}
    )


@app.command(epilog="Example: tunery usage --since 2026-11-01 --by project --by pool --csv")
def usage(
    since: Annotated[
        str | None, typer.Option(help="First day, as 2026-11-01 (UTC); else this month's.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="The day after the last, as 2026-12-01; else until now.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="project, key, user, model or pool; may be given several times."),
    ] = None,
    mine: Annotated[bool, typer.Option(help="Only the project of one's own key.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show device hours, tokens and cost. Needs TUNERY_ADMIN_KEY, except with --mine."""
    from tunery.cli.usage import run

    run(since, until, by or [], mine=mine, as_csv=as_csv, as_json=as_json)


@app.command(epilog="Example: tunery doctor")
def doctor(
    worker: Annotated[
        bool, typer.Option("--worker", help="Check this machine as a worker instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the installation, from the database to the GPU, and say what is wrong and how to fix
    it. Exits with 1 if anything is wrong.
    """
    from tunery.cli.doctor import run

    run(worker=worker, as_json=as_json)


@app.command("open", epilog="Example: tunery open")
def open_console(
    browser: Annotated[bool, typer.Option(help="Open the system's browser, too.")] = True,
    as_json: Json = False,
) -> None:
    """Open the console in a browser, signed in by a link that is good for once."""
    from tunery.cli.console import run

    run(browser=browser, as_json=as_json)


@app.command(epilog="Example: claude mcp add tunery -- tunery mcp")
def mcp() -> None:
    """Serve these commands to an agent, as an MCP server on stdin and stdout."""
    from tunery.cli.mcp_server import serve

    serve()


@app.command(epilog="Example: tunery status ftjob-abc123")
def status(
    job: Annotated[str | None, typer.Argument(help="Id of a job to follow to its end.")] = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs, or follow one: what it waits for, its steps, its loss, its end."""
    if job is None:
        jobs.list_jobs(as_json=as_json)
    else:
        from tunery.cli.status import follow_to_end

        follow_to_end(job, as_json=as_json)


app.command(
    "chat", epilog="Example: tunery chat ft:demo:default::abc12345 --vs", cls=chat.WithBareVs
)(chat.chat)
app.command("eval", epilog=jobs.EVAL)(jobs.evaluate)
app.command(epilog=models.ATTEST)(models.attest)
app.command("logs", epilog="Example: tunery logs ftjob-abc123 --follow")(jobs.logs)


@app.command(
    epilog="Example: tunery export ftjob-abc123 --format gguf --quantization q4_k_m --into model"
)
def export(
    job: Annotated[str, typer.Argument(help="Id of the job.")],
    format_: Annotated[
        Literal["peft", "merged", "gguf", "ollama"],
        typer.Option("--format", help="Format of the export."),
    ],
    checkpoint: Annotated[
        int | None,
        typer.Option(help="Step of the checkpoint to export; by default the finished model."),
    ] = None,
    onto: Annotated[
        Literal["trained", "original"] | None,
        typer.Option(help="For merged: the base as it was trained on, or the original one."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Data type of the exported weights: bf16, fp16 or fp32.")
    ] = None,
    quantization: Annotated[
        Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"] | None,
        typer.Option(help="For gguf and ollama: the whole model so; by default the adapter alone."),
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder to download into; by default the export's id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a job's model in another format, wait for it, and download it."""
    from tunery.cli.export import run

    asked = {
        "format": format_,
        "checkpoint": checkpoint,
        "onto": onto,
        "dtype": dtype,
        "quantization": quantization,
    }
    run(
        job,
        {name: value for name, value in asked.items() if value is not None},
        into,
        as_json=as_json,
    )


@app.command(epilog="Example: tunery validate rows.jsonl --model models/demo --max-length 2048")
def validate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    model: Annotated[
        Path | None,
        typer.Option(help="A base model's folder: count tokens and show how rows are masked."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8, help="With --model: maximum length of a row in tokens; longer rows are cut."
        ),
    ] = None,
    chat_template: WantedTemplate = None,
    columns: WantedColumns = None,
    as_json: Json = False,
) -> None:
    """Check a data set offline, every line of it."""
    from tunery.cli.validate import run

    for name, given in {"--max-length": max_length, "--chat-template": chat_template}.items():
        if given and not model:
            raise typer.BadParameter(f"{name} needs --model.")
    status = run(
        file,
        model,
        max_length=max_length,
        chat_template=chat_template,
        columns=columns_of(columns),
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command(epilog="Example: tunery estimate rows.jsonl --folder models/demo --memory 24")
def estimate(
    file: Annotated[str, typer.Argument(help="A local data set, or the id of an uploaded one.")],
    model: Annotated[
        str | None, typer.Option(help="For an uploaded file: name of the base model.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="For a local file: folder of the base model."
        ),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="For a local file: memory of the GPU to plan for, in GiB.")
    ] = None,
    r: Annotated[int | None, typer.Option(min=1, max=256, help="The adapter's rank.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, help="Maximum length of a row in tokens; longer rows are cut."),
    ] = None,
    quantization: Annotated[
        Literal["auto", "nf4", "fp4", "int8", "none"],
        typer.Option(help="Quantization of the base."),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Estimate a job: its settings, memory and time. Creates no job and sends no local data."""
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
            as_json=as_json,
        )
    else:
        if model is None or folder is not None or memory is not None:
            raise typer.BadParameter(
                f"{file} is no local file. For the id of an uploaded one give --model alone."
            )
        of_service(
            file,
            model=model,
            r=r,
            max_length=max_length,
            quantization=quantization,
            as_json=as_json,
        )


@app.command(
    epilog="Example: tunery train rows.jsonl --model meta-llama/Llama-3.1-8B --set num_epochs=2 "
    "--set lora.r=16 --into adapter"
)
def train(
    data: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Training data.")],
    model: Annotated[str, typer.Option(help="Base model, or a tuned model to continue from.")],
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Validation data.")
    ] = None,
    method: Annotated[
        Literal["supervised", "dpo", "masked_lm"], typer.Option(help="Training method.")
    ] = "supervised",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting as NAME=VALUE, such as num_epochs=2, batch_size=16, lora.r=8, seed=1. "
            "Repeatable.",
        ),
    ] = None,
    columns: WantedColumns = None,
    evaluation: WantedEvaluation = None,
    into: Annotated[Path | None, typer.Option(help="Folder to download the model into.")] = None,
    follow: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Check and upload a data set, create a job, follow it and download its model.

    Ctrl-C leaves the job running.
    """
    from tunery.cli import train as training

    if into is not None and not follow:
        raise typer.BadParameter("--into needs the end of the job; leave out --no-follow.")
    training.run(
        data,
        model=model,
        validation=validation,
        method=method,
        settings=settings or [],
        columns=columns_of(columns),
        evaluation=evaluation,
        into=into,
        stay=follow,
        as_json=as_json,
    )


@app.command(epilog="Example: tunery create --axolotl config.yml --model meta-llama/Llama-3.1-8B")
def create(
    axolotl: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Axolotl's YAML config.")
    ] = None,
    llamafactory: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="LLaMA-Factory's YAML config.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the base in this service; by default the config's.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Training data, instead of the file that the config names.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Validation data.")] = None,
    evaluation: WantedEvaluation = None,
    follow: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Create a job from a config of Axolotl or LLaMA-Factory; what cannot be carried over is
    refused by name, before anything is sent.
    """
    from tunery.cli.configs import axolotl as axolotls
    from tunery.cli.configs import llamafactory as factories
    from tunery.cli.configs.settings import read
    from tunery.cli.create import create

    path = axolotl or llamafactory
    if path is None or (axolotl and llamafactory):
        raise typer.BadParameter("give one of --axolotl and --llamafactory.")
    try:
        config = read(path)
    except InvalidRequest as error:
        sys.exit(f"tunery: {error}")
    wanted_of = axolotls.wanted_of if axolotl else factories.wanted_of
    wanted = wanted_of(config, folder=path.parent, training=training, validation=validation)
    wanted.body["model"] = model or wanted.body["model"]
    create(wanted, stay=follow, as_json=as_json, evaluation=evaluation)


@app.command(epilog="Example: tunery rerun manifest.json --data rows.jsonl")
def rerun(
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="Data to upload if the service no longer has it."
        ),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="Suffix of the new model's name, which the manifest does not have."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Repeat the training that an adapter's manifest.json describes, and compare the weights."""
    from tunery.cli.rerun import run

    run(manifest, data or [], suffix, as_json=as_json)
