"""bitsandbytes' quantized layers. It is imported here first, and without its compiler."""

from typing import Any
from unittest.mock import patch

import torch

__all__ = ["Linear4bit", "dequantize_4bit"]


def uncompiled(function: Any = None, **_: object) -> Any:  # noqa: ANN401 (any function)
    """`torch.compile` that leaves a function as it is."""
    return uncompiled if function is None else function


with patch.object(torch, "compile", uncompiled):
    # It compiles fallbacks that nothing here calls, and loads the compiler for them.
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit
