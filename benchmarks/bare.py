"""Forward and backward of plain transformers and PEFT, and nothing else: what a training costs at
least.

    python -m benchmarks.bare TRAINING [--padded]

A step's rows are packed into one, position ids from 0 in each and no mask; or sorted by length and
padded into one batch. Logits of every position, then torch's own cross-entropy.
"""

import argparse
import json
import sys
import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

warnings.simplefilter("ignore")

Rows = list[dict[str, list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training")
    parser.add_argument("--padded", action="store_true")
    asked = parser.parse_args()
    with open(asked.training) as file:  # noqa: PTH123
        training = json.load(file)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **training["lora"])
    model = get_peft_model(load_base(training["base"]), lora)
    model.train()
    for number, rows in enumerate(training["steps"], start=1):
        inputs, labels = padded(rows) if asked.padded else packed(rows)
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        torch.autograd.backward(loss)
        model.zero_grad()
        say_step(number, loss.item())
    say_saved()


def load_base(folder: str) -> PreTrainedModel:
    base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
        dtype=torch.float32,
        device_map="cpu",
        attn_implementation="sdpa",
    )
    return base


def packed(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    """(model inputs, labels), (1, tokens); no row predicts the first token of the next."""
    ids = torch.tensor([token for row in rows for token in row["input_ids"]])[None]
    positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
    labels = torch.tensor([label for row in rows for label in [-100, *row["labels"][1:]]])[None]
    return {"input_ids": ids, "position_ids": positions}, labels


def padded(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    """(model inputs, labels), (rows, longest)."""
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    longest = len(rows[-1]["input_ids"])

    def filled(name: str, filler: int) -> Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    ids = filled("input_ids", 0)
    mask = torch.tensor([[at < len(row["input_ids"]) for at in range(longest)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask.long()}, filled("labels", -100)


def say_step(step: int, loss: Any) -> None:  # noqa: ANN401
    print("step", step, float(loss), flush=True)


def say_saved() -> None:
    """Stays until it has been looked at."""
    print("saved", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
