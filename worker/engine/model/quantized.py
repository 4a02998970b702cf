"""A base model in bitsandbytes' formats: in 4 bits as in QLoRA (Dettmers et al. 2023, section 3),
or in int8 by row. It is quantized once on a machine; its copy on disk is read from then on.

Its layers compute on their weights dequantized to the compute dtype, and nothing else: not as
LLM.int8() does (Dettmers et al. 2022), which rounds activations to int8 too, by the largest of what
is computed together. A row's result would depend on its neighbours in a pack.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import linear
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunery.plan.memory import Precision
from worker.engine.device import compute_dtype
from worker.engine.errors import DiskFull
from worker.engine.model.uncompiled import (
    Linear4bit,
    Linear8bitLt,
    dequantize_4bit,
    int8_vectorwise_dequant,
)
from worker.engine.sealed import broken_seal, sealed

if TYPE_CHECKING:
    from worker.engine.model.base import BaseFolder

log = logging.getLogger(__name__)

QUANTIZED = (Linear4bit, Linear8bitLt)
# An 8B model's copy takes 6 GB.
KEPT_COPIES = 3
# What the bits of a copy depend on, and whether they are read as they were written.
MADE_BY = ("torch", "transformers", "bitsandbytes")


def config_of(quantization: Precision, *, double_quant: bool) -> BitsAndBytesConfig:
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype(),
    )


def load_quantized(
    folder: "BaseFolder", config: BitsAndBytesConfig, read: Callable[..., PreTrainedModel]
) -> PreTrainedModel:
    """The base in `folder`, from its copy if there is one. `read` loads a folder.

    A copy that cannot be written only costs the next engine time. Raises `BaseDiffers` if the base
    changed while it was read.
    """
    copies, registered = folder.copies, folder.registered
    copy = copies / copy_name(folder.path, folder.content, config)
    if is_whole(copy, registered.known.sha256 if registered else None):
        os.utime(copy)
        model = read(copy)
    else:
        model = read(folder.path, quantization_config=config)
        folder.require_same()
        make_room(copies)
        try:
            with sealed(copy, "base", {"base_content": folder.content}) as partial:
                # In shards, for each is put together in memory.
                model.save_pretrained(partial, max_shard_size="1GB")
        except (DiskFull, SafetensorError) as error:
            log.warning("no quantized copy of %s is kept: %s", folder.path, error)
    compute_densely(model)
    return model


def copy_name(folder: Path, content: str, config: BitsAndBytesConfig) -> str:
    """Another for all that would make other bits."""
    facts = {
        "folder": str(folder),
        "content": content,
        "config": config.to_dict(),
        "libraries": {name: importlib.metadata.version(name) for name in MADE_BY},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{folder.name}-{digest[:16]}"


def is_whole(copy: Path, sha256: Callable[[Path], str] | None) -> bool:
    """Whether there is such a copy. One that is damaged is removed. For `sha256` see
    `broken_seal`.
    """
    if not copy.exists():
        return False
    if reason := broken_seal(copy, sha256):
        log.warning("the quantized copy %s is made again: %s", copy, reason)
        shutil.rmtree(copy)
        return False
    return True


def make_room(copies: Path) -> None:
    """For one more copy: those used longest ago go, and what a killed engine left half-written."""
    there = [copy for copy in copies.iterdir() if copy.is_dir()]
    half = [copy for copy in there if copy.name.startswith(".")]
    whole = [copy for copy in there if copy not in half]
    whole.sort(key=lambda copy: copy.stat().st_mtime, reverse=True)
    for copy in [*half, *whole[KEPT_COPIES - 1 :]]:
        shutil.rmtree(copy)


def dense_weight(layer: torch.nn.Linear) -> Tensor:
    """(out, in) in the dtype that is computed in."""
    weight: Any = layer.weight
    if isinstance(layer, Linear4bit):
        return dequantize_4bit(weight.data, weight.quant_state)
    if isinstance(layer, Linear8bitLt):
        dense: Tensor = int8_vectorwise_dequant(weight.data, weight.SCB)
        return dense.to(compute_dtype())
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def compute_densely(model: PreTrainedModel) -> None:
    """In the place of bitsandbytes' own forwards. That of 4 bits has another arithmetic for a
    single token, and on CPUs with AVX512-BF16 rounds the scales for good when it is first called in
    eval mode.
    """
    for module in model.modules():
        if isinstance(module, QUANTIZED):
            module.forward = partial(FrozenProduct.apply, module)  # type: ignore[method-assign]


class FrozenProduct(torch.autograd.Function):
    """A layer's x W^T + bias, for whose backward the weight is dequantized again."""

    @staticmethod
    def forward(ctx: Any, layer: torch.nn.Linear, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.layer = layer
        return linear(x, dense_weight(layer), layer.bias)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, of_outputs[0] @ dense_weight(ctx.layer)


def dequantize(model: PreTrainedModel) -> None:
    """Replaces each quantized layer by a plain one of the same values."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, QUANTIZED):
                setattr(parent, name, plain(layer))
    # PEFT would look for quantized layers.
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # type: ignore[assignment]


def plain(layer: torch.nn.Linear) -> torch.nn.Linear:
    dense = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    dense.weight = torch.nn.Parameter(dense_weight(layer), requires_grad=False)
    dense.bias = layer.bias
    return dense
