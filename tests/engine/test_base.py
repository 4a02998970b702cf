"""The base model: what is loaded, and that a job leaves nothing behind on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit

from tunery.spec import Lora
from worker.engine.base import Base, WarmBase, load
from worker.engine.errors import BaseRefused
from worker.engine.slot import adapted, adapter_parameters
from worker.protocol import Finished, Report, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]


def weights(reports: list[Report]) -> bytes:
    last = reports[-1]
    assert isinstance(last, Finished)
    return (last.folder / "adapter_model.safetensors").read_bytes()


def test_a_warm_base_gives_the_same_adapter_again_and_stays_as_it_was(
    run: Run, base: Base, make_order: MakeOrder, rows: Rows
) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    first = weights(run(make_order(rows, valid=rows[:2])))
    run(make_order(rows[:5], lora=Lora(r=8, alpha=8), seed=9))
    assert weights(run(make_order(rows, valid=rows[:2]))) == first
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_another_seed_gives_another_adapter(run: Run, make_order: MakeOrder, rows: Rows) -> None:
    one, other = (run(make_order(rows, n_epochs=1, seed=seed)) for seed in (1, 2))
    assert weights(one) != weights(other)


def test_the_base_is_nf4_with_double_quantization_and_frozen(
    base: Base, make_order: MakeOrder, rows: Rows
) -> None:
    quantized = [layer for layer in base.model.modules() if isinstance(layer, Linear4bit)]
    assert len(quantized) == 14
    for layer in quantized:
        weight = layer.weight
        assert isinstance(weight, Params4bit)
        assert weight.quant_state.quant_type == "nf4"
        assert weight.quant_state.nested
        assert layer.compute_dtype == torch.float32
        # Else an evaluation would round it to bf16, on CPUs that have that.
        assert not layer.support_avx512bf16_for_cpu
    with adapted(base.model, make_order(rows).spec) as model:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in name for name in trained)
        assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}


def test_the_base_is_kept_until_another_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    warm = WarmBase()
    first = warm.get(tiny, "r1")
    assert warm.get(tiny, "r1") is first
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert warm.get(copy, "r1") is not first
    assert warm.get(copy, "r2").revision == "r2"


def test_a_base_without_safetensors_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseRefused, match=r"holds no \.safetensors file"):
        load(folder, "r1")


def test_a_base_with_code_of_its_own_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseRefused, match="auto_map"):
        load(folder, "r1")
