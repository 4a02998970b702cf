"""What a user sees of a real model: `make real`.

    python -m benchmarks.real [--data FILE] [--models FOLDER] [--only NAME]

Through the running service: a QLoRA job on questions and answers, the loss on held-out rows before
and after, and what base and tuned model answer. Then the same rows beside plain torch and TRL, and
what 4 bits cost the model. FILE is JSONL of chats; without it the 65 questions of
examples/medical-qa.csv are taken.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import OpenAI

from benchmarks.arms import ROOT
from benchmarks.latency import service
from benchmarks.real.bits import print_bits
from benchmarks.real.models import GEMMA_3, SMOLLM2, Packaged, folder_of
from benchmarks.train import Bench, Size, compare, print_machine
from benchmarks.workloads import Workload, chat, first_lines, write_lines
from tunery.base_model import describe
from tunery.cli.env_files import read_env
from tunery.cli.register import register
from tunery.data.named_templates import template_of

ROWS_BESIDE_TRL = 48
ANSWERS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="JSONL of chats")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "real")
    names = {model.name: model for model in (SMOLLM2, GEMMA_3)}
    parser.add_argument("--only", choices=names)
    asked = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lines = medical_questions() if asked.data is None else first_lines(asked.data, 200)
        file = write_lines(folder / "rows.jsonl", lines)
        for model in [names[asked.only]] if asked.only else names.values():
            base = folder_of(model, asked.models)
            through_the_service(model, base, file, folder / f"service-{model.name}")
            beside_trl(model, base, file, folder)
            print_bits(model.name, base, question_texts())


def medical_questions() -> Iterator[str]:
    return (chat(question, answer) for question, answer in pairs())


def question_texts() -> list[str]:
    return [f"{question}\n\n{answer}" for question, answer in pairs()]


def pairs() -> Iterator[tuple[str, str]]:
    with (ROOT / "examples" / "medical-qa.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["question"], row["answer"]


def through_the_service(model: Packaged, base: Path, file: Path, data_dir: Path) -> None:
    training: dict[str, Any] = {
        "quantization": "nf4",
        "validation_split": 0.2,
        "samples": ANSWERS,
        "max_length": 512,
    }
    if model.chat_template:
        training["chat_template"] = model.chat_template
    with service(data_dir):
        env = read_env(data_dir / "client.env")
        admin = read_env(data_dir / "server.env")["TUNERY_ADMIN_KEY"]
        with OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=admin) as client:
            register(client, describe(base, id_=model.name))
        client = OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])
        uploaded = client.files.create(file=(file.name, file.read_bytes()), purpose="fine-tune")
        began = time.monotonic()
        job = client.fine_tuning.jobs.create(
            model=model.name,
            training_file=uploaded.id,
            hyperparameters={"n_epochs": 3, "batch_size": 8},
            extra_body={"training": training},
        )
        while job.status != "succeeded":
            if job.status == "failed":
                raise RuntimeError(job.error)
            time.sleep(1)
            job = client.fine_tuning.jobs.retrieve(job.id)
        seconds = time.monotonic() - began
        (kept, *_) = client.fine_tuning.jobs.checkpoints.list(job.id)
        where = f"/fine_tuning/jobs/{job.id}"
        told: Any = client.get(f"{where}/events?limit=100", cast_to=object)
        said: Any = client.get(f"{where}/samples", cast_to=object)
    print(f"\n### {model.name}: three epochs of {file.name} through the service\n")
    print("| validation loss of the base | after | seconds, all in all | trained tokens |")
    print("|---|---|---|---|")
    facts = (event["tunery"] or {} for event in told["data"])
    before = next(each["base_valid_loss"] for each in facts if "base_valid_loss" in each)
    losses = f"{before:.3f} | {kept.metrics.full_valid_loss:.3f}"
    print(f"| {losses} | {seconds:.0f} | {job.trained_tokens} |\n")
    for answer in said["data"][0]["answers"]:
        for name in ("prompt", "expected", "base", "tuned"):
            print(f"- {name}: {json.dumps(answer[name], ensure_ascii=False)}")
        print()


def beside_trl(model: Packaged, base: Path, file: Path, folder: Path) -> None:
    few = write_lines(folder / f"few-{model.name}.jsonl", first_lines(file, ROWS_BESIDE_TRL))
    template = model.chat_template and template_of(model.chat_template, param="chat_template")
    workload = Workload(model.name, base, few, 8, packs=2, chat_template=template)
    compare(Bench(folder, Size(warm_up=1, repeats=1), None), workload, aims=(0.85, 1.3, 1.0))


if __name__ == "__main__":
    main()
