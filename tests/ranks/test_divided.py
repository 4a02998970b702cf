"""A base that is divided among two processes is trained as a whole one is."""

import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.conftest import ON_CPU, MakeOrder, Run, on_base
from tests.engine.test_preference import pairs
from tests.engine.test_ranks import assert_same, stop_at
from tests.ranks.deep import FAMILIES, deep, planned
from tests.ranks.forked import ended, meet, run_by, start, take_part
from tunery.plan.choice import least
from tunery.plan.divided import DIVIDED, divided
from tunery.plan.memory import ADMITTED, Needs, Precision
from tunery.spec import Lora, Preference
from worker.engine.data.cached import KnownData
from worker.engine.model.base import WarmBase, load
from worker.engine.proof.family import verdict_on
from worker.engine.ranks import together
from worker.engine.ranks.shards import Shards
from worker.engine.training.prepare import objective_of, read_files
from worker.protocol import Checkpointed, Train

MakeJob = Callable[..., Train]
Rows = list[dict[str, Any]]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not ON_CPU, reason="CUDA does not survive a fork"),
]


@pytest.fixture(params=["supervised", "dpo"])
def make_job(
    request: pytest.FixtureRequest, make_order: MakeOrder, rows: Rows, tmp_path: Path
) -> MakeJob:
    folder = deep(tmp_path)
    # With its usual one AdamW turns the rounding of a gradient that is almost 0 into a step.
    how: dict[str, Any] = {"adam_epsilon": 1e-6}
    if request.param == "supervised":
        return lambda: on_base(make_order(rows, valid=rows[:3], samples=1, **how), folder)
    how |= {"objective": Preference(), "lora": Lora(r=4, alpha=8, dropout=0.3)}
    return lambda: on_base(make_order(pairs(8), valid=pairs(3), **how), folder)


@pytest.mark.parametrize(
    ("quantization", "recomputes"),
    [
        ("nf4", {}),
        ("none", {"checkpointing": True}),
        ("fp4", {"checkpointing": True, "recomputed_layers": 2}),
    ],
)
def test_two_processes_with_half_of_the_base_each_take_the_steps_of_one(
    run: Run,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    recomputes: dict[str, Any],
) -> None:
    planned(monkeypatch, quantization=quantization, **recomputes)
    alone = run(make_job())
    planned(monkeypatch, quantization=quantization, divided=True, **recomputes)
    assert_same(run_by(2)(make_job()), alone)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_that_is_divided(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """With adapters on few layers: the weights of the others are what autograd keeps."""
    folder = deep(tmp_path, family)
    which = r".*[23]\.(attn\.c_attn|self_attn\.(q_proj|qkv_proj))"
    lora = Lora(r=4, alpha=8, target_modules=which)
    planned(monkeypatch, quantization="none")
    alone = run(on_base(make_order(rows, n_epochs=1, lora=lora), folder))
    planned(monkeypatch, quantization="none", divided=True)
    assert_same(run_by(2)(on_base(make_order(rows, n_epochs=1, lora=lora), folder)), alone)


def test_all_families_that_are_divided_are_tried() -> None:
    assert FAMILIES.keys() == DIVIDED


def test_a_job_goes_on_whole_from_where_it_was_divided_and_the_other_way_round(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, words = deep(tmp_path), "among which the base's layers are divided"

    def make(**more: Any) -> Train:
        lora = Lora(r=4, alpha=8)
        how = {"valid": rows[:3], "quantization": "none", "lora": lora, **more}
        return on_base(make_order(rows, **how), folder)

    def within(memory: float) -> None:
        monkeypatch.setattr(together, "memory", lambda: math.ceil(memory))

    whole, half = leasts(make())
    assert half < whole
    within(2 * whole)
    steps = run(make())
    within((whole + half) / 2 / ADMITTED)
    *begun, kept = run_by(2, stop_at(2))(make())
    assert words in str(begun)
    assert isinstance(kept, Checkpointed)
    kept_whole = next(line.folder for line in steps if isinstance(line, Checkpointed))
    both = run_by(2)(make(checkpoint=kept_whole))
    assert words in str(both)
    assert_same(both[-1:], steps[-1:])
    within(2 * whole)
    alone = run(make(checkpoint=kept.folder))
    assert f"{words} before, unquantized base, micro" in str(alone)
    assert_same(alone[-1:], steps[-1:])


def leasts(order: Train) -> tuple[int, int]:
    """The least memory for the training with the base whole, and of two processes each."""
    folder = WarmBase().open(order.base_folder, "r1", order.cache, order.base_files)
    objective = objective_of(order.spec, folder)
    data, _ = read_files(order, objective, folder, KnownData(), lambda: None)
    footprint = verdict_on(folder).footprints.get("fp32")
    needs = Needs.of(folder.shape, order.spec, "fp32", data.bytes, footprint)
    longest = int(data.rows.lengths.max())
    whole, half = (least(needs, order.spec.quantization, longest, gpus) for gpus in (1, 2))
    return whole, half


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_process_holds_its_part_and_room_for_two_layers(
    make_order: MakeOrder, rows: Rows, tmp_path: Path, quantization: Precision
) -> None:
    order = on_base(make_order(rows), deep(tmp_path))
    folder = WarmBase().open(order.base_folder, "r1", order.cache, order.base_files)
    needs = Needs(folder.shape, "fp32", Lora())
    dense = 4 * folder.shape.largest_layer if quantization == "nf4" else 0  # while it computes

    def measure(rank: int) -> None:
        meet(rank, 2, tmp_path / "meeting")
        own = partial(load, folder, quantization, dequantized=False, divided=True)
        base = together.in_turn(own)  # the first leaves its quantized copy to the others
        assert base.shards
        held = held_bytes(base.model, base.shards)
        planned = divided(needs, quantization, 2).base(quantization) - dense
        assert planned < needs.base(quantization) - dense
        assert held == pytest.approx(planned, rel=0.03), "norms and biases are not planned"

    both = [start(partial(measure, rank)) for rank in range(2)]
    assert [ended(each) for each in both] == [0, 0]


def held_bytes(model: nn.Module, shards: Shards) -> int:
    tensors = [*model.parameters(), *model.buffers(), *shards.parts, *shards.rooms]
    states = [getattr(each, "quant_state", None) for each in model.parameters()]
    tensors += [state.absmax for state in states if state is not None]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def fail_once(
    patch: pytest.MonkeyPatch, name: str, place: Callable[[Shards, int], bool], fail: Any
) -> None:
    """Where a process is at such a place in a layer."""
    usual, left = getattr(Shards, name), [1]

    def passed(shards: Shards, number: int, *given: Any) -> None:
        usual(shards, number, *given)
        if left[0] and place(shards, number):
            left[0] -= 1
            fail()

    patch.setattr(Shards, name, passed)


def run_out(*_: object) -> None:
    raise torch.OutOfMemoryError("there is none left")


@pytest.mark.parametrize("place", ["in a forward pass", "in a backward pass", "at an answer"])
def test_a_process_that_runs_out_of_memory_keeps_none_waiting(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """All of them take the step again, cut smaller; what is to be answered is asked again."""
    folder = deep(tmp_path)

    def make() -> Train:
        how = {"valid": rows[:3], "n_epochs": 1, "samples": 2, "lora": Lora(r=4, alpha=8)}
        return on_base(make_order(rows, **how), folder)

    planned(monkeypatch, quantization="nf4")
    alone = run(make())
    planned(monkeypatch, quantization="nf4", divided=True)
    at_two: Callable[[Shards, int], bool]
    if place == "at an answer":
        at_two = lambda shards, number: shards.leads and number == 2  # noqa: E731
        fail_once(monkeypatch, "before_forward", at_two, run_out)
    else:
        name = "before_forward" if "forward" in place else "before_backward"
        at_two = lambda _, number: (  # noqa: E731
            torch.is_grad_enabled() == ("forward" in place) and number == 2 and together.rank() == 1
        )
        fail_once(monkeypatch, name, at_two, run_out)
    both = run_by(2)(make())
    cut = "ran out of memory; it is tried again" in str(both)
    assert cut == (place != "at an answer")
    assert_same(both[-1:], alone[-1:])


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_in_a_layer_ends_the_attempt(
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: int,
) -> None:
    planned(monkeypatch, quantization="nf4", divided=True)
    order = on_base(make_order(rows, valid=rows[:3], samples=1), deep(tmp_path))
    said = order.folder.with_suffix(".said")
    trains: Callable[[Shards, int], bool] = lambda shards, number: (  # noqa: E731
        together.rank() == victim and shards.returning and number == 2
    )
    fail_once(monkeypatch, "before_backward", trains, lambda: os.kill(os.getpid(), signal.SIGKILL))
    both = [start(partial(take_part, order, rank, 2, said)) for rank in range(2)]
    codes = [ended(each) for each in both]
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1, "the other one has noticed, and says so"
