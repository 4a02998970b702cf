"""A training that goes on from a checkpoint ends as if it had never stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunery.messages import FileFacts
from worker.engine import checkpoint
from worker.engine.base import Base
from worker.engine.errors import CheckpointRefused, StopAsked
from worker.engine.train import train
from worker.protocol import Checkpointed, Finished, Noted, Report, Started, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]


@pytest.fixture
def stopped(base: Base, make_order: MakeOrder, rows: Rows) -> Path:
    """The checkpoint of an attempt that was stopped in its second epoch."""
    reports: list[Report] = []

    def stop_in_second_epoch() -> None:
        if sum(line.type == "stepped" for line in reports) == 4:
            raise StopAsked

    with pytest.raises(StopAsked):
        train(make_order(rows, valid=rows[:2]), base, reports.append, stop_in_second_epoch)
    (written,) = [line for line in reports if isinstance(line, Checkpointed)]
    assert (written.epoch, written.metrics.step) == (1, 3)
    return written.folder


def finished(reports: list[Report]) -> Finished:
    last = reports[-1]
    assert isinstance(last, Finished)
    return last


def weights(reports: list[Report]) -> bytes:
    return (finished(reports).folder / "adapter_model.safetensors").read_bytes()


def test_a_resumed_training_gives_the_same_adapter_bit_by_bit(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path
) -> None:
    whole = run(make_order(rows, valid=rows[:2]))
    resumed = run(make_order(rows, valid=rows[:2], checkpoint=stopped))
    noted, started = resumed[:2]
    assert isinstance(noted, Noted)
    assert (noted.level, noted.message) == ("info", "Resumed from the checkpoint of step 3.")
    assert isinstance(started, Started)
    assert started.progress.step == 3
    assert weights(resumed) == weights(whole)
    assert finished(resumed).trained_tokens == finished(whole).trained_tokens
    for name in ("metrics.csv", "README.md"):
        written = (finished(resumed).folder / name).read_bytes()
        assert written == (finished(whole).folder / name).read_bytes()


def test_the_optimizers_state_is_part_of_a_checkpoint(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = make_order(rows, valid=rows[:2], checkpoint=stopped)
    with_state = run(order)
    monkeypatch.setattr(checkpoint, "load_optimizer", lambda *_: None)
    without = run(make_order(rows, valid=rows[:2], checkpoint=stopped))
    assert weights(without) != weights(with_state)


def test_a_training_stopped_after_its_last_epoch_is_only_published(
    run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    order = make_order(rows)
    whole = run(order)
    resumed = run(make_order(rows, checkpoint=order.folder / "checkpoint-6"))
    assert [line.type for line in resumed] == ["noted", "started", "finished"]
    assert weights(resumed) == weights(whole)


def test_a_checkpoint_is_flat_and_its_names_travel(stopped: Path) -> None:
    manifest = json.loads((stopped / "manifest.json").read_text())
    named = [FileFacts(**facts).name for facts in manifest["files"]]
    assert sorted([*named, "manifest.json"]) == sorted(path.name for path in stopped.iterdir())
    assert named == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint.json",
        "optimizer.safetensors",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_revision": "r2"}, "base model revision is r1, the job's is r2"),
        ({"learning_rate": 2e-2}, "another training: its settings"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    stopped: Path,
    settings: dict[str, Any],
    words: str,
) -> None:
    order = make_order(rows, valid=rows[:2], checkpoint=stopped)
    spec = order.spec.model_copy(update=settings)
    with pytest.raises(CheckpointRefused, match=words):
        run(order.model_copy(update={"spec": spec}))


def test_a_checkpoint_on_another_data_set_is_refused(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path
) -> None:
    with pytest.raises(CheckpointRefused, match="its training file is"):
        run(make_order(rows[1:], valid=rows[:2], checkpoint=stopped))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_refused(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path, name: str
) -> None:
    content = bytearray((stopped / name).read_bytes())
    content[-3] ^= 1
    (stopped / name).write_bytes(content)
    with pytest.raises(CheckpointRefused, match=f"{name} is damaged"):
        run(make_order(rows, valid=rows[:2], checkpoint=stopped))


def test_other_libraries_go_on_with_a_word_of_warning(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = checkpoint.machine() | {"torch": "9.9"}
    monkeypatch.setattr(checkpoint, "machine", lambda: now)
    noted = run(make_order(rows, valid=rows[:2], checkpoint=stopped))[0]
    assert isinstance(noted, Noted)
    assert noted.level == "warn"
    assert "9.9 now): from here the result is not bit-equal" in noted.message
