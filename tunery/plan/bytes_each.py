"""Bytes of a weight, of what trains it, and of a logit."""

from tunery.spec import Optimizer

# 4 bits; a scale of 32 bits for each 64 values, or of 8 and one of 32 for each 256 scales (QLoRA,
# section 3). 8 bits; a scale for each row of some thousands.
FOUR_BIT_BYTES = 0.5 + 4 / 64
DOUBLE_QUANT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8_BYTES = 1.002
COMPUTE_BYTES = {"bf16": 2, "fp32": 4}
# A trained weight in fp32 and its gradient; beside them the optimizer's state for it. What is paged
# may leave the device, and counts as if it stayed.
TRAINED_BYTES = 8
STATE_BYTES: dict[Optimizer, int] = {
    "adamw_torch": 8,
    "adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "paged_adamw_8bit": 2,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "paged_lion_32bit": 4,
    "paged_lion_8bit": 1,
    "ademamix": 12,
    "ademamix_8bit": 3,
    "adafactor": 0,
    "sgd": 0,
}
# What NCCL has for itself on each of several GPUs. A ring and a tree of 32 channels, with 10 MiB to
# receive in and 2 MiB to send from for each (https://github.com/NVIDIA/nccl/issues/1685), take
# 0.8 GB. No GPU has measured ours.
NCCL_BYTES = 1_000_000_000

# Logits, their softmax and gradient in fp32, for positions of one chunk.
LOSS_POSITIONS = 1024
LOSS_BYTES = 12

# What the engine keeps of a data set in the machine's memory: a row's places, its part of an
# epoch's order and what a template writes around its text; a token's id, and if it is trained.
ROW_BYTES = 128
TOKEN_BYTES = 5
