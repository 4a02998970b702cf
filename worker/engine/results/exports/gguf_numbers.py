"""The number formats of a quantized GGUF file: which each weight gets, and the weights in it.

Which gets which is as `llama-quantize` has it, the numbers are llama.cpp's own.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from torch import Tensor

from tunery.exports import GgufQuantization
from worker.engine.errors import Untrainable

Type = GGMLQuantizationType
USUAL = {
    "f16": Type.F16,
    "q8_0": Type.Q8_0,
    "q6_k": Type.Q6_K,
    "q5_k_m": Type.Q5_K,
    "q4_k_m": Type.Q4_K,
    "q4_0": Type.Q4_0,
}
FILE_TYPES = {name: LlamaFileType[f"MOSTLY_{name.upper()}"] for name in USUAL}
# For rows that are no multiple of 256.
NARROW = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
# Rows of this many numbers in all are quantized at a time.
CHUNK = 1 << 22


def type_of(
    quantization: GgufQuantization,
    name: str,
    shape: torch.Size | list[int],
    *,
    layers: int,
    is_head: bool,
) -> Type:
    """Of a tensor by llama.cpp's name. `is_head`: it makes the logits."""
    if len(shape) < 2:
        return Type.F32
    wanted = USUAL[quantization]
    if quantization not in {"f16", "q8_0"} and is_head:
        wanted = Type.Q6_K
    elif quantization.endswith("_m"):
        kind = name.split(".")[-2]
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        if kind == "attn_qkv":
            wanted = {Type.Q4_K: Type.Q5_K, Type.Q5_K: Type.Q6_K}[wanted]
        elif kind in {"attn_v", "ffn_down"} and has_more_bits(layer, layers):
            wanted = Type.Q6_K
    narrower = (wanted, NARROW.get(wanted, Type.F16), Type.F16)
    return next(each for each in narrower if shape[-1] % GGML_QUANT_SIZES[each][0] == 0)


def has_more_bits(layer: int, layers: int) -> bool:
    """The first eighth of the layers, the last, and each third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def bytes_of(shape: torch.Size | list[int], kind: Type) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size


def written(weight: Tensor, kind: Type) -> np.ndarray[Any, Any]:
    """(out, in) fp32 on the CPU, in a number format; of a quantized one the bytes (out, size).

    Raises:
        Untrainable: a weight is too large for f16.

    """
    if kind == Type.F32:
        return weight.numpy()
    if kind == Type.F16:
        half = weight.half()
        if not torch.isfinite(half).all():
            raise Untrainable(
                "export_not_finite",
                f"The model has weights over {torch.finfo(torch.float16).max:g}, the largest "
                "number of f16. Export it with the quantization q8_0.",
            )
        return half.numpy()
    rows, columns = weight.shape
    block, size = GGML_QUANT_SIZES[kind]
    numbers = weight.contiguous().numpy()
    packed = np.empty((rows, columns // block * size), np.uint8)
    step = max(1, CHUNK // columns)
    quantize = quantizer()

    def chunk(first: int) -> None:
        many = min(step, rows - first)
        source, target = numbers[first:].ctypes.data, packed[first:].ctypes.data
        quantize(kind, source, target, 0, many, columns, None)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(chunk, range(0, rows, step)))
    return packed


def library() -> Any:  # noqa: ANN401 (a module without types)
    """llama.cpp, in a package of 100 MB.

    Raises:
        Untrainable: it cannot be loaded on this machine.

    """
    try:
        import xllamacpp  # noqa: PLC0415
    except ImportError as error:
        raise Untrainable(
            "export_refused",
            f"This worker cannot load llama.cpp, which writes and checks a whole model in GGUF: "
            f"{error}. Install the Python package xllamacpp there, and libgomp1.",
        ) from error
    return xllamacpp


@cache
def quantizer() -> Any:  # noqa: ANN401 (a function of C)
    """`ggml_quantize_chunk`: type, source, target, first number, rows, numbers of a row, weights of
    the columns or none.

    Raises:
        Untrainable: see `library`.

    """
    found = ctypes.CDLL(library().xllamacpp.__file__).ggml_quantize_chunk
    found.restype = ctypes.c_size_t
    found.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return found
