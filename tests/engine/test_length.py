"""How long a training is, and what of its file it is validated on."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.engine.data.cached import KnownData
from worker.engine.errors import Untrainable
from worker.engine.model.base import Base
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.prepare import read_files
from worker.protocol import Checkpointed, Noted, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]


def test_a_training_ends_after_its_most_steps_with_an_evaluation_and_a_checkpoint(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    order = make_order(rows, valid=rows[:2], max_steps=4, warmup_steps=2, n_epochs=3)
    reports = run(order)
    steps = [line for line in reports if isinstance(line, Stepped)]
    assert [line.metrics.step for line in steps] == [1, 2, 3, 4]
    assert [line.progress.total_steps for line in steps] == [4] * 4
    assert [line.metrics.valid_loss is None for line in steps] == [True, True, False, False]
    assert [line.metrics.step for line in reports if isinstance(line, Checkpointed)] == [3, 4]
    peak = order.spec.learning_rate
    assert [line.metrics.learning_rate for line in steps] == [peak / 2, peak, peak, peak / 2]


def test_a_share_of_the_training_file_is_validated_on_and_never_trained_on(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]], base: Base
) -> None:
    order = make_order(rows, validation_split=0.2)
    data, valid = read_files(order, NextToken(order.spec), base.folder, KnownData(), lambda: None)
    assert valid
    held_out = {row.line for row in valid.rows}
    assert (len(rows), len(held_out)) == (10, 2)
    assert {row.line for row in data.rows} == set(range(1, 11)) - held_out
    _, again = read_files(order, NextToken(order.spec), base.folder, KnownData(), lambda: None)
    assert again
    assert {row.line for row in again.rows} == held_out
    reports = run(order)
    assert "2 rows of the training file" in " ".join(
        line.message for line in reports if isinstance(line, Noted)
    )
    last = [line for line in reports if isinstance(line, Stepped)][-1]
    assert last.metrics.valid_loss is not None
    one_row = make_order(rows[:1], validation_split=0.2)
    with pytest.raises(Untrainable, match="validation_split leaves nothing"):
        run(one_row)
