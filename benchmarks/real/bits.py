"""What 4 bits cost a real model, and which of its layers cost most: `make real`.

All linear layers but the head are rounded to NF4, as QLoRA quantizes them. Then one kind of layer
is given back its 16 bits, or one block, and what is left of the difference is measured: the
divergence of the next token's distribution from that of the whole model, on questions and answers.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, PreTrainedModel

from worker.engine.model.quantized import config_of, round_to

ROWS = 16
NF4 = config_of("nf4", double_quant=False)


@torch.no_grad()
def print_bits(name: str, base: Path, texts: Sequence[str]) -> None:
    whole: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    rows = [torch.tensor([tokenizer.encode(text).ids]) for text in texts[:ROWS]]
    wanted = [whole(row).logits[0] for row in rows]
    rounded = copy.deepcopy(whole)
    round_to(rounded, NF4)
    layers = {
        layer: module.weight
        for layer, module in rounded.named_modules()
        if isinstance(module, nn.Linear)
        and not torch.equal(module.weight, whole.get_parameter(f"{layer}.weight"))
    }
    in_four_bits = {layer: weight.clone() for layer, weight in layers.items()}
    print(f"\n{name}: what NF4 costs on {sum(map(torch.numel, rows)):,} tokens\n")
    print("| in 16 bits | share of the weights | divergence (nats a token) | loss |")
    print("|---|--:|--:|--:|")
    print(f"| all | 100 % | 0 | {loss(wanted, rows):.4f} |")
    total = sum(weight.numel() for weight in layers.values())
    for kept, names in ways(list(layers)):
        for layer in names:
            layers[layer].copy_(whole.get_parameter(f"{layer}.weight"))
        found = [rounded(row).logits[0] for row in rows]
        share = sum(layers[layer].numel() for layer in names) / total
        off = sum(divergence(*pair) for pair in zip(found, wanted, strict=True))
        off /= sum(map(torch.numel, rows))
        print(f"| {kept} | {share:.0%} | {off:.4f} | {loss(found, rows):.4f} |", flush=True)
        for layer in names:
            layers[layer].copy_(in_four_bits[layer])


def ways(layers: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What is kept in 16 bits, by a name for it."""
    yield "none: as QLoRA trains it", []
    for kind in dict.fromkeys(layer.rsplit(".", 1)[-1] for layer in layers):
        yield f"`{kind}`", [layer for layer in layers if layer.endswith(f".{kind}")]
    blocks = list(dict.fromkeys(layer.split(".layers.")[1].split(".")[0] for layer in layers))
    for block in (blocks[0], blocks[-1]):
        yield f"block {block}", [layer for layer in layers if f".layers.{block}." in layer]


def divergence(found: Tensor, wanted: Tensor) -> float:
    """Kullback and Leibler's, summed over the tokens."""
    return kl_div(
        found.log_softmax(-1), wanted.log_softmax(-1), reduction="sum", log_target=True
    ).item()


def loss(logits: Sequence[Tensor], rows: Sequence[Tensor]) -> float:
    sums = [
        cross_entropy(each[:-1], row[0, 1:], reduction="sum").item()
        for each, row in zip(logits, rows, strict=True)
    ]
    return sum(sums) / sum(row.shape[1] - 1 for row in rows)
