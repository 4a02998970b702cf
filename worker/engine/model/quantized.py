"""A base model in bitsandbytes' formats: in 4 bits as in QLoRA (Dettmers et al. 2023, section 3),
or in int8 by row. It is quantized once on a machine; its copy on disk is read from then on.

Its layers compute on their weights dequantized to the compute dtype, and nothing else: not as
LLM.int8() does (Dettmers et al. 2022), which rounds activations to int8 too, by the largest of what
is computed together. A row's result would depend on its neighbours in a pack.

All linear layers and experts are quantized, but for the head and what chooses between experts.
"""

import copy
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
from unittest.mock import patch

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import linear
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from tunery.plan.memory import Precision
from worker.engine.device import compute_dtype
from worker.engine.errors import DiskFull
from worker.engine.model.experts import (
    compute_on_stacks,
    dense_in,
    dequantize_experts,
    modules_with_experts,
    put,
    quantize_experts,
    routers_of,
)
from worker.engine.model.stack import Stack, of_int8
from worker.engine.model.uncompiled import (
    Linear4bit,
    Linear8bitLt,
    Params4bit,
    dequantize_4bit,
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
# Raised whenever other layers are quantized, or laid in a copy in another way.
LAYOUT = 2


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
    kept = copies / copy_name(folder.path, folder.content, config)
    if is_whole(kept, registered.known.sha256 if registered else None):
        os.utime(kept)
        with with_experts():
            model = read(kept)
    else:
        with with_experts():
            model = read(folder.path, quantization_config=config)
        folder.require_same()
        make_room(copies)
        try:
            with sealed(kept, "base", {"base_content": folder.content}) as partial:
                # In shards, for each is put together in memory.
                model.save_pretrained(partial, max_shard_size="1GB")
        except (DiskFull, SafetensorError) as error:
            log.warning("no quantized copy of %s is kept: %s", folder.path, error)
    compute_densely(model)
    return model


def quantize(model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """In 4 bits, of a model that is in memory already: what would be quantized as it is loaded."""
    kept = FourBits.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)  # noqa: SLF001
    before = dict(model.named_modules())
    replace_with_bnb_linear(model, kept, config)
    for name, layer in model.named_modules():
        if isinstance(layer, Linear4bit):
            was: Any = before[name]
            weight = was.weight.detach()
            four_bits: Any = Params4bit(
                weight.T.contiguous() if isinstance(was, Conv1D) else weight,
                requires_grad=False,
                quant_type=config.bnb_4bit_quant_type,
                compress_statistics=config.bnb_4bit_use_double_quant,
                module=layer,
            )
            layer.weight = four_bits.to(weight.device)  # which is when it is quantized
            layer.bias = was.bias
            layer.forward = partial(FrozenProduct.apply, layer)  # type: ignore[method-assign]
    quantize_experts(model, config)


@torch.no_grad()
def round_to(model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    """Its weights to what 4 bits hold of them; its modules stay as they are."""
    rounded = copy.deepcopy(model)
    quantize(rounded, config)
    dequantize_experts(rounded)
    for name, layer in model.named_modules():
        found: Any = rounded.get_submodule(name)
        if isinstance(found, Linear4bit):
            dense = dense_weight(found)
            layer.weight.copy_(dense.T if isinstance(layer, Conv1D) else dense)
    for name, module in modules_with_experts(model):
        for weight, parameter in dense_in(module).items():
            parameter.copy_(rounded.get_submodule(name).get_parameter(weight))


def with_experts() -> Any:  # noqa: ANN401 (a context)
    """In it transformers quantizes, and reads what is quantized, as here."""
    return patch.dict(
        AUTO_QUANTIZER_MAPPING, {"bitsandbytes_4bit": FourBits, "bitsandbytes_8bit": EightBits}
    )


class WithExperts(HfQuantizer):
    """What is other than in transformers' own quantizers for bitsandbytes."""

    quantization_config: BitsAndBytesConfig
    stacked: frozenset[str] = frozenset()

    @staticmethod
    def get_modules_to_not_convert(model: PreTrainedModel, *others: Any) -> list[str]:  # noqa: ANN401
        usual: list[str] = HfQuantizer.get_modules_to_not_convert(model, *others)
        return [*usual, *routers_of(model)]

    def _convert_model_for_quantization(self, model: PreTrainedModel) -> None:
        """Transformers has other experts for Llama 4 here, each with layers of its own."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **how: Any) -> None:  # noqa: ANN401
        super()._process_model_before_weight_loading(model, **how)  # type: ignore[no-untyped-call]
        stacked = {
            f"{name}.{weight}": parameter
            for name, module in modules_with_experts(model)
            for weight, parameter in dense_in(module).items()
        }
        if not self.pre_quantized:
            self.stacked = frozenset(stacked)
            return
        for name, dense in stacked.items():
            lay(model, name, Stack(dense.shape, dense.dtype, self.quantization_config, "meta"))

    def param_needs_quantization(
        self,
        model: PreTrainedModel,
        param_name: str,
        **how: Any,  # noqa: ANN401
    ) -> bool:
        if param_name in self.stacked:
            return True
        return super().param_needs_quantization(model, param_name, **how)

    def get_quantize_ops(self) -> ConversionOps:
        return Quantize(super().get_quantize_ops(), self)  # type: ignore[no-untyped-call]


class FourBits(WithExperts, Bnb4BitHfQuantizer):  # type: ignore[misc]
    pass


class EightBits(WithExperts, Bnb8BitHfQuantizer):  # type: ignore[misc]
    pass


class Quantize(ConversionOps):
    """Of one parameter, which has just been put together from the files. Experts are laid in the
    model here; transformers does that with what is returned.
    """

    def __init__(self, of_layer: ConversionOps, ours: WithExperts) -> None:
        self.of_layer, self.ours = of_layer, ours

    def convert(self, input_dict: dict[str, Any], *patterns: Any, **others: Any) -> dict[str, Any]:  # noqa: ANN401
        name = others["full_layer_name"]
        if name not in self.ours.stacked:
            return self.of_layer.convert(input_dict, *patterns, **others)
        (given,) = input_dict.values()
        dense: Tensor = given[0] if isinstance(given, list) else given
        lay(others["model"], name, Stack.of(dense, self.ours.quantization_config))
        others["missing_keys"].discard(name)
        return {}


def lay(model: PreTrainedModel, name: str, stack: Stack) -> None:
    """In the place of a parameter, which transformers shall not make anew."""
    around, _, weight = name.rpartition(".")
    module = model.get_submodule(around)
    put(module, weight, stack)
    module._is_hf_initialized = True  # type: ignore[assignment]  # noqa: SLF001


def copy_name(folder: Path, content: str, config: BitsAndBytesConfig) -> str:
    """Another for all that would make other bits."""
    facts = {
        "folder": str(folder),
        "content": content,
        "config": config.to_dict(),
        "layout": LAYOUT,
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
    there = [folder for folder in copies.iterdir() if folder.is_dir()]
    half = [folder for folder in there if folder.name.startswith(".")]
    whole = [folder for folder in there if folder not in half]
    whole.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in [*half, *whole[KEPT_COPIES - 1 :]]:
        shutil.rmtree(folder)


def dense_weight(layer: torch.nn.Linear) -> Tensor:
    """(out, in) in the dtype that is computed in."""
    weight: Any = layer.weight
    if isinstance(layer, Linear4bit):
        state = copy.copy(weight.quant_state)
        # As in `of_four_bits`.
        state.shape = torch.Size((1, state.shape.numel()))
        return dequantize_4bit(weight.data, state).view(weight.quant_state.shape)
    if isinstance(layer, Linear8bitLt):
        return of_int8(weight.data, weight.SCB, compute_dtype())
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def compute_densely(model: PreTrainedModel) -> None:
    """In the place of bitsandbytes' own forwards. That of 4 bits has another arithmetic for a
    single token, and on CPUs with AVX512-BF16 rounds the scales for good when it is first called in
    eval mode.
    """
    for module in model.modules():
        if isinstance(module, QUANTIZED):
            module.forward = partial(FrozenProduct.apply, module)  # type: ignore[method-assign]
    compute_on_stacks(model)


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
    """Replaces all that is quantized by plain layers and experts of the same values."""
    dequantize_experts(model)
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
