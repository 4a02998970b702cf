"""What `auto` becomes."""

from typing import Any

import pytest

from tunery.plan import auto
from tunery.plan.auto import Resolved


def resolve(rows: int, **named: Any) -> Resolved:
    base: dict[str, Any] = {"architecture": "llama", "hidden_size": 4096}
    return auto.resolve(rows=rows, **base | named)


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(1, 25), (3, 25), (10, 10), (33, 4), (34, 3), (8_333, 3), (8_334, 2), (12_501, 1), (10**6, 1)],
)
def test_few_rows_are_seen_more_often_and_many_less(rows: int, epochs: int) -> None:
    assert resolve(rows).n_epochs == epochs


@pytest.mark.parametrize(
    ("rows", "n_epochs", "batch_size"),
    [
        (10_000, 3, 20),  # 0.2 %
        (10**6, 1, 64),  # the most
        (400, 3, 8),  # the least that needs no reason
        (200, 3, 6),  # 102 steps; 7 would make 87
        (100, 3, 4),  # 75 steps, and no smaller
        (3, 3, 3),  # no more than there are rows
    ],
)
def test_a_batch_is_a_fraction_of_the_rows_that_leaves_100_steps(
    rows: int, n_epochs: int, batch_size: int
) -> None:
    assert resolve(rows, n_epochs=n_epochs).batch_size == batch_size


@pytest.mark.parametrize(
    ("architecture", "width", "rate"),
    [
        ("llama", 2000, 5e-4),
        ("llama", 4096, 5e-4 * (2000 / 4096) ** 0.781),
        ("qwen3", 4096, 5e-4 * (2000 / 4096) ** 0.0775),
        ("llama", 128, 5e-4),  # the most
        ("llama", 100_000, 5e-5),  # the least
        ("unheard-of", 4096, 2e-4),
    ],
)
def test_the_rate_falls_with_the_width_as_far_as_the_family_is_known(
    architecture: str, width: int, rate: float
) -> None:
    found = resolve(400, architecture=architecture, hidden_size=width).learning_rate
    assert found == pytest.approx(rate)


def test_the_multiplier_scales_the_rate() -> None:
    rate = resolve(400).learning_rate
    assert resolve(400, learning_rate_multiplier=0.5).learning_rate == pytest.approx(rate / 2)


def test_what_the_user_named_is_kept_and_needs_no_reason() -> None:
    resolved = resolve(5, n_epochs=40, batch_size=200, learning_rate_multiplier=2)
    assert (resolved.n_epochs, resolved.batch_size) == (40, 200)
    assert resolved.learning_rate_multiplier == 2
    assert set(resolved.reasons) == {"learning_rate"}


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        (2, "n_epochs", "25 epochs show the model 50"),
        (400, "n_epochs", "3 epochs suit a data set of this size"),
        (30_000, "n_epochs", "1 epoch shows the model 30000"),
        (2, "batch_size", "make 25 optimizer steps"),
    ],
)
def test_a_reason_states_what_the_setting_brings(rows: int, name: str, reason: str) -> None:
    assert reason in resolve(rows).reasons[name]


def test_every_auto_has_a_reason() -> None:
    settings = {"n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate"}
    assert set(resolve(400).reasons) == settings
