"""The base model: what is loaded, and that a job leaves nothing behind on it."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from safetensors.torch import load_file

from tunery.spec import Lora
from worker.engine.base import Base, WarmBase, load
from worker.engine.errors import BaseRefused
from worker.engine.nf4 import copy_name
from worker.engine.sealed import broken_seal
from worker.engine.slot import adapted, adapter_parameters
from worker.engine.train import train
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
    assert same(after, before)


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
    first = warm.get(tiny, "r1", "none", tmp_path)
    assert warm.get(tiny, "r1", "none", tmp_path) is first
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert warm.get(copy, "r1", "none", tmp_path) is not first
    assert warm.get(copy, "r2", "none", tmp_path).revision == "r2"
    assert warm.get(copy, "r2", "nf4", tmp_path).quantization == "nf4"


def test_an_unquantized_base_has_the_weights_of_its_file_and_no_copy(
    tiny: Path, tmp_path: Path
) -> None:
    loaded = load(tiny, "r1", "none", tmp_path).model.state_dict()
    for name, tensor in load_file(tiny / "model.safetensors").items():
        assert torch.equal(loaded[name], tensor.to(torch.float32))
    assert list(tmp_path.iterdir()) == []


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit by bit; with a quantized weight comes all that is needed to undo it."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def test_a_base_is_quantized_once_and_its_copy_is_the_same_bit_by_bit(
    tiny: Path, tmp_path: Path, make_order: MakeOrder, rows: Rows
) -> None:
    made = load(tiny, "r1", "nf4", tmp_path)
    (copy,) = tmp_path.iterdir()
    read = load(tiny, "r1", "nf4", tmp_path)
    assert (made.model.name_or_path, read.model.name_or_path) == (str(tiny), str(copy))
    assert any("nested_absmax" in name for name in made.model.state_dict())
    assert same(made.model.state_dict(), read.model.state_dict())
    adapters = []
    for base in (made, read):
        reports: list[Report] = []
        train(make_order(rows, n_epochs=1), base, reports.append, lambda: None)
        adapters.append(weights(reports))
    assert adapters[0] == adapters[1]


def test_a_damaged_copy_and_one_half_written_make_way_for_a_new_one(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = load(tiny, "r1", "nf4", tmp_path)
    (copy,) = tmp_path.iterdir()
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    (tmp_path / ".half").mkdir()
    again = load(tiny, "r1", "nf4", tmp_path)
    assert same(again.model.state_dict(), made.model.state_dict())
    assert "is made again: model.safetensors is damaged" in caplog.text
    assert list(tmp_path.iterdir()) == [copy]
    assert broken_seal(copy) is None


def test_a_copy_that_finds_no_room_fails_nothing(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        load(tiny, "r1", "nf4", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no quantized copy of" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_copies_used_last_are_kept(tiny: Path, tmp_path: Path) -> None:
    for revision in ("r1", "r2", "r3", "r1", "r4"):
        load(tiny, revision, "nf4", tmp_path)
    kept = {copy_name(tiny, revision) for revision in ("r1", "r3", "r4")}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_base_without_safetensors_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseRefused, match=r"holds no \.safetensors file"):
        load(folder, "r1", "none", tmp_path)


def test_a_base_with_code_of_its_own_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseRefused, match="auto_map"):
        load(folder, "r1", "none", tmp_path)
