"""How long a training takes, before any of it has run."""

import re

from tunery.plan.memory import Plan
from tunery.plan.shape import ENCODERS, Shape

# FLOP/s in bf16 without sparsity, from the makers' data sheets, by words of the device's name. The
# first that is found counts.
PEAK_FLOPS = {
    "B300": 2250e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
    "RTX A5000": 111e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# The part of it that LoRA training has reached in others' published runs, at worst and at best.
UTILIZATION = (0.2, 0.5)

# Before the first step a row and its tokens are read once, on one core.
ROW_SECONDS = 60e-6
TOKEN_SECONDS = 1e-6


# A slice of a GPU: "NVIDIA A100-SXM4-40GB MIG 3g.20gb" has 3 of its 7 parts that compute.
MIG_SLICE = re.compile(r"\bMIG (\d)g\.")
MIG_PARTS = 7


def peak_flops(device: str | None) -> float | None:
    """FLOP/s in bf16 of the device of that name; None if they are not at hand."""
    for words, peak in PEAK_FLOPS.items():
        if re.search(rf"(?<!\w){words}(?!\w)", device or ""):
            part = MIG_SLICE.search(device or "")
            return peak * int(part[1]) / MIG_PARTS if part else peak
    return None


def reading_seconds(rows: int, tokens: int) -> float:
    """For the rows of a file, and its tokens once over."""
    return ROW_SECONDS * rows + TOKEN_SECONDS * tokens


def training_seconds(
    shape: Shape,
    plan: Plan,
    *,
    device: str | None,
    tokens: int,
    row_tokens: int,
    full: bool = False,
) -> tuple[float, float] | None:
    """From, to: for so many tokens over all epochs, in rows of `row_tokens` on average. The base's
    loading is not in it. None for a device whose speed is not known.
    """
    peak = peak_flops(device)
    if peak is None:
        return None
    recomputed = plan.recomputed(shape.layers) / shape.layers
    work = tokens * flops_per_token(shape, row_tokens, recomputed=recomputed, full=full)
    worst, best = UTILIZATION
    return work / (best * peak), work / (worst * peak)


def flops_per_token(
    shape: Shape, row_tokens: int, *, recomputed: float = 0, full: bool = False
) -> int:
    """Of a forward and a backward, which passes through frozen weights and takes no gradient of
    them unless all are trained (`full`), and of the second forward of those layers whose
    activations are `recomputed`, as a share of all.
    """
    blocks, head = 2 * shape.linear_parameters, 2 * shape.head_parameters
    # Scores and their sum over values, of a token that sees half of its row; an encoder's, all.
    seen = row_tokens if shape.architecture in ENCODERS else row_tokens // 2
    attention = 4 * shape.layers * shape.heads * shape.head_dim * seen
    passes = 3 if full else 2
    return round((passes + recomputed) * blocks + passes * head + (3 + recomputed) * attention)
