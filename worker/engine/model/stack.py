"""Matrices of all experts of a layer, quantized as bitsandbytes quantizes a layer's, each for
itself.
"""

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from worker.engine.device import sent
from worker.engine.model.uncompiled import (
    QuantState,
    create_dynamic_map,
    dequantize_4bit,
    int8_vectorwise_quant,
    quantize_4bit,
)

# Of values with a scale of their own, and of scales with one; bitsandbytes' own.
BLOCK, SCALES_BLOCK = 64, 256
# What codes of scales stand for, fp32.
LEVELS = create_dynamic_map()
# The largest code of int8, which stands for the scale itself.
MOST_CODE = 127
# A kernel counts the values that it writes in 32 bits.
MOST_VALUES = 1 << 30


class Stack(nn.Module):
    """The matrices of all experts for one product, quantized. `shape` is (experts, ., .), `dtype`
    what they are dequantized to.

    In 4 bits `codes` has two values in a byte, and `scales` are fp32, or with double quantization
    codes themselves, with `steps` and an offset for each expert. In int8 each row has a scale.
    """

    codes: Tensor
    scales: Tensor
    steps: Tensor
    offsets: Tensor

    def __init__(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        config: BitsAndBytesConfig,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.shape: torch.Size = shape
        self.dtype: torch.dtype = dtype
        self.int8: bool = bool(config.load_in_8bit)
        self.quant_type: str = config.bnb_4bit_quant_type
        self.nested: bool = bool(config.bnb_4bit_use_double_quant) and not self.int8
        experts, rows, columns = shape
        blocks = rows * columns // BLOCK

        def room(*sizes: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(experts, *sizes, dtype=dtype, device=device)

        if self.int8:
            self.register_buffer("codes", room(rows, columns, dtype=torch.int8))
            self.register_buffer("scales", room(rows, dtype=torch.float32))
            return
        self.register_buffer("codes", room(rows * columns // 2, dtype=torch.uint8))
        of_scales = torch.uint8 if self.nested else torch.float32
        self.register_buffer("scales", room(blocks, dtype=of_scales))
        if self.nested:
            steps = -(-blocks // SCALES_BLOCK)
            self.register_buffer("steps", room(steps, dtype=torch.float32))
            self.register_buffer("offsets", room(1, dtype=torch.float32))

    @classmethod
    def of(cls, dense: Tensor, config: BitsAndBytesConfig) -> "Stack":
        """Quantizes (experts, ., .) one expert at a time."""
        stack = cls(dense.shape, dense.dtype, config, dense.device)
        for expert, matrix in enumerate(dense):
            stack.write(expert, matrix.contiguous())
        return stack

    def write(self, expert: int, matrix: Tensor) -> None:
        if self.int8:
            # As bitsandbytes does a layer's.
            codes, scales, _ = int8_vectorwise_quant(matrix.to(torch.float16))
            self.codes[expert], self.scales[expert] = codes, scales
            return
        codes, state = quantize_4bit(
            matrix, compress_statistics=self.nested, quant_type=self.quant_type
        )
        self.codes[expert], self.scales[expert] = codes.view(-1), state.absmax
        if self.nested:
            self.steps[expert], self.offsets[expert] = state.state2.absmax, state.offset

    def dense(self) -> Tensor:
        """`shape` in `dtype`; in 4 bits the bits that bitsandbytes gives for each expert alone."""
        if self.int8:
            return of_int8(self.codes, self.scales, self.dtype)
        dense = torch.empty(self.shape, dtype=self.dtype, device=self.codes.device)
        scales = self.plain_scales()
        at_once = max(1, MOST_VALUES // dense[0].numel())
        for start in range(0, len(dense), at_once):
            some = slice(start, start + at_once)
            dense[some] = of_four_bits(
                self.codes[some], scales[some], dense[some].shape, self.dtype, self.quant_type
            )
        return dense

    def plain_scales(self) -> Tensor:
        """(experts, blocks) fp32."""
        if not self.nested:
            return self.scales
        steps = self.steps.repeat_interleave(SCALES_BLOCK, dim=1)[:, : self.scales.shape[1]]
        levels = sent(LEVELS, self.scales.device)
        scales: Tensor = levels[self.scales.int()] * steps + self.offsets
        return scales


def of_four_bits(
    codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype, quant_type: str
) -> Tensor:
    """The values in codes (a byte for two) with fp32 scales, one for each `BLOCK`.

    bitsandbytes is told of one row: on CPUs it takes each row for a whole number of blocks, and
    gives wrong values where it is not.
    """
    state = QuantState(
        absmax=scales.reshape(-1),
        shape=torch.Size((1, shape.numel())),
        dtype=dtype,
        blocksize=BLOCK,
        quant_type=quant_type,
    )
    values: Tensor = dequantize_4bit(codes.reshape(-1, 1), state)
    return values.view(shape)


def of_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in codes (..., rows, columns) with fp32 scales, one for each row; without a copy
    in fp32. bitsandbytes multiplies twice: its values are one rounding in fp32 apart.
    """
    dense, steps = torch.empty_like(codes, dtype=dtype), (scales / MOST_CODE)[..., None]
    if codes.is_cuda:  # in one kernel
        return torch.mul(codes, steps, out=dense)
    return dense.copy_(codes).mul_(steps)  # else PyTorch would make one of the codes
