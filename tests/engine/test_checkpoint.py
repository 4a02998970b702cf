"""A training that goes on from a checkpoint ends as if it had never stopped."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.conftest import ON_CPU, orders_in, same_adapter, same_metrics, ten_chats
from tunery.facts import FileFacts
from tunery.failpoint import armed
from tunery.measured import Metrics
from tunery.spec import Lora
from worker.engine import train as loop
from worker.engine.data.batches import rows_of_steps
from worker.engine.data.rows import TokenRow
from worker.engine.errors import CheckpointRefused, StopAsked
from worker.engine.model.base import WarmBase
from worker.engine.seeds import seed_of
from worker.engine.train import train
from worker.engine.training import checkpoint
from worker.engine.training import step as arithmetic
from worker.engine.training.schedule import learning_rate
from worker.protocol import Checkpointed, Entered, Finished, Noted, Report, Started, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]


def row_by_row(rows: Sequence[TokenRow], *_: object) -> list[list[TokenRow]]:
    return [[row] for row in rows]


class StopAt:
    """Asks to stop at one poll, counted from 1, and counts them."""

    def __init__(self, poll: int) -> None:
        self.poll = poll
        self.polls = 0

    def __call__(self) -> None:
        self.polls += 1
        if self.polls == self.poll:
            raise StopAsked(checkpoint=True)


def run_until_stopped(order: Train, bases: WarmBase, stop: Callable[[], None]) -> list[Report]:
    reports: list[Report] = []
    with pytest.raises(StopAsked):
        train(order, bases, reports.append, stop)
    return [line for line in reports if not isinstance(line, Entered)]


def stopped_after_step_4(order: Train, bases: WarmBase) -> Path:
    """Its checkpoint, where an epoch has three steps."""
    reports: list[Report] = []

    def stop() -> None:
        if sum(line.type == "stepped" for line in reports) == 4:
            raise StopAsked(checkpoint=True)

    with pytest.raises(StopAsked):
        train(order, bases, reports.append, stop)
    last = reports[-1]
    assert isinstance(last, Checkpointed)
    assert (last.epoch, last.metrics.step) == (1, 4)
    return last.folder


@pytest.fixture
def stopped(bases: WarmBase, make_order: MakeOrder, rows: Rows) -> Path:
    """The checkpoint of an attempt that was stopped in its second epoch."""
    return stopped_after_step_4(make_order(rows, valid=rows[:2]), bases)


def finished(reports: list[Report]) -> Finished:
    last = reports[-1]
    assert isinstance(last, Finished)
    return last


def one_by_one(lengths: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    return torch.split(torch.arange(len(lengths)), 1)


def weights(reports: list[Report]) -> bytes:
    return (finished(reports).folder / "adapter_model.safetensors").read_bytes()


def published(reports: list[Report]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in finished(reports).folder.iterdir()}


def same_folder(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """To the bit; on a GPU the same files, and the same adapter as near as it is ever the same."""
    if ON_CPU:
        return one == other
    name = "adapter_model.safetensors"
    return one.keys() == other.keys() and same_adapter(one[name], other[name])


def test_a_training_stopped_anywhere_and_resumed_publishes_the_same_bytes(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each poll there is: while data is read, in the base's evaluation, between micro-steps, in
    an epoch's evaluation, before the export, for base and tuned model in the proof. At most the
    unfinished step is taken again.
    """
    monkeypatch.setattr(arithmetic, "cut", row_by_row)
    monkeypatch.setattr(arithmetic, "packing", one_by_one)
    steps: list[int] = []
    monkeypatch.setitem(armed, "engine.step", lambda: steps.append(1))

    def order(checkpoint: Path | None = None) -> Train:
        return make_order(rows[:5], valid=rows[5:7], batch_size=3, checkpoint=checkpoint)

    polls = StopAt(0)
    uninterrupted: list[Report] = []
    train(order(), bases, uninterrupted.append, polls)
    whole, all_steps = published(uninterrupted), len(steps)
    assert (polls.polls, all_steps) == (5 + 2 + 2 + 2 * (5 + 2) + 1 + 2, 4)
    for poll in range(1, polls.polls + 1):
        steps.clear()
        reports = run_until_stopped(order(), bases, StopAt(poll))
        kept = [line.folder for line in reports if isinstance(line, Checkpointed)]
        resumed = run(order(kept[-1] if kept else None))
        assert same_folder(published(resumed), whole), f"stopped at poll {poll}"
        assert len(steps) <= all_steps + 1, f"stopped at poll {poll}"


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor"])
def test_any_optimizer_goes_on_as_if_it_had_never_stopped(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows, optimizer: str
) -> None:
    settings = {"optimizer": optimizer, "lr_scheduler": "cosine", "lora": Lora(r=64, alpha=8)}
    whole = weights(run(make_order(rows, **settings)))
    kept = stopped_after_step_4(make_order(rows, **settings), bases)
    assert same_adapter(weights(run(make_order(rows, checkpoint=kept, **settings))), whole)


def test_a_training_stopped_anywhere_and_resumed_tells_each_step_once(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it reads several at a time, and tells an epoch's last one when it is evaluated."""
    monkeypatch.setattr(loop, "READ_SECONDS", 3600)

    def order(checkpoint: Path | None = None) -> Train:
        return make_order(rows, valid=rows[:1], n_epochs=1, checkpoint=checkpoint)

    def told(reports: list[Report]) -> list[Metrics]:
        return [line.metrics for line in reports if isinstance(line, Stepped)]

    whole = told(run(order()))
    assert len(whole) == 3
    polls = len(rows) + 1 + 1 + 3 + 1 + 1
    for poll in range(len(rows) + 1, polls + 1):
        reports = run_until_stopped(order(), bases, StopAt(poll))
        kept = [line.folder for line in reports if isinstance(line, Checkpointed)]
        again = told(run(order(kept[-1] if kept else None)))
        assert same_metrics(told(reports) + again, whole), f"stopped at poll {poll}"


def test_a_resumed_training_says_where_it_goes_on(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path
) -> None:
    state = stopped / checkpoint.STATE
    before = json.loads(state.read_text())["seconds"]
    noted, started, step = run(make_order(rows, valid=rows[:2], checkpoint=stopped))[:3]
    assert isinstance(noted, Noted)
    assert (noted.level, noted.message) == ("info", "Resumed from the checkpoint of step 4.")
    assert noted.data
    assert noted.data["examined"]["way"] == "packed"
    assert isinstance(started, Started)
    assert started.progress.step == 4
    assert isinstance(step, Stepped)
    assert 0 < before < step.pace.elapsed_seconds


def test_a_stop_keeps_nothing_that_is_kept_already(
    bases: WarmBase, make_order: MakeOrder, rows: Rows, stopped: Path
) -> None:
    again = make_order(rows, valid=rows[:2], checkpoint=stopped)
    reports = run_until_stopped(again, bases, StopAt(len(rows) + 2 + 1))
    assert [line.type for line in reports] == ["noted", "started"]
    assert list(again.folder.iterdir()) == []


def test_checkpoints_are_written_by_time_and_at_each_epochs_end(
    bases: WarmBase, make_order: MakeOrder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, kept = 0.0, []

    def take_ten_seconds() -> None:
        nonlocal now
        now += 10

    def report(line: Report) -> None:
        if isinstance(line, Checkpointed):
            kept.append((line.metrics.step, line.epoch))

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setitem(armed, "engine.step", take_ten_seconds)
    order = make_order(rows).model_copy(update={"checkpoint_seconds": 20})
    train(order, bases, report, lambda: None)
    assert kept == [(2, 0), (3, 1), (5, 1), (6, 2)]


def forget_the_optimizer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checkpoint, "load_state", lambda *_: None)


def restart_the_schedule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "learning_rate", lambda step, *rest: learning_rate(step - 4, *rest))


def lose_the_position(patch: pytest.MonkeyPatch) -> None:
    """The epoch's first rows again, for the two steps that are left."""
    patch.setattr(
        loop, "rows_of_steps", lambda data, spec, _: islice(rows_of_steps(data, spec, 3), 2)
    )


def lose_the_dropout(patch: pytest.MonkeyPatch) -> None:
    """Its seeds count from the attempt's first step."""
    patch.setattr(
        arithmetic, "seed_of", lambda name, seed, step, micro: seed_of(name, seed, step - 4, micro)
    )


MUTATIONS = {
    "optimizer": forget_the_optimizer,
    "schedule": restart_the_schedule,
    "position": lose_the_position,
    "dropout": lose_the_dropout,
}


def noticed(forgotten: str, bases: WarmBase, folder: Path) -> bool:
    """Whether a training that is resumed in its second epoch without one part of its state ends in
    another adapter than an uninterrupted one. Its files lie in `folder`.
    """
    make_order, rows = orders_in(folder, folder), ten_chats()
    whole: list[Report] = []
    train(make_order(rows), bases, whole.append, lambda: None)
    kept = stopped_after_step_4(make_order(rows), bases)
    resumed: list[Report] = []
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[forgotten](patch)
        train(make_order(rows, checkpoint=kept), bases, resumed.append, lambda: None)
    return not same_adapter(weights(resumed), weights(whole))


@pytest.mark.parametrize("forgotten", MUTATIONS)
def test_a_training_that_forgets_a_part_of_its_state_is_noticed(
    forgotten: str, bases: WarmBase, tmp_path: Path
) -> None:
    assert noticed(forgotten, bases, tmp_path)


def test_a_training_stopped_after_its_last_epoch_is_only_published(
    run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    order = make_order(rows)
    whole = run(order)
    resumed = run(make_order(rows, checkpoint=order.folder / "checkpoint-6"))
    assert [line.type for line in resumed] == ["noted", "started", "finished"]
    assert same_adapter(weights(resumed), weights(whole))


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


def test_a_checkpoint_of_an_engine_that_rounded_otherwise_goes_on_with_a_word_of_warning(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that does not tell, as it was made before any did."""
    read = checkpoint.read

    def untold(folder: Path, spec: Any) -> checkpoint.Kept:
        kept = read(folder, spec)
        del kept.state["machine"][checkpoint.ARITHMETIC]
        return kept

    monkeypatch.setattr(checkpoint, "read", untold)
    noted = run(make_order(rows, valid=rows[:2], checkpoint=stopped))[0]
    assert isinstance(noted, Noted)
    assert "(engine's arithmetic 1 before, 2 now): from here" in noted.message


def test_on_a_gpu_nothing_is_said_to_go_on_bit_by_bit(
    run: Run, make_order: MakeOrder, rows: Rows, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "device", lambda: torch.device("cuda"))
    noted = run(make_order(rows, valid=rows[:2], checkpoint=stopped))[0]
    assert isinstance(noted, Noted)
    assert "a GPU adds up in another order each time): from here the result is" in noted.message
