"""A base and its adapter as one model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.engine.conftest import ON_CPU, TINY
from tests.engine.encoders import encoder, texts
from tests.engine.exporting import export_order, exported, random_adapter, random_base
from tunery.exports import Merged
from tunery.plan.shape import ENCODERS
from tunery.spec import MaskedLm, Quantization
from worker.engine.device import compute_dtype, device
from worker.engine.errors import StopAsked, Untrainable
from worker.engine.model.base import WarmBase, auto_class
from worker.engine.results.exports import make, merged
from worker.engine.results.exports.card import plan_of
from worker.engine.results.exports.drift import few_rows
from worker.engine.sealed import broken_seal
from worker.engine.training.slot import as_named
from worker.protocol import Export

IDS = torch.tensor([[0, 2, 9, 11, 12, 3, 2, 10, 13]])
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with biases, and a head of its own, in several files."""
    folder = tmp_path_factory.mktemp("qwen")
    return random_base(folder, "qwen2", tie_word_embeddings=False)


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("model*.safetensors"):
        found |= load_file(path)
    return found


def loaded(folder: Path) -> Any:
    """By transformers alone."""
    how: dict[str, Any] = {"dtype": compute_dtype(), "device_map": {"": device()}}
    return AutoModelForCausalLM.from_pretrained(folder, **how)


def said_by(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(input_ids=IDS.to(device())).logits
    return logits.float().cpu()


def adapter_says(order: Export, bases: WarmBase) -> Tensor:
    """By PEFT, on the base that it was trained on."""
    base = bases.load(bases.open(order.base_folder, "r1", order.cache), plan_of(order)).model
    with as_named():
        model = PeftModel.from_pretrained(base, str(order.adapter))
    logits = said_by(model)
    model.unload()
    return logits


@pytest.mark.parametrize(
    ("tied", "quantization", "settings"),
    [
        (True, "nf4", {}),
        (False, "nf4", {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        (False, "int8", {}),
    ],
)
def test_merged_onto_the_base_as_trained_it_says_what_the_adapter_says(
    bases: WarmBase,
    cache: Path,
    qwen: Path,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tied: bool,
    quantization: Quantization,
    settings: dict[str, Any],
) -> None:
    monkeypatch.setattr(merged, "SHARD_BYTES", 100_000)
    base = TINY if tied else qwen
    adapter = random_adapter(tmp_path / "adapter", base, **settings)
    options = Merged(dtype="fp32")
    order = export_order(
        base, adapter, options, tmp_path / "fp32", cache, rows=rows, quantization=quantization
    )
    theirs = adapter_says(order, bases)
    folder, (note,) = exported(order, bases)

    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    model = loaded(folder)
    assert model.config.tie_word_embeddings is tied
    off = 1e-4 if ON_CPU else 0.05
    torch.testing.assert_close(said_by(model), theirs, atol=off, rtol=off)
    assert (said_by(loaded(base)) - theirs).abs().max() > 0.5

    manifest = json.loads((folder / "manifest.json").read_text())
    assert note.data == {"drift": manifest["drift"]}
    assert (manifest["drift"]["rows"], manifest["drift"]["file"]) == (8, "training")
    assert manifest["drift"]["max_logit_difference"] <= off
    assert manifest["drift"]["top1_agreement"] >= (1 if ON_CPU else 0.9)
    assert broken_seal(folder) is None
    assert bases.base is None

    half, _ = exported(
        export_order(
            base, adapter, Merged(), tmp_path / "bf16", cache, rows=rows, quantization=quantization
        ),
        bases,
    )
    whole, rounded = weights(folder), weights(half)
    assert whole.keys() == rounded.keys()
    for name, tensor in whole.items():
        assert torch.equal(rounded[name], tensor.to(torch.bfloat16)), name
    assert AutoModelForCausalLM.from_pretrained(half, dtype="auto").dtype is torch.bfloat16


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_other_families_are_merged_as_they_lay_their_weights(
    bases: WarmBase, cache: Path, tmp_path: Path, family: str
) -> None:
    """GPT-2 has them the other way round, some of them square; an encoder guesses masked tokens."""
    if family in ENCODERS:
        base, rows = encoder(tmp_path / family, family), texts(8)
        settings: dict[str, Any] = {"objective": MaskedLm(mask_probability=0.5), "max_length": 64}
    else:
        base = random_base(tmp_path / family, family)
        rows, settings = texts(8), {}
    of_family: dict[str, dict[str, Any]] = {
        "gpt2": {"fan_in_fan_out": True},
        "roberta": {"task_type": None},
    }
    adapter = random_adapter(tmp_path / "adapter", base, **of_family[family])
    order = export_order(base, adapter, Merged(dtype="fp32"), tmp_path / "out", cache, rows=rows)
    spec = order.spec.model_copy(update=settings)
    order = order.model_copy(update={"spec": spec})
    theirs = adapter_says(order, bases)
    folder, (note,) = exported(order, bases)
    how: dict[str, Any] = {"dtype": compute_dtype(), "device_map": {"": device()}}
    off = 1e-4 if ON_CPU else 0.05
    model = auto_class(family).from_pretrained(folder, **how)
    torch.testing.assert_close(said_by(model), theirs, atol=off, rtol=off)
    plain = auto_class(family).from_pretrained(base, **how)
    assert (said_by(plain) - theirs).abs().max() > 0.1

    assert note.data
    drift = note.data["drift"]
    assert (drift["rows"], drift["top1_agreement"]) == (8, 1)
    nll = []
    for row in few_rows(order.training_file or Path(), spec, bases.open(base, "r1", cache)):
        with torch.no_grad():
            chances = model(input_ids=row.ids[None].long().to(device())).logits[0].log_softmax(1)
        if row.wanted is None:
            guessed, tokens = chances[:-1][row.trained[1:]], row.ids[1:][row.trained[1:]]
        else:
            guessed, tokens = chances[row.trained], row.wanted[row.trained]
        nll.append(-guessed.cpu().gather(1, tokens[:, None].long())[:64])
    assert drift["merged_nll"] == pytest.approx(torch.cat(nll).mean().item(), rel=1e-4)
    card = (folder / "README.md").read_text()
    assert f"{auto_class(family).__name__}.from_pretrained" in card
    assert ("vllm serve" in card) is (family not in ENCODERS)


def test_merged_onto_the_original_base_it_is_that_and_b_times_a(
    bases: WarmBase, cache: Path, qwen: Path, rows: Rows, tmp_path: Path
) -> None:
    adapter = random_adapter(tmp_path / "adapter", qwen)
    options = Merged(onto="original", dtype="fp32")
    order = export_order(qwen, adapter, options, tmp_path / "out", cache, rows=rows)
    theirs = adapter_says(order, bases)
    folder, (note,) = exported(order, bases)
    tensors, original = weights(folder), weights(qwen)
    lora = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in original.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        expected = tensor.float()
        if f"{layer}.lora_A.weight" in lora:
            expected += 8 / 4 * lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
        torch.testing.assert_close(tensors[name], expected, msg=name)
    assert note.data
    assert note.data["drift"]["max_logit_difference"] > 0.1
    assert "the original base, not the one in NF4" in note.message
    assert (said_by(loaded(folder)) - theirs).abs().max() > 0.1


def test_a_weight_that_the_dtype_cannot_hold_is_refused_and_nothing_stays(
    bases: WarmBase, cache: Path, tmp_path: Path
) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY, lora_alpha=1024, scale=100)
    order = export_order(TINY, adapter, Merged(dtype="fp16"), tmp_path / "out", cache)
    with pytest.raises(Untrainable, match=r"over 65504.*Export it with dtype bf16 or fp32"):
        exported(order, bases)
    assert not list(order.folder.iterdir())


def test_it_is_stopped_between_two_tensors(bases: WarmBase, cache: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", TINY)
    order = export_order(TINY, adapter, Merged(), tmp_path / "out", cache)

    def stop_when_begun() -> None:
        if list(order.folder.iterdir()):
            raise StopAsked(checkpoint=False)

    with pytest.raises(StopAsked):
        make(order, bases, lambda _: None, stop_when_begun)
    assert not list(order.folder.iterdir())
