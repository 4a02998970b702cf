"""Several processes train as one does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.engine.conftest import ON_CPU, PLAN, MakeOrder, Run, on_base
from tests.engine.encoders import encoder, texts
from tests.engine.test_preference import pairs
from tests.ranks.deep import deep, planned
from tests.ranks.forked import run_by
from tunery.spec import Lora, MaskedLm, Preference
from worker.engine.errors import StopAsked
from worker.engine.ranks.together import dealt
from worker.protocol import Checkpointed, Finished, Report, Stepped, Train

LOSSES, WEIGHTS = 1e-6, 1e-5
MakeJob = Callable[..., Train]

pytestmark = pytest.mark.skipif(not ON_CPU, reason="CUDA does not survive a fork")


@pytest.fixture(autouse=True)
def cut_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is several packed micro-steps, whoever takes it."""
    plan = PLAN.model_copy(update={"micro_tokens": 100, "gpus": 2})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)


@pytest.fixture(params=["supervised", "dpo", "masked_lm"])
def make_job(
    request: pytest.FixtureRequest,
    make_order: MakeOrder,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> MakeJob:
    if request.param == "supervised":
        return lambda **more: make_order(rows, valid=rows[:3], samples=1, **more)
    if request.param == "dpo":
        how = {"objective": Preference(), "lora": Lora(r=4, alpha=8, dropout=0.3)}
        return lambda **more: make_order(pairs(8), valid=pairs(3), **how, **more)
    folder = encoder(tmp_path / "bert", "bert")
    limits: dict[str, Any] = {"objective": MaskedLm(), "overflow": "split", "max_length": 16}
    return lambda **more: on_base(make_order(texts(8), valid=texts(3), **limits, **more), folder)


def test_two_processes_take_the_steps_of_one(run: Run, make_job: MakeJob) -> None:
    """Dropout, packed rows, the validation file and answers included."""
    assert_same(run_by(2)(make_job()), run(make_job()))


def test_two_processes_with_half_of_the_base_each_take_the_steps_of_one(
    run: Run,
    make_order: MakeOrder,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In NF4, with a part of the layers computed again. `tests/ranks/test_divided.py` has more."""
    folder, how = deep(tmp_path), {"checkpointing": True, "recomputed_layers": 2}
    planned(monkeypatch, **how)
    alone = run(on_base(make_order(rows, valid=rows[:3], n_epochs=1), folder))
    planned(monkeypatch, divided=True, **how)
    both = run_by(2)(on_base(make_order(rows, valid=rows[:3], n_epochs=1), folder))
    assert_same(both, alone)


def assert_same(ones: list[Report], others: list[Report]) -> None:
    assert [line.type for line in ones] == [line.type for line in others]
    assert figures(ones) == [
        pytest.approx(step, rel=LOSSES, abs=LOSSES) for step in figures(others)
    ]
    one, other = adapter(ones), adapter(others)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() <= WEIGHTS, name


def figures(reports: list[Report]) -> list[dict[str, float]]:
    return [
        line.metrics.model_dump(exclude_none=True) for line in reports if isinstance(line, Stepped)
    ]


def adapter(reports: list[Report]) -> dict[str, Any]:
    last = reports[-1]
    assert isinstance(last, Finished)
    return load_file(last.folder / "adapter_model.safetensors")


def stop_at(step: int) -> Callable[[list[Report]], None]:
    def stop(reports: list[Report]) -> None:
        if sum(isinstance(line, Stepped) for line in reports) == step:
            raise StopAsked(checkpoint=True)

    return stop


def test_another_number_of_processes_goes_on_from_where_all_stopped(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    whole = run(make_order(rows, valid=rows[:3]))
    *_, kept = run_by(2, stop_at(2))(make_order(rows, valid=rows[:3]))
    assert isinstance(kept, Checkpointed)
    alone = run(make_order(rows, valid=rows[:3], checkpoint=kept.folder))
    assert "processes 2 before, 1 now" in str(alone[0])
    assert figures(alone) == [
        pytest.approx(step, rel=LOSSES, abs=LOSSES) for step in figures(whole)[2:]
    ]
    kept_by_one = next(line for line in whole if isinstance(line, Checkpointed)).folder
    both = run_by(2)(make_order(rows, valid=rows[:3], checkpoint=kept_by_one))
    assert_same(alone[-1:], both[-1:])


def test_rows_are_dealt_in_parts_of_nearly_the_same_size() -> None:
    assert dealt([5, 3, 3, 2, 2, 1], 2) == [[0, 3, 5], [1, 2, 4]]
    assert dealt([4], 3) == [[0], [], []]
