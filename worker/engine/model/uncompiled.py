"""What is used of bitsandbytes, which is imported here first, and without its compiler."""

from typing import Any
from unittest.mock import patch

import torch

__all__ = [
    "AdEMAMix",
    "AdamW",
    "Linear4bit",
    "Linear8bitLt",
    "Lion",
    "Params4bit",
    "QuantState",
    "create_dynamic_map",
    "dequantize_4bit",
    "int8_vectorwise_quant",
    "quantize_4bit",
]


def uncompiled(function: Any = None, **_: object) -> Any:  # noqa: ANN401 (any function)
    """`torch.compile` that leaves a function as it is."""
    return uncompiled if function is None else function


with patch.object(torch, "compile", uncompiled):
    # It compiles fallbacks that nothing here calls, and loads the compiler for them.
    from bitsandbytes.functional import (
        QuantState,
        create_dynamic_map,
        dequantize_4bit,
        int8_vectorwise_quant,
        quantize_4bit,
    )
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt, Params4bit
    from bitsandbytes.optim.adamw import AdamW
    from bitsandbytes.optim.ademamix import AdEMAMix
    from bitsandbytes.optim.lion import Lion
