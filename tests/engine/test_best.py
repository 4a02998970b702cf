"""The best weights on the validation file, and an end before the last step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import same_adapter
from tests.engine.test_checkpoint import weights
from tunery.measured import Metrics
from tunery.spec import Lora, TrainingSpec
from worker.engine.training.best import best_of, ends_early, published_of
from worker.protocol import Finished, Noted, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("losses", "best", "ends"),
    [
        ([], None, False),
        ([3.0], 2, False),
        ([3.0, 2.0, 2.5], 4, False),
        ([3.0, 2.0, 2.0, 2.5], 4, True),  # equal is no better
        ([3.0, 3.5, 2.0, 2.5], 6, False),
    ],
)
def test_the_best_is_the_least_and_patience_counts_from_it(
    make_order: MakeOrder, rows: Rows, losses: list[float], best: int | None, *, ends: bool
) -> None:
    spec: TrainingSpec = make_order(rows, early_stopping_patience=2).spec
    history = []
    for number, loss in enumerate(losses):
        history += [Metrics(step=2 * number + 1), Metrics(step=2 * number + 2, valid_loss=loss)]
    found = best_of(history)
    assert (found and found.step) == best
    assert ends_early(history, spec) is ends
    assert not ends_early(history, spec.model_copy(update={"early_stopping_patience": None}))
    if history:
        assert published_of(history, spec) is history[-1]
        kept = published_of(history, spec.model_copy(update={"load_best_model_at_end": True}))
        assert kept is found


def texts(question: str, answers: str) -> Rows:
    return [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for answer in answers.split(", ")
    ]


# What it learns first helps, and then harms: the answers of both files begin alike.
TRAINING = texts("What is it?", "the sea the sea, the sea the sea")
VALIDATION = texts("What is it?", "the sea a boat")
SETTINGS: dict[str, Any] = {
    "lora": Lora(r=4, alpha=8, dropout=0.1),
    "n_epochs": 12,
    "batch_size": 2,
    "lr_scheduler": "constant",
    "early_stopping_patience": 3,
    "load_best_model_at_end": True,
}


@pytest.mark.parametrize("kind", [{}, {"lora": None, "quantization": "none"}])
def test_it_ends_early_publishes_the_best_and_goes_on_from_any_checkpoint_the_same(
    run: Run, make_order: MakeOrder, kind: dict[str, Any]
) -> None:
    def order(checkpoint: Path | None = None, **changed: Any) -> Train:
        settings = SETTINGS | kind | changed
        return make_order(TRAINING, valid=VALIDATION, checkpoint=checkpoint, **settings)

    def result(reports: list[Report]) -> bytes:
        if not kind:
            return weights(reports)
        last = reports[-1]
        assert isinstance(last, Finished)
        return (last.folder / "model.safetensors").read_bytes()

    first = order()
    reports = run(first)
    steps = [line for line in reports if isinstance(line, Stepped)]
    losses = [line.metrics.valid_loss or 0 for line in steps]
    best = 1 + losses.index(min(losses))
    assert 1 < best < 9
    assert len(steps) == best + 3
    assert (steps[-1].progress.step, steps[-1].progress.total_steps) == (best + 3, best + 3)
    said = [line.message for line in reports if isinstance(line, Noted)]
    assert any(f"ended after step {best + 3}: 3 evaluations in a row" in line for line in said)
    assert any(f"The weights of step {best} are published" in line for line in said)
    last = reports[-1]
    assert isinstance(last, Finished)
    card = (last.folder / "README.md").read_text()
    assert f"those of step {best}, the best" in card
    assert f" over {best + 3} epochs |" in card
    assert "| 0.01, constant; weight decay" in card
    to_best = order(n_epochs=best, early_stopping_patience=None, load_best_model_at_end=False)
    assert same_adapter(result(run(to_best)), result(reports))
    for step in (1, best, best + 1, best + 3):
        again = run(order(first.folder / f"checkpoint-{step}"))
        assert same_adapter(result(again), result(reports)), step
        taken = [line for line in again if isinstance(line, Stepped)]
        assert len(taken) == best + 3 - step
