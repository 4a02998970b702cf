"""What `auto` means: each setting a user left open, resolved to a number, with the reason."""

import math
from dataclasses import dataclass
from typing import Literal

Auto = Literal["auto"]

# Exponents of the learning rate's fall with width, per family: "LoRA Without Regret"
# (Thinking Machines, 2025). A family that is not listed gets the flat QLoRA rate.
LEARNING_RATE_EXPONENT = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}
QLORA_LEARNING_RATE = 2e-4


# A preference is learnt from small changes: as the recipes for DPO with
# adapters have it. Full fine-tuning takes a tenth of an adapter's rate.
DPO_LEARNING_RATE = 1e-5
FULL_SHARE = 0.1

MANY_ROWS = 20_000


@dataclass(frozen=True)
class Resolved:
    """Resolved settings. `batch_size` counts rows per optimizer step, `learning_rate` is the
    optimizer's peak rate with the multiplier in it. `reasons` has one sentence for each `auto`.
    """

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    reasons: dict[str, str]

    @property
    def hyperparameters(self) -> dict[str, int | float]:
        """Those that OpenAI's API has, by its names."""
        return {
            "n_epochs": self.n_epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }


def resolve(
    *,
    rows: int,
    architecture: str,
    hidden_size: int,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
    learning_rate: float | Auto = "auto",
    objective: str = "supervised",
    full: bool = False,
    max_steps: int | None = None,
) -> Resolved:
    """Keeps what the user named and decides the rest from the data and the base model. At most one
    of the rate and its multiplier is named.
    """
    reasons: dict[str, str] = {}
    epochs, reasons["n_epochs"] = epochs_for(rows)
    if n_epochs != "auto":
        epochs = n_epochs
        del reasons["n_epochs"]
    if batch_size == "auto":
        batch_size, reasons["batch_size"] = batch_size_for(rows, epochs)
    if n_epochs == "auto" and max_steps is not None:
        epochs = math.ceil(max_steps / math.ceil(rows / batch_size))
        reasons["n_epochs"] = f"as many as {max_steps} steps take"
    usual, why = learning_rate_for(architecture, hidden_size, objective=objective, full=full)
    if learning_rate != "auto":
        learning_rate_multiplier = learning_rate / usual
    else:
        reasons["learning_rate"] = why
        if learning_rate_multiplier == "auto":
            learning_rate_multiplier = 1.0
            reasons["learning_rate_multiplier"] = "1 keeps the base model's usual rate"
        learning_rate = usual * learning_rate_multiplier
    return Resolved(
        n_epochs=epochs,
        batch_size=batch_size,
        learning_rate_multiplier=learning_rate_multiplier,
        learning_rate=learning_rate,
        reasons=reasons,
    )


def epochs_for(rows: int) -> tuple[int, str]:
    """OpenAI's published rule: 3, so that between 100 and 25,000 rows are seen in all."""
    if 3 * rows < 100:
        epochs = min(25, math.ceil(100 / rows))
        return epochs, f"{rows} rows are few: {epochs} epochs show the model {epochs * rows}"
    if 3 * rows > 25_000:
        epochs = max(1, 25_000 // rows)
        shown = "1 epoch shows" if epochs == 1 else f"{epochs} epochs show"
        return epochs, f"{rows} rows are many: {shown} the model {epochs * rows}"
    return 3, "3 epochs suit a data set of this size"


def batch_size_for(rows: int, n_epochs: int) -> tuple[int, str]:
    """0.2 % of the rows, 8 to 64; smaller, down to 4, where that gives fewer than 100 steps."""
    size = min(64, max(8, round(0.002 * rows)))
    while size > 4 and n_epochs * math.ceil(rows / size) < 100:
        size -= 1
    size = min(size, rows)
    steps = n_epochs * math.ceil(rows / size)
    return size, f"{rows} rows, {n_epochs} times over, make {steps} optimizer steps"


def rank_for(rows: int) -> tuple[int, str]:
    if rows > MANY_ROWS:
        return 32, f"{rows} rows are many: r 32 holds more of them"
    return 16, "r 16 suits a data set of this size"


def learning_rate_for(
    architecture: str, hidden_size: int, *, objective: str, full: bool
) -> tuple[float, str]:
    if objective == "dpo":
        rate, why = DPO_LEARNING_RATE, "is the usual rate of DPO"
    elif (exponent := LEARNING_RATE_EXPONENT.get(architecture)) is None:
        rate, why = QLORA_LEARNING_RATE, "is the usual QLoRA rate"
    else:
        rate = min(5e-4, max(5e-5, 5e-4 * (2000 / hidden_size) ** exponent))
        why = f"suits a {architecture} model of width {hidden_size}"
    if full:
        return rate * FULL_SHARE, f"a tenth of {rate:.2g}, which {why}: all weights move"
    return rate, f"{rate:.2g} {why}"
