"""`tunery demo`: from a data set to a tuned model in a minute, on any machine.

Everything goes through the unmodified `openai` SDK, as a user's own script would.
"""

import hashlib
import json
import sys
from pathlib import Path

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.markup import escape

from tunery.cli.service import DEMO_MODEL, ROOT, Running, ServiceFault, running
from tunery.cli.supervisor import ServiceError
from tunery.cli.watch import watch

TRAIN = ROOT / "examples" / "pirate.train.jsonl"
VALID = ROOT / "examples" / "pirate.valid.jsonl"
N_EPOCHS, BATCH_SIZE, LEARNING_RATE_MULTIPLIER, SEED = 3, 8, 6, 0
PROMPTS, MOST_TOKENS = 3, 60


def run(data_dir: Path, port: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    try:
        with running(data_dir, port, console.print) as service:
            console.print(f"\nWatch it in a browser: {service.console_link()}")
            show(service, data_dir, console)
    except (ServiceFault, ServiceError) as error:
        sys.exit(f"tunery: {error}")


def show(service: Running, data_dir: Path, console: Console) -> None:
    job = train(service, console)
    adapter = download(service, job, data_dir / "adapter", console)
    show_difference(service.client(), job, console)
    say_how_to_go_on(data_dir, adapter, console)


def train(service: Running, console: Console) -> FineTuningJob:
    """The demo's job: the one of an earlier run if the data are still the same."""
    client = service.client()
    mark = {"demo": hashlib.sha256(TRAIN.read_bytes()).hexdigest()[:16]}
    for job in client.fine_tuning.jobs.list(metadata=mark, limit=10).data:
        if job.status == "succeeded" and job.model == DEMO_MODEL:
            console.print(f"\nJob {job.id} of an earlier run has this adapter already.")
            return job
    console.print(f"\nUploading {TRAIN.name} and {VALID.name}")
    files = [upload(client, path, console) for path in (TRAIN, VALID)]
    job = client.fine_tuning.jobs.create(
        model=DEMO_MODEL,
        training_file=files[0],
        validation_file=files[1],
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": N_EPOCHS,
                    "batch_size": BATCH_SIZE,
                    "learning_rate_multiplier": LEARNING_RATE_MULTIPLIER,
                }
            },
        },
        suffix="pirate",
        seed=SEED,
        extra_body={"training": {"quantization": "nf4"}},  # QLoRA, though so small a base fits
        metadata=mark,
    )
    console.print(f"Created job {job.id}")
    job = watch(client, job.id, console, service.supervisor.tend)
    if job.error or job.status != "succeeded":
        raise ServiceFault(f"Job {job.id} {job.status}: {job.error and job.error.message}")
    console.print(f"[bold]{job.fine_tuned_model}[/bold], {job.trained_tokens:,} trained tokens")
    base, tuned = validation_losses(client, job.id)
    console.print(f"Validation loss: {base:.3f} before, {tuned:.3f} after")
    return job


def validation_losses(client: OpenAI, job_id: str) -> tuple[float, float]:
    """(the base model's, the finished adapter's), from the job's events."""
    found: dict[str, float] = {}
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
        data = event.data if isinstance(event.data, dict) else (event.model_extra or {})["tunery"]
        for name in ("valid_loss", "base_valid_loss"):
            if name in (data or {}):
                found.setdefault(name, float(data[name]))
    return found["base_valid_loss"], found["valid_loss"]


def upload(client: OpenAI, path: Path, console: Console) -> str:
    file = client.files.create(file=path, purpose="fine-tune")
    console.print(f"  {file.id}  {path.name}  {file.bytes:,} bytes  {file.status}")
    if file.status == "error":
        raise ServiceFault(f"{path}: {file.status_details}")
    return file.id


def download(service: Running, job: FineTuningJob, to: Path, console: Console) -> Path:
    """The adapter folder, each file checked against its sha256; files that are there stay."""
    client = service.client()
    listed = client.get(f"/fine_tuning/jobs/{job.id}/artifacts", cast_to=dict[str, object])
    folder = to / job.id
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in listed["data"]:  # type: ignore[attr-defined]
        path = folder / artifact["name"]
        if not path.exists():
            content = client.get(
                f"/fine_tuning/jobs/{job.id}/artifacts/{artifact['name']}", cast_to=bytes
            )
            path.write_bytes(content)
        if hashlib.sha256(path.read_bytes()).hexdigest() != artifact["sha256"]:
            raise ServiceFault(f"{path} is not what was published; delete it and run again.")
    console.print(f"\nThe adapter is in {folder}")
    return folder


def show_difference(client: OpenAI, job: FineTuningJob, console: Console) -> None:
    """Base and tuned model, asked through the API what neither was trained on."""
    console.print(
        "\nclient.chat.completions.create(model=..., messages=[...]) asks base and tuned model:"
    )
    rows = [json.loads(line) for line in VALID.read_text().splitlines()[:PROMPTS]]
    for row in rows:
        question = row["messages"][0]["content"]
        console.print(f"\n  {escape(question)}")
        console.print(f"    base   {escape(ask(client, job.model, question))}")
        tuned = ask(client, job.fine_tuned_model or "", question)
        console.print(f"    tuned  [bold green]{escape(tuned)}[/bold green]")


def ask(client: OpenAI, model: str, question: str) -> str:
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_completion_tokens=MOST_TOKENS,
    )
    return (completion.choices[0].message.content or "").strip()


def say_how_to_go_on(data_dir: Path, adapter: Path, console: Console) -> None:
    console.print(
        f"""
Go on:
  tunery up --data-dir {data_dir}        the same service, until Ctrl-C; it knows this job, and
                                         prints a link to its page in the browser
  set -a; . {data_dir}/client.env; set +a   base URL and key, for any OpenAI SDK and for:
  tunery status
  tunery validate FILE.jsonl             check your own data, line by line
  tunery train FILE.jsonl --model Qwen/Qwen3-0.6B   a model of the hub, or add one of your own with
                                         tunery models add FOLDER --name NAME
  cat {adapter}/README.md"""
    )
