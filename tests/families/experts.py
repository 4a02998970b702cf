"""Experts in 4 bits, loaded as a worker loads them, beside transformers on the same values."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tunery.exports import Merged
from tunery.plan.memory import Precision
from tunery.spec import Lora
from worker.engine.model.base import BaseFolder, load, read, read_folder, without_dropout
from worker.engine.model.experts import (
    EXPERTS,
    dense_in,
    dequantize_experts,
    modules_with_experts,
    parameters_in,
    quantize_experts,
    stacks_in,
)
from worker.engine.model.lora import adapters_of_experts, fuse
from worker.engine.proof.family import IN_FOUR_BITS, gradients_of, lively, tiny, with_lora
from worker.engine.proof.shrunk import shrunk
from worker.engine.results.exports.adapter import Adapter
from worker.engine.results.exports.merged import Merge

Computed = tuple[Tensor, Tensor]


def has_experts(config: PretrainedConfig) -> bool:
    return any(modules_with_experts(tiny(shrunk(config), None)))


def compared(
    config: PretrainedConfig,
    folder_of: Callable[[Path], BaseFolder],
    quantization: Precision = "nf4",
) -> tuple[Computed, Computed, Computed]:
    """What a small model says of its input, and its gradient by that: quantized, read from its
    quantized copy, and by transformers alone on the dequantized values.
    """
    small = without_dropout(shrunk(config))
    with TemporaryDirectory() as place:
        folder = folder_of(saved(small, Path(place)))
        made, read = (load(folder, quantization, dequantized=False).model for _ in range(2))
        assert read.name_or_path != made.name_or_path
        values = load(folder, quantization, dequantized=True).model
    stacked = [stacks_in(module) for _, module in modules_with_experts(made)]
    assert stacked
    assert all(stacks for stacks in stacked)
    assert not any(dense_in(module) for _, module in modules_with_experts(made))
    plain = tiny(small, "eager")
    plain.load_state_dict(values.state_dict())
    plain.requires_grad_(requires_grad=False)
    said = []
    for model in (made, read, plain):
        model.set_attn_implementation("eager")
        said.append(computed(model))
    return said[0], said[1], said[2]


def adapters_compared(config: PretrainedConfig) -> list[float]:
    """How far the gradients of adapters on experts are from those that PEFT computes on the same
    values, of themselves: with experts in 16 bits, and in 4.
    """
    small = without_dropout(shrunk(config))
    plain = lively(small)
    quantize_experts(plain, IN_FOUR_BITS)
    dequantize_experts(plain)
    values = plain.state_dict()
    wanted = gradients_on_experts(plain)
    found = []
    for quantized in (False, True):
        model = tiny(small, "eager", EXPERTS)
        model.load_state_dict(values)
        if quantized:
            quantize_experts(model, IN_FOUR_BITS)
        ours = gradients_on_experts(model, fuse)
        off = torch.stack([(ours[name] - each).norm() for name, each in wanted.items()]).norm()
        whole = torch.stack([each.norm() for each in wanted.values()]).norm()
        found.append((off / whole).item())
    return found


def gradients_on_experts(
    model: PreTrainedModel, fuse: Callable[[PeftModel], None] = lambda _: None
) -> dict[str, Tensor]:
    adapted = with_lora(model, on_experts(model))
    fuse(adapted)
    ids = torch.arange(40, device=model.device)[None] + 7
    adapted.eval()(input_ids=ids, use_cache=False).logits.float().square().mean().backward()
    gradients = {name: each for name, each in gradients_of(adapted).items() if "experts" in name}
    assert gradients
    return gradients


def differing_when_merged(
    config: PretrainedConfig, folder_of: Callable[[Path], BaseFolder]
) -> list[str]:
    """The weights of a merged model that are not those it was trained on, with what an adapter adds
    to experts.
    """
    small = without_dropout(shrunk(config))
    with TemporaryDirectory() as place:
        folder = folder_of(saved(small, Path(place)))
        wanted = load(folder, "nf4", dequantized=True).model.state_dict()
        base = load(folder, "nf4", dequantized=False).model
        adapted = with_lora(base, on_experts(base))
        added = {
            name: each.delta().detach()
            for name, each in adapters_of_experts(adapted.get_base_model()).items()
        }
        adapted.unload()
        wanted |= {name: wanted[name] + each for name, each in added.items()}
        merge = Merge(
            folder.path,
            base,
            Adapter(folder.path, {}, {}, scale=1),
            {name: partial(torch.clone, each) for name, each in added.items()},
            Merged(dtype="fp32"),
        )
        out = Path(place) / "merged"
        out.mkdir()
        merge.write(out, lambda: None)
        merged = read(out).state_dict()
    return [name for name, each in merged.items() if not torch.equal(each, wanted[name])]


def on_experts(model: PreTrainedModel) -> Lora:
    names = {name for _, module in modules_with_experts(model) for name in parameters_in(module)}
    return Lora(r=4, alpha=8, target_parameters=tuple(sorted(names)))


def saved(small: PretrainedConfig, place: Path) -> Path:
    lively(small).save_pretrained(place / "base")
    return place / "base"


def computed(model: PreTrainedModel) -> Computed:
    ids = torch.arange(40, device=model.device)[None] + 7
    states = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model.eval()(inputs_embeds=states, use_cache=False).logits
    logits.float().square().mean().backward()
    assert states.grad is not None
    return logits.detach(), states.grad


def same_bits(one: Computed, other: Computed) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def folder_with(tokenizer: Path, copies: Path) -> Callable[[Path], BaseFolder]:
    """For a model's folder, which is given the tokenizer of another."""

    def opened(path: Path) -> BaseFolder:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).write_bytes((tokenizer / name).read_bytes())
        return read_folder(path, "r1", copies)

    return opened
