"""The quantized copy of a base: the same bits, whole or not at all."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_dequant
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.engine.conftest import ON_CPU, PLAN, same_adapter
from tunery.plan.memory import Precision
from worker.engine.device import compute_dtype, device
from worker.engine.model.base import WarmBase, load, read_folder
from worker.engine.model.quantized import config_of, copy_name
from worker.engine.model.stack import of_int8
from worker.engine.model.uncompiled import int8_vectorwise_quant
from worker.engine.sealed import broken_seal
from worker.engine.train import train
from worker.protocol import Finished, Report, Train

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]
Load = Callable[..., PreTrainedModel]


@pytest.fixture
def load_tiny(tiny: Path, tmp_path: Path) -> Load:
    """By default in NF4, with its copy in `tmp_path`."""

    def load_revision(
        revision: str = "r1", quantization: Precision = "nf4", **how: Any
    ) -> PreTrainedModel:
        how = {"dequantized": False} | how
        return load(read_folder(tiny, revision, tmp_path), quantization, **how).model

    return load_revision


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Bit by bit; with a quantized weight comes all that is needed to undo it."""
    ones, others = one.state_dict(), other.state_dict()
    return ones.keys() == others.keys() and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name])
        for name, tensor in ones.items()
    )


PRECISIONS: list[tuple[Precision, bool]] = [
    ("nf4", True),
    ("nf4", False),
    ("fp4", True),
    ("int8", True),
]


def test_a_base_is_quantized_once_each_way_and_its_copy_is_the_same_bit_by_bit(
    load_tiny: Load, tiny: Path, tmp_path: Path
) -> None:
    for quantization, double_quant in PRECISIONS:
        before = set(tmp_path.iterdir())
        made = load_tiny("r1", quantization, double_quant=double_quant)
        (copy,) = set(tmp_path.iterdir()) - before
        read = load_tiny("r1", quantization, double_quant=double_quant)
        assert (made.name_or_path, read.name_or_path) == (str(tiny), str(copy))
        nested = any("nested_absmax" in name for name in made.state_dict())
        assert nested == (double_quant and quantization != "int8")
        assert same(made, read)


IDS = [[0, 2, 90, 91, 92, 3, 2, 100, 101]]


@pytest.mark.parametrize(("quantization", "double_quant"), PRECISIONS)
def test_a_quantized_base_says_what_transformers_and_bitsandbytes_say(
    load_tiny: Load, tiny: Path, quantization: Precision, *, double_quant: bool
) -> None:
    """To rounding; in int8, where theirs rounds activations too, within a hundredth. Kept
    dequantized it says the same. No single forward in eval mode changes it.
    """
    base = load_tiny("r1", quantization, double_quant=double_quant).eval()
    dense = load_tiny("r1", quantization, double_quant=double_quant, dequantized=True).eval()
    theirs = AutoModelForCausalLM.from_pretrained(
        tiny,
        dtype=compute_dtype(),
        quantization_config=config_of(quantization, double_quant=double_quant),
        device_map={"": device()},
    ).eval()
    for module in theirs.modules():  # fp32 arithmetic on CPUs with AVX512-BF16 too
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids = torch.tensor(IDS, device=device())
    with torch.no_grad():
        for part in (ids[:, :1], ids):
            ours, plain, bnbs = (model(part).logits.float() for model in (base, dense, theirs))
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    off = 0.01 if quantization == "int8" else 1e-4 if ON_CPU else 0.01
    assert (ours - bnbs).norm() <= off * bnbs.norm()
    if quantization == "int8":
        assert (ours - bnbs).norm() > 1e-4 * bnbs.norm()  # else it is LLM.int8() all the same


def test_int8_values_are_those_of_bitsandbytes_to_one_rounding() -> None:
    weight = torch.randn(256, 300, generator=torch.Generator().manual_seed(1))
    codes, scales, _ = int8_vectorwise_quant(weight.half().to(device()))
    theirs = int8_vectorwise_dequant(codes, scales)
    torch.testing.assert_close(of_int8(codes, scales, torch.float32), theirs, rtol=3e-7, atol=0)
    in_bf16 = of_int8(codes, scales, torch.bfloat16)
    assert (in_bf16 != theirs.bfloat16()).float().mean() < 1e-4
    torch.testing.assert_close(in_bf16, theirs.bfloat16(), rtol=2**-7, atol=0)


@pytest.mark.parametrize("dequantized", [True, False])
def test_a_training_on_the_copy_gives_the_same_adapter(
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dequantized: bool,
) -> None:
    plan = PLAN.model_copy(update={"dequantized": dequantized})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)
    (tmp_path / "copies").mkdir()
    adapters = []
    for _ in ("made", "read"):
        order = make_order(rows, n_epochs=1).model_copy(update={"cache": tmp_path / "copies"})
        reports: list[Report] = []
        train(order, WarmBase(), reports.append, lambda: None)
        last = reports[-1]
        assert isinstance(last, Finished)
        adapters.append((last.folder / "adapter_model.safetensors").read_bytes())
    assert same_adapter(adapters[0], adapters[1])


def test_a_damaged_copy_and_one_half_written_make_way_for_a_new_one(
    load_tiny: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = load_tiny()
    (copy,) = tmp_path.iterdir()
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    (tmp_path / ".half").mkdir()
    assert same(load_tiny(), made)
    assert "is made again: model.safetensors is damaged" in caplog.text
    assert list(tmp_path.iterdir()) == [copy]
    assert broken_seal(copy) is None


def test_a_copy_that_finds_no_room_fails_nothing(
    load_tiny: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        load_tiny()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no quantized copy of" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_copies_used_last_are_kept(load_tiny: Load, tiny: Path, tmp_path: Path) -> None:
    for revision in ("r1", "r2", "r3", "r1", "r4"):
        load_tiny(revision)
    config = config_of("nf4", double_quant=True)
    kept = {copy_name(tiny, revision, config) for revision in ("r1", "r3", "r4")}
    assert {path.name for path in tmp_path.iterdir()} == kept
