"""`python -m benchmarks.recomputing`: what it saves to recompute activations in as few layers as
memory demands, by the planner's own arithmetic. Nothing is run.
"""

import sys

from tunery.errors import DoesNotFit
from tunery.plan.choice import choose
from tunery.plan.duration import flops_per_token
from tunery.plan.memory import Needs
from tunery.plan.shape import Shape
from tunery.spec import Lora

GIB = 2**30
# Of a step's tokens, and of its rows, which are all as long.
STEP_TOKENS, ROW_TOKENS = 16_384, 4_096


def llama(layers: int, hidden: int, inner: int, heads: int, vocab: int, kind: str) -> Shape:
    return Shape(
        architecture=kind,
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        vocab=vocab,
        tied=False,
    )


# By what a GPU of that name tells of its memory, in GiB.
BASES = {
    "Llama 3.1 8B": llama(32, 4096, 14_336, 32, 128_256, "llama"),
    "Qwen3 14B": llama(40, 5120, 17_408, 40, 151_936, "qwen3"),
    "Qwen3 32B": llama(64, 5120, 25_600, 64, 151_936, "qwen3"),
    "Llama 3.3 70B": llama(80, 8192, 28_672, 64, 128_256, "llama"),
}
DEVICES = {"24 GB": 22.0, "40 GB": 39.4, "80 GB": 79.1, "141 GB": 139.8}


def main() -> None:
    lines = ["| base | device | layers recomputed | FLOPs, against all |", "|---|---|---|---|"]
    for base, shape in BASES.items():
        for device, gib in DEVICES.items():
            try:
                plan = choose(
                    Needs(shape, "bf16", Lora()),
                    quantization="nf4",
                    longest=ROW_TOKENS,
                    step_tokens=STEP_TOKENS,
                    memory_bytes=int(gib * GIB),
                )
            except DoesNotFit:
                continue
            recomputed = plan.recomputed(shape.layers)
            if recomputed:
                now, before = (
                    flops_per_token(shape, ROW_TOKENS, recomputed=share)
                    for share in (recomputed / shape.layers, 1)
                )
                layers = f"{recomputed} of {shape.layers}"
                lines.append(f"| {base} | {device} | {layers} | {now / before:.2f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
