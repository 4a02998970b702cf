"""How long a user waits: `make bench-latency`.

Starts the whole service on a fresh folder, again on the same one, and sends small jobs to its
warm worker. Times are wall-clock seconds as a client sees them; a step's arrival is polled every
10 ms.
"""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

PORT = 18400
JOBS = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        with service(data_dir) as first_start:
            pass
        starts = []
        for _ in range(3):
            with service(data_dir) as start:
                starts.append(start)
        with service(data_dir):
            env = dict(
                line.split("=", 1) for line in (data_dir / "client.env").read_text().splitlines()
            )
            client = OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])
            rows = "\n".join(row(number) for number in range(40)).encode()
            file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id
            first_job = first_step(client, file)
            warm = [first_step(client, file) for _ in range(JOBS)]
    print("| what | runs | median s | min s | max s |")
    print("|---|---|---|---|---|")
    show("first `tunery up` on a folder to an API that answers", [first_start])
    show("next `tunery up` to an API that answers", starts)
    show("POST /jobs to the first optimizer step, engine just started", [first_job])
    show("POST /jobs to the first optimizer step, warm worker", warm)


@contextmanager
def service(data_dir: Path) -> Iterator[float]:
    """Yields the seconds until the service said that it answers."""
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "tunery.cli", "up", "--data-dir", data_dir, "--port", str(PORT)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout  # noqa: S101
    for line in child.stdout:
        if line.startswith("api "):
            took = time.monotonic() - began
        if "Ctrl-C" in line:
            break
    yield took
    child.send_signal(signal.SIGINT)
    child.wait()


def first_step(client: OpenAI, file: str) -> float:
    began = time.monotonic()
    job = client.fine_tuning.jobs.create(
        model="tunery-demo", training_file=file, hyperparameters={"n_epochs": 1}
    )
    took = 0.0
    while job.status not in {"succeeded", "failed"}:
        time.sleep(0.01)
        job = client.fine_tuning.jobs.retrieve(job.id)
        if job.trained_tokens and not took:
            took = time.monotonic() - began
    if job.status == "failed":
        raise RuntimeError(job.error)
    return took


def row(number: int) -> str:
    question = {"role": "user", "content": f"What is {number} and one?"}
    answer = {"role": "assistant", "content": f"It is {number + 1}."}
    return json.dumps({"messages": [question, answer]})


def show(what: str, seconds: list[float]) -> None:
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    print(f"| {what} | {len(seconds)} | " + " | ".join(f"{s:.2f}" for s in figures) + " |")


if __name__ == "__main__":
    main()
