"""The quantized copy of a base: the same bits, whole or not at all."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.conftest import PLAN, same_adapter
from worker.engine.base import WarmBase, load, read_folder
from worker.engine.nf4 import copy_name
from worker.engine.sealed import broken_seal
from worker.engine.train import train
from worker.protocol import Finished, Report, Train

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]
Load = Callable[..., PreTrainedModel]


@pytest.fixture
def load_tiny(tiny: Path, tmp_path: Path) -> Load:
    """In NF4, with its copy in `tmp_path`."""

    def load_revision(revision: str = "r1") -> PreTrainedModel:
        return load(read_folder(tiny, revision, tmp_path), "nf4", dequantized=False).model

    return load_revision


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Bit by bit; with a quantized weight comes all that is needed to undo it."""
    ones, others = one.state_dict(), other.state_dict()
    return ones.keys() == others.keys() and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name])
        for name, tensor in ones.items()
    )


def test_a_base_is_quantized_once_and_its_copy_is_the_same_bit_by_bit(
    load_tiny: Load, tiny: Path, tmp_path: Path
) -> None:
    made = load_tiny()
    (copy,) = tmp_path.iterdir()
    read = load_tiny()
    assert (made.name_or_path, read.name_or_path) == (str(tiny), str(copy))
    assert any("nested_absmax" in name for name in made.state_dict())
    assert same(made, read)


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
    kept = {copy_name(tiny, revision) for revision in ("r1", "r3", "r4")}
    assert {path.name for path in tmp_path.iterdir()} == kept
