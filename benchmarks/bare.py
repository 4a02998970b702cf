"""Forward and backward of plain transformers and PEFT, and nothing else: what a training costs at
least.

    python -m benchmarks.bare TRAINING [--packs N]

A step's rows are sorted by length and padded into one batch; or with --packs, packed into N rows,
position ids from 0 in each and no mask. Logits of every position, then torch's own cross-entropy.
"""

import argparse
import json
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

warnings.simplefilter("ignore")

Rows = list[dict[str, list[int]]]
NOT_TRAINED = -100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training")
    parser.add_argument("--packs", type=int)
    asked = parser.parse_args()
    with open(asked.training) as file:  # noqa: PTH123
        training = json.load(file)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **training["lora"])
    model = get_peft_model(load_base(training["base"]), lora)
    model.train()
    for number, rows in enumerate(training["steps"], start=1):
        pieces = packs(rows, asked.packs) if asked.packs else [rows]
        tokens = sum(label != NOT_TRAINED for row in rows for label in row["labels"][1:])
        loss = 0.0
        for piece in pieces:
            inputs, labels = packed(piece) if asked.packs else padded(piece)
            logits = model(**inputs, use_cache=False).logits[:, :-1]
            nll = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            torch.autograd.backward(nll / tokens)
            loss += nll.item() / tokens
        model.zero_grad()
        say_step(number, loss)
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


def packs(rows: Rows, count: int) -> list[Rows]:
    """The rows in at most `count` packs: the longest first, each where the most room is left."""
    chosen: list[Rows] = [[] for _ in range(count)]
    for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
        min(chosen, key=lambda pack: sum(len(row["input_ids"]) for row in pack)).append(row)
    return [pack for pack in chosen if pack]


def packed(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    """(model inputs, labels), (1, tokens); no row predicts the first token of the next."""
    ids = torch.tensor([token for row in rows for token in row["input_ids"]])[None]
    positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
    labels = torch.tensor([label for row in rows for label in [NOT_TRAINED, *row["labels"][1:]]])[
        None
    ]
    return {"input_ids": ids, "position_ids": positions}, labels


def padded(rows: Rows) -> tuple[dict[str, Tensor], Tensor]:
    """(model inputs, labels), (rows, longest)."""
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    longest = len(rows[-1]["input_ids"])

    def filled(name: str, filler: int) -> Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    ids = filled("input_ids", 0)
    mask = torch.tensor([[at < len(row["input_ids"]) for at in range(longest)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask.long()}, filled("labels", NOT_TRAINED)


def say_step(step: int, loss: float) -> None:
    print("step", step, loss, flush=True)


def say_saved() -> None:
    """Stays until it has been looked at."""
    print("saved", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
