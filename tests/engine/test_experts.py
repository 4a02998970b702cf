"""Experts in bitsandbytes' formats: the same bits as each for itself, none kept dequantized, and a
whole job on them.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoConfig

from tests.engine.conftest import ON_CPU, PLAN, on_base, same_adapter
from tests.engine.exporting import export_order, exported, random_base
from tests.families.configs import config_of
from tests.families.experts import adapters_compared, compared, folder_with, same_bits, saved
from tunery.base_model import describe
from tunery.exports import Merged
from tunery.plan.memory import Needs, Precision
from tunery.spec import Lora
from worker.engine.device import device
from worker.engine.errors import StopAsked, Untrainable
from worker.engine.model.base import WarmBase, load, read_folder
from worker.engine.model.experts import EXPERTS, modules_with_experts, quantize_experts, stacks_in
from worker.engine.model.quantized import config_of as quantization
from worker.engine.model.quantized import dense_weight
from worker.engine.model.stack import Stack
from worker.engine.proof.family import tiny as tiny_of
from worker.engine.proof.shrunk import shrunk
from worker.engine.results.exports.drift import few_rows
from worker.engine.train import train
from worker.engine.training.slot import as_named, linear_layers, lora_config, with_adapter
from worker.protocol import Checkpointed, Finished, Report, Stepped, Train

SMALL = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}


NAMED = ("experts.gate_up_proj", "experts.down_proj")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "num_experts": 64,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return random_base(tmp_path / "moe", "qwen3_moe", **SMALL)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_an_expert_has_the_bits_that_bitsandbytes_gives_it_alone(
    kind: Precision, *, double_quant: bool
) -> None:
    matrices = torch.randn(3, 128, 192, device=device())
    stack = Stack.of(matrices, quantization(kind, double_quant=double_quant))
    alone = [
        dequantize_4bit(*quantize_4bit(each, quant_type=kind, compress_statistics=double_quant))
        for each in matrices
    ]
    assert torch.equal(stack.dense(), torch.stack(alone))


def test_a_row_that_is_no_whole_number_of_blocks_is_dequantized_to_what_was_quantized() -> None:
    """The CPU kernel of bitsandbytes gives it the scales of other rows."""
    weight = torch.arange(96.0)[None].expand(64, 96) * torch.arange(1.0, 65)[:, None]
    layer = Linear4bit(96, 64, bias=False, quant_type="nf4")
    layer.weight = Params4bit(weight.contiguous(), quant_type="nf4", requires_grad=False)
    dense = dense_weight(layer.to(device()))
    assert (dense.cpu() - weight).abs().max() < 0.2 * weight.abs().max()


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("Qwen 3 MoE", "nf4"),  # each expert for itself in the files
        ("Mixtral", "int8"),
        ("gpt-oss", "nf4"),  # transposed, with biases
        ("Llama 4 (text)", "nf4"),  # by a forward of its own
    ],
)
def test_experts_in_few_bits_say_what_transformers_says_of_their_values(
    family: str, kind: Precision, tiny: Path, tmp_path: Path
) -> None:
    """And so do those of the copy; `make families` asks it of every family."""
    made, read, plain = compared(config_of(family), folder_with(tiny, tmp_path), kind)
    if ON_CPU:
        assert same_bits(made, plain)
        assert same_bits(read, plain)
    for ours, theirs in zip(made, plain, strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize(
    ("family", "name"),
    [("gemma4_text", "layers.0.router.proj"), ("afmoe", "layers.3.mlp.router.gate")],
)
def test_what_chooses_between_experts_is_neither_quantized_nor_adapted(
    family: str, name: str, tiny: Path, tmp_path: Path
) -> None:
    """Found by what stands beside the experts, not by its name."""
    config = CONFIG_MAPPING[family]()
    if family == "gemma4_text":
        config = config_of("Gemma 4 26B-A4B (text)")
    folder = folder_with(tiny, tmp_path)(saved(shrunk(config), tmp_path))
    model = load(folder, "nf4", dequantized=False).model
    adapted = linear_layers(model)
    assert type(model.get_submodule(f"model.{name}")) is torch.nn.Linear
    assert any(layer.endswith("self_attn.q_proj") for layer in adapted)
    assert not any("router" in layer for layer in adapted)


def test_nothing_dequantized_is_kept_for_the_backward() -> None:
    model = tiny_of(CONFIG_MAPPING["qwen3_moe"](**SIZES), "eager", EXPERTS)
    quantize_experts(model, quantization("nf4", double_quant=True))
    adapted = with_adapter(model.requires_grad_(False), lora_config(model, Lora(r=4))).train()
    stack = next(iter(stacks_in(next(modules_with_experts(model))[1]).values()))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.arange(8, device=device())[None]
        adapted(input_ids=ids, use_cache=False).logits.sum().backward()
    assert max(kept) < stack.dense().nbytes / 2


def test_the_planner_counts_experts_in_the_bytes_that_they_take(moe: Path, tmp_path: Path) -> None:
    shape = describe(moe, id_="m").shape
    assert shape
    model = load(read_folder(moe, "r1", tmp_path), "nf4", dequantized=False).model
    stacks = {
        (name, *stack.shape)
        for _, module in modules_with_experts(model)
        for name, stack in stacks_in(module).items()
    }
    assert stacks == {
        (name.rpartition(".")[2], experts, outputs, inputs)
        for name, experts, inputs, outputs in shape.experts_read
    }
    taken = sum(each.nbytes for each in model.state_dict().values())
    needs = Needs(shape, "fp32" if ON_CPU else "bf16", Lora())
    room = needs.itemsize * shape.largest_experts
    assert needs.base("nf4") - room == pytest.approx(taken, rel=0.05)


def test_the_planner_counts_what_a_mixture_saves_for_the_backward(tmp_path: Path) -> None:
    sizes = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 128}
    base = random_base(tmp_path / "base", "qwen3_moe", intermediate_size=512, **sizes)
    shape = describe(base, id_="m").shape
    assert shape
    model = tiny_of(AutoConfig.from_pretrained(base), "sdpa", EXPERTS)
    quantize_experts(model, quantization("nf4", double_quant=True))
    lora = Lora(r=8)
    with_adapter(model.requires_grad_(requires_grad=False), lora_config(model, lora)).train()
    own = {each.untyped_storage().data_ptr() for each in model.state_dict().values()}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        ids = torch.arange(256, device=device())[None]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    counted = 256 * Needs(shape, "fp32", lora).saved(checkpointing=False)
    assert counted == pytest.approx(sum(held.values()), rel=0.15)


def test_a_job_on_quantized_experts_that_is_resumed_on_the_copy_gives_the_same_adapter(
    moe: Path,
    make_order: Callable[..., Train],
    rows: list[dict[str, Any]],
    bases: WarmBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The merged model has each expert's matrix in its file, with the values it was trained on."""
    plan = PLAN.model_copy(update={"dequantized": False, "checkpointing": True})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)
    copies = tmp_path / "copies"
    copies.mkdir()
    lora = Lora(r=4, alpha=8, target_parameters=NAMED)

    def trained(checkpoint: Path | None = None, *, stopped: bool = False) -> Path:
        order = on_base(make_order(rows[:4], checkpoint=checkpoint, lora=lora), moe)
        reports: list[Report] = []

        def stop() -> None:
            if stopped and any(isinstance(line, Stepped) for line in reports):
                raise StopAsked(checkpoint=True)

        with suppress(StopAsked):
            train(order.model_copy(update={"cache": copies}), WarmBase(), reports.append, stop)
        assert isinstance(reports[-1], Checkpointed if stopped else Finished)
        return reports[-1].folder

    adapters = [trained(), trained(trained(stopped=True))]
    assert "transformers leaves experts in 16 bits" in (adapters[0] / "README.md").read_text()
    one, other = ((each / "adapter_model.safetensors").read_bytes() for each in adapters)
    assert same_adapter(one, other)
    _, (note,) = exported(
        export_order(moe, adapters[0], Merged(dtype="fp32"), tmp_path / "out", copies, rows=rows),
        bases,
    )
    assert note.data
    assert note.data["drift"]["max_logit_difference"] < (1e-3 if ON_CPU else 0.1)


@pytest.mark.parametrize(
    ("family", "settings", "kind"),
    [("qwen3_moe", SMALL, "nf4"), ("gpt_oss", {"num_local_experts": 4}, "none")],
)
def test_experts_that_are_named_are_adapted_as_plain_peft_has_it_and_merged(
    make_order: Callable[..., Train],
    rows: list[dict[str, Any]],
    bases: WarmBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
    kind: Precision,
) -> None:
    """The published loss is that of PEFT on the values of the base; the merged model says the same.
    The export finds nothing left of it on the warm base.
    """
    base = random_base(tmp_path / "base", family, **settings)
    plan = PLAN.model_copy(update={"dequantized": False, "quantization": kind})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)
    lora = Lora(r=4, alpha=8, target_parameters=NAMED)
    order = on_base(make_order(rows[:4], valid=rows[4:6], n_epochs=1, lora=lora), base)
    reports: list[Report] = []
    train(order, bases, reports.append, lambda: None)
    last = reports[-1]
    assert isinstance(last, Finished)
    steps = [line for line in reports if isinstance(line, Stepped)]

    folder = read_folder(base, "r1", order.cache)
    values = load(folder, kind, dequantized=kind != "none").model
    plain = tiny_of(AutoConfig.from_pretrained(base), "eager")
    plain.load_state_dict(values.state_dict())
    with as_named():
        tuned = PeftModel.from_pretrained(plain, str(last.folder)).eval()
    adapted = {name for name, _ in tuned.named_parameters() if "lora_" in name}
    assert any(".mlp.experts.base_layer.lora_A" in name for name in adapted)
    assert not any(f".{router}." in name for name in adapted for router in ("gate", "router"))
    assert order.validation_file
    nll, tokens = 0.0, 0
    for row in few_rows(order.validation_file, order.spec, folder):
        ids = row.ids.long()[None].to(device())
        trained = row.trained.nonzero()[:, 0]
        with torch.no_grad():
            logits = tuned(input_ids=ids, use_cache=False).logits[0, trained - 1].float()
        nll += cross_entropy(logits, ids[0, trained], reduction="sum").item()
        tokens += len(trained)
    published = steps[-1].metrics.valid_loss
    assert published == pytest.approx(nll / tokens, rel=1e-4 if ON_CPU else 2e-2)

    _, (note,) = exported(
        export_order(
            base,
            last.folder,
            Merged(dtype="fp32"),
            tmp_path / "out",
            order.cache,
            rows=rows,
            quantization=kind,
        ),
        bases,
    )
    assert note.data
    assert note.data["drift"]["max_logit_difference"] < (1e-3 if ON_CPU else 0.1)


@pytest.mark.parametrize("family", ["gpt-oss", "Llama 4 (text)"])
def test_an_adapter_on_experts_has_the_gradients_that_peft_computes(family: str) -> None:
    assert max(adapters_compared(config_of(family))) < 1e-4


def test_targets_that_are_no_experts_are_refused_by_name(moe: Path, tmp_path: Path) -> None:
    """Routers are among them: PEFT would adapt any parameter."""
    model = load(read_folder(moe, "r1", tmp_path), "none", dequantized=False).model
    with pytest.raises(
        Untrainable, match=r"'mlp.gate.weight', which is no .* experts.gate_up_proj"
    ):
        lora_config(model, Lora(target_parameters=("mlp.gate.weight",)))
