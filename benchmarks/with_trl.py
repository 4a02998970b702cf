"""TRL's SFTTrainer on the same rows and steps.

    python -m benchmarks.with_trl TRAINING [--packs N]

By default as TRL comes: rows padded as they fall, gradient checkpointing. With --packs: TRL's
packing (best-fit decreasing within a step, so that each step keeps its rows) into N rows, and no
checkpointing. Adapters and compute are fp32 in both, as in the engine: TRL's bf16 is for GPUs.
"""

import argparse
import json
import tempfile
import warnings
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from benchmarks.bare import Rows, load_base, packs, say_saved, say_step

warnings.simplefilter("ignore")
logging.set_verbosity_error()


class SayStep(TrainerCallback):
    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            say_step(state.global_step, logs["loss"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training")
    parser.add_argument("--packs", type=int)
    asked = parser.parse_args()
    with open(asked.training) as file:  # noqa: PTH123
        training = json.load(file)
    if asked.packs:
        rows = [one_row(pack) for step in training["steps"] for pack in packs(step, asked.packs)]
        settings: dict[str, Any] = {
            "packing": True,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": asked.packs,
            "gradient_checkpointing": False,
        }
    else:
        rows = [row for step in training["steps"] for row in step]
        settings = {"per_device_train_batch_size": training["batch_size"]}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            load_base(training["base"]),
            processing_class=AutoTokenizer.from_pretrained(training["base"]),
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", target_modules="all-linear", **training["lora"]
            ),
            callbacks=[SayStep()],
            args=SFTConfig(
                folder,
                num_train_epochs=1,
                learning_rate=training["learning_rate"],
                weight_decay=training["weight_decay"],
                max_grad_norm=training["max_grad_norm"],
                train_sampling_strategy="sequential",
                bf16=False,
                use_cpu=True,
                logging_steps=1,
                report_to="none",
                disable_tqdm=True,
                **settings,
            ),
        )
        start(trainer.model, training["initial"])
        trainer.train()
        trainer.save_model(training["out"])
    say_saved()


def one_row(pack: Rows) -> dict[str, list[int]]:
    """As TRL's packing leaves it."""
    return {
        "input_ids": [token for row in pack for token in row["input_ids"]],
        "labels": [label for row in pack for label in row["labels"]],
        "seq_lengths": [len(row["input_ids"]) for row in pack],
    }


def start(model: torch.nn.Module | None, initial: str) -> None:
    """The adapter in fp32, with the values that all arms start from."""
    assert model  # noqa: S101
    adapter = load_file(initial)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = adapter.pop(name.replace(".default.weight", ".weight"))


if __name__ == "__main__":
    main()
