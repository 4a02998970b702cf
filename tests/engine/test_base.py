"""The base model: what is loaded, and that a job leaves nothing behind on it."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from safetensors.torch import load_file, save_file

from tests.engine.conftest import PLAN, on_base, same_adapter
from tunery.base_model import files_of
from tunery.failpoint import armed
from tunery.spec import Lora
from worker import base_files
from worker.engine.device import compute_dtype
from worker.engine.errors import BaseDiffers, BaseRefused
from worker.engine.model.base import Base, WarmBase, load, read_folder
from worker.engine.model.quantized import dense_weight
from worker.engine.train import train
from worker.engine.training.slot import adapted, trained_parameters
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
    assert same_adapter(weights(run(make_order(rows, valid=rows[:2]))), first)
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_another_seed_gives_another_adapter(run: Run, make_order: MakeOrder, rows: Rows) -> None:
    one, other = (run(make_order(rows, n_epochs=1, seed=seed)) for seed in (1, 2))
    assert not same_adapter(weights(one), weights(other))


def test_the_base_is_nf4_with_double_quantization_and_frozen(
    tiny: Path, cache: Path, make_order: MakeOrder, rows: Rows
) -> None:
    base = load(read_folder(tiny, "r1", cache), "nf4", dequantized=False)
    quantized = [layer for layer in base.model.modules() if isinstance(layer, Linear4bit)]
    assert len(quantized) == 14
    for layer in quantized:
        weight = layer.weight
        assert isinstance(weight, Params4bit)
        assert weight.quant_state.quant_type == "nf4"
        assert weight.quant_state.nested
        assert layer.compute_dtype == compute_dtype()
    with adapted(base.model, make_order(rows).spec) as model:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in name for name in trained)
        assert {p.dtype for p in trained_parameters(model).values()} == {torch.float32}


def test_an_adapter_leaves_the_memory_with_its_job(
    tiny: Path, cache: Path, make_order: MakeOrder, rows: Rows
) -> None:
    base = load(read_folder(tiny, "r1", cache), "none", dequantized=False)
    gc.disable()  # else a collection at the right moment would hide a circle
    try:
        with adapted(base.model, make_order(rows).spec) as model:
            weights = [weakref.ref(each) for each in trained_parameters(model).values()]
        del model
        assert [each() for each in weights] == [None] * len(weights)
    finally:
        gc.enable()


def test_a_base_kept_dequantized_has_the_values_of_nf4_in_plain_layers(
    tiny: Path, cache: Path, make_order: MakeOrder, rows: Rows
) -> None:
    quantized, plain = (
        load(read_folder(tiny, "r1", cache), "nf4", dequantized=kept).model
        for kept in (False, True)
    )
    layers = {name for name, module in quantized.named_modules() if type(module) is Linear4bit}
    for name in layers:
        nf4, dense = quantized.get_submodule(name), plain.get_submodule(name)
        assert isinstance(nf4, Linear4bit)
        assert type(dense) is torch.nn.Linear
        assert torch.equal(dense.weight, dense_weight(nf4))
    with adapted(plain, make_order(rows).spec) as model:
        assert {name for name, p in model.named_parameters() if p.requires_grad} == {
            f"base_model.model.{name}.lora_{which}.default.weight"
            for name in layers
            for which in "AB"
        }


def test_an_unquantized_base_has_the_values_of_its_file_and_no_copy(
    tiny: Path, tmp_path: Path
) -> None:
    model = load(read_folder(tiny, "r1", tmp_path), "none", dequantized=False).model
    assert list(tmp_path.iterdir()) == []
    file = load_file(tiny / "model.safetensors")
    loaded = model.state_dict()
    for name, tensor in file.items():
        assert torch.equal(loaded[name].cpu(), tensor.to(compute_dtype()))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_base_is_kept_until_another_is_asked_for(
    tiny: Path, cache: Path, tmp_path: Path
) -> None:
    bases = WarmBase()
    folder = bases.open(tiny, "r1", cache)
    assert bases.open(tiny, "r1", cache) is folder
    first = bases.load(folder, PLAN)
    assert bases.load(folder, PLAN.model_copy(update={"micro_tokens": 1})) is first
    other = bases.load(folder, PLAN.model_copy(update={"quantization": "none"}))
    assert other is not first
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert bases.load(bases.open(copy, "r1", cache), PLAN) is not first
    assert bases.load(bases.open(copy, "r2", cache), PLAN).folder.revision == "r2"


def test_a_base_without_safetensors_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseRefused, match=r"has no \.safetensors weights"):
        read_folder(folder, "r1", tmp_path)


def test_a_base_with_code_of_its_own_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseRefused, match="auto_map"):
        read_folder(folder, "r1", tmp_path)


def changed(folder: Path, name: str) -> bytes:
    """One byte of a weight is flipped; size and name stay. Returns the file as it was."""
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def test_a_base_that_changes_on_disk_is_not_trained_on_until_it_is_as_it_was_registered(
    tiny: Path, tmp_path: Path, make_order: MakeOrder, rows: Rows
) -> None:
    folder, bases = shutil.copytree(tiny, tmp_path / "base"), WarmBase()
    copies = tmp_path / "copies"
    copies.mkdir()
    order = on_base(make_order(rows, n_epochs=1), folder).model_copy(update={"cache": copies})

    def trained(how: str) -> bytes:
        reports: list[Report] = []
        again = order.model_copy(update={"folder": tmp_path / how})
        again.folder.mkdir()
        train(again, bases, reports.append, lambda: None)
        return weights(reports)

    first = trained("first")
    before = changed(folder, "model.safetensors")
    for how in ("warm", "cold"):
        with pytest.raises(BaseDiffers, match="safetensors has another content than was regis"):
            trained(how)
        bases = WarmBase()
    (folder / "model.safetensors").write_bytes(before)
    assert same_adapter(trained("repaired"), first)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseDiffers, match=r"was not there when the model was registered"):
        trained("grown")


def test_a_base_that_changes_while_it_is_loaded_is_not_used_and_leaves_no_copy(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copies = shutil.copytree(tiny, tmp_path / "base"), tmp_path / "copies"
    copies.mkdir()
    opened = WarmBase().open(folder, "r1", copies, files_of(folder))
    monkeypatch.setitem(armed, "engine.loading", lambda: changed(folder, "model.safetensors"))
    with pytest.raises(BaseDiffers):
        load(opened, "nf4", dequantized=False)
    assert [path for path in copies.iterdir() if path.is_dir()] == []


def test_an_unchanged_base_is_read_once_and_not_again_after_a_restart(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    files, read = files_of(folder), []
    read_whole = base_files.read_whole

    def counting(path: Path, stop_if_asked: Callable[[], None]) -> str:
        read.append(path.name)
        return read_whole(path, stop_if_asked)

    monkeypatch.setattr(base_files, "SETTLED_NS", 0)
    monkeypatch.setattr(base_files, "read_whole", counting)
    for engine in (WarmBase(), WarmBase()):
        for _ in range(2):
            engine.load(engine.open(folder, "r1", tmp_path, files), PLAN)
    (copy,) = (path for path in tmp_path.iterdir() if "-" in path.name)
    of_copy = [path.name for path in copy.iterdir() if path.name != "manifest.json"]
    assert sorted(read) == sorted([*(file.name for file in files), *of_copy])


def spoil(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_base_with_weights_that_are_no_numbers_is_to_blame_for_the_loss_and_not_the_rate(
    tiny: Path, tmp_path: Path, run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    spoil(folder, "model.norm.weight")
    with pytest.raises(BaseRefused, match=r"is damaged: model\.norm\.weight has weights"):
        run(on_base(make_order(rows), folder))
