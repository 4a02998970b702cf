"""What TRL makes of the same rows; shares no code with the service.

    python trl_adapter.py < TRAINING

TRAINING is one JSON object: the base's folder, the adapter to start from, `epochs` (lists of rows
of `ids` and `labels`), the settings, and the folder to save to. Prints the losses, a list.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

warnings.simplefilter("ignore")
logging.set_verbosity_error()


class InOrder(Sampler[int]):
    """The rows of one epoch after the other, in the order of their list."""

    def __init__(self, rows: int) -> None:
        self.rows, self.next = rows, 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        first, self.next = self.next, self.next + self.rows
        return iter(range(first, self.next))


class Trainer(SFTTrainer):
    def __init__(self, training: dict[str, Any], **rest: Any) -> None:
        self.training = training
        super().__init__(**rest)

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:  # noqa: ARG002
        return InOrder(len(self.training["epochs"][0]))

    def create_scheduler(
        self,
        num_training_steps: int,
        optimizer: torch.optim.Optimizer | None = None,  # noqa: ARG002
    ) -> LambdaLR:
        # transformers' linear schedule gives the first step of a warm-up the rate 0.
        warmup: int = self.training["warmup_steps"]

        def share(done: int) -> float:
            if done < warmup:
                return (done + 1) / warmup
            return (num_training_steps - done) / (num_training_steps - warmup)

        assert self.optimizer
        self.lr_scheduler = LambdaLR(self.optimizer, share)
        return self.lr_scheduler


def main() -> None:
    training = json.load(sys.stdin)
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    compute = torch.bfloat16 if on_gpu else torch.float32
    base = AutoModelForCausalLM.from_pretrained(
        training["base"],
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        ),
        dtype=compute,
        device_map={"": "cuda" if on_gpu else "cpu"},
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            training,
            model=base,
            processing_class=AutoTokenizer.from_pretrained(training["base"]),
            train_dataset=Dataset.from_list([row for epoch in training["epochs"] for row in epoch]),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", target_modules="all-linear", **training["lora"]
            ),
            args=SFTConfig(
                folder,
                num_train_epochs=len(training["epochs"]),
                per_device_train_batch_size=training["batch_size"],
                learning_rate=training["learning_rate"],
                weight_decay=training["weight_decay"],
                max_grad_norm=training["max_grad_norm"],
                bf16=on_gpu,
                use_cpu=not on_gpu,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        assert trainer.model
        start(trainer.model, load_file(training["initial"]))
        trainer.train()
        trainer.save_model(training["out"])
    print(json.dumps([log["loss"] for log in trainer.state.log_history if "loss" in log]))  # noqa: T201


def start(model: nn.Module, adapter: dict[str, Tensor]) -> None:
    """TRL has cast the adapter to bf16: fp32 again, with the values to start from."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = adapter.pop(name.replace(".default.weight", ".weight"))
            parameter.data = values.to(parameter.device)
    if adapter:
        raise ValueError(f"{min(adapter)} is not in TRL's adapter")


if __name__ == "__main__":
    main()
