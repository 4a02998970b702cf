"""A base model in 4-bit NormalFloat with double quantization: QLoRA (Dettmers et al. 2023),
section 3.
"""

from typing import Any
from unittest.mock import patch

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from worker.engine.device import compute_dtype


def uncompiled(function: Any = None, **_: object) -> Any:  # noqa: ANN401 (any decorated function)
    """`torch.compile` that leaves a function as it is."""
    return uncompiled if function is None else function


with patch.object(torch, "compile", uncompiled):
    # It compiles fallbacks that nothing here calls, and loads the compiler for them.
    from bitsandbytes.nn.modules import Linear4bit


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(),
    )


def keep_weights(model: PreTrainedModel) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks a layer at its first forward in eval mode: it
    rounds the scales to bf16 for good, and has no backward from there. Evaluation between steps
    must leave the base as it is.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
