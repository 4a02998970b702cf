"""The arithmetic of a training: one step, its figures, an evaluation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tunery.data.incomplete import Lines
from tunery.failpoint import failpoint
from tunery.measured import Metrics
from tunery.spec import TrainingSpec
from worker.engine.data.batches import cut, packing
from worker.engine.data.rows import TokenRow, lengths_of
from worker.engine.errors import NOT_FINITE, Untrainable
from worker.engine.ranks import together
from worker.engine.seeds import seed, seed_of
from worker.engine.training.objectives.objective import Objective
from worker.engine.training.optimizer import TIMES, trained_by
from worker.engine.training.slot import Slot, Taken

# Of the rows that are evaluated, those whose own loss is kept.
ROWS_MEASURED = 200
UNTRAINED = (
    "Nothing was trained before that: the model as it was gives these rows no finite number. Take "
    "out unusual rows, or choose another base model or training.quantization."
)


def take_step(
    slot: Slot,
    objective: Objective,
    rows: Sequence[TokenRow],
    rate: float,
    spec: TrainingSpec,
    stop_if_asked: Callable[[], None],
) -> None:
    """One optimizer step on drawn `rows` at the learning rate `rate`, in as many micro-steps as the
    plan cuts it into. Nothing in it waits for the device: its figures stay `unread` in the slot. A
    stop or an error before its update leaves the slot as before, but for gradients that nobody
    reads.

    The loss is the mean over the terms of the whole step, so how it is cut does not change it, but
    for the masks of dropout, which each micro-step has its own of, wherever it is computed.
    """
    failpoint("engine.step")
    if not slot.model.training:  # which takes a twentieth of a small step
        slot.model.train()
    terms = max(1, objective.terms(rows))  # none: of masks that chance has left out
    sums = torch.zeros(1 + len(objective.figures), device=slot.model.device)
    parameters = trained_by(slot.optimizer)

    def compute(micro_step: int, piece: Sequence[TokenRow]) -> None:
        stop_if_asked()
        seed(slot.model.device, seed_of("dropout", spec.seed, slot.step, micro_step))
        losses, figures = objective.score(slot, piece)
        loss = losses.sum()
        torch.autograd.backward(loss / terms)
        sums.add_(torch.cat([loss.detach()[None], figures]))

    pieces = cut(rows, slot.plan, spec.micro_batch_size)
    together.agreed(partial(slot.each, pieces, tokens_of, compute), slot.step)
    if together.count() > 1:
        together.add_up([*map(gradient_of, parameters), sums])
    norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
    for group in slot.optimizer.param_groups:
        group["lr"] = rate * group.get(TIMES, 1.0)
    slot.optimizer.step()
    slot.optimizer.zero_grad()
    slot.step += 1
    slot.tokens += tokens_of(rows)
    slot.trained_tokens += sum(row.trained_tokens for row in rows)
    slot.unread.append(
        Taken(
            step=slot.step,
            rate=rate,
            lines=[row.line for row in rows],
            trained_tokens=slot.trained_tokens,
            figures=torch.cat([sums / terms, norm[None]]),
        )
    )


def tokens_of(rows: Sequence[TokenRow]) -> int:
    return sum(len(row.ids) for row in rows)


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Zeros where this process has computed none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def read_steps(
    slot: Slot,
    objective: Objective,
    epoch_steps: int,
    tell: Callable[[list[tuple[Metrics, int]]], None],
) -> list[tuple[Metrics, int]]:
    """Waits for the device and takes the unread steps into the history. Returns their metrics, each
    with the tokens trained up to it. An epoch has `epoch_steps`.

    Raises:
        Untrainable: the loss of a step or its gradient is not finite, and so the adapter is spoilt.
            Those before it go to `tell`.

    """
    if not slot.unread:
        return []
    news: list[tuple[Metrics, int]] = []
    figures = torch.stack([taken.figures for taken in slot.unread]).tolist()
    for taken, (loss, *measured, norm) in zip(slot.unread, figures, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            tell(news)
            # Before the first update the rate has done nothing yet.
            remedy = "Choose a smaller learning_rate_multiplier, or fix these rows."
            raise Untrainable(
                NOT_FINITE,
                f"Step {taken.step}: the loss is {loss}, its gradient's norm {norm}, on "
                f"{Lines.of(sorted(set(taken.lines)))} of the training file. "
                f"{UNTRAINED if taken.step == 1 else remedy}",
            )
        metrics = Metrics(
            step=taken.step,
            learning_rate=taken.rate,
            grad_norm=norm,
            epoch=taken.step / epoch_steps,
            **named("train", objective, [loss, *measured]),
        )
        news.append((metrics, taken.trained_tokens))
    slot.history += [metrics for metrics, _ in news]
    slot.unread.clear()
    return news


@dataclass(frozen=True)
class Evaluated:
    """`values` by `Metrics`' names, and the loss of each of the first rows, in their order."""

    values: dict[str, float]
    row_losses: list[float]


@torch.no_grad()
def evaluate(
    slot: Slot,
    objective: Objective,
    rows: Sequence[TokenRow],
    spec: TrainingSpec,
    stop_if_asked: Callable[[], None],
) -> Evaluated:
    """The loss and the figures of drawn rows with dropout off.

    Raises:
        Untrainable: that loss is not finite.

    """
    failpoint("engine.evaluating")
    slot.model.eval()
    device = slot.model.device
    sums = torch.zeros(1 + len(objective.figures), dtype=torch.float64, device=device)
    row_losses = torch.zeros(min(ROWS_MEASURED, len(rows)), device=device)
    lengths = lengths_of(rows)

    own_terms = 0

    def compute(_: int, numbers: Tensor) -> None:
        nonlocal own_terms
        stop_if_asked()
        piece = [rows[number] for number in numbers.tolist()]
        losses, figures = objective.score(slot, piece)
        sums.add_(torch.cat([losses.sum()[None], figures]))
        counts = [objective.terms([row]) for row in piece]
        own_terms += sum(counts)
        parts = torch.split(losses, counts)
        for number, part in zip(numbers.tolist(), parts, strict=True):
            if number < len(row_losses) and len(part):
                row_losses[number] = part.mean()

    pieces = packing(lengths, slot.plan.micro_tokens, spec.micro_batch_size)
    together.agreed(
        partial(slot.each, pieces, lambda piece: int(lengths[piece].sum()), compute), slot.step
    )
    terms = together.total(own_terms)
    together.add_up([sums])
    together.add_up([row_losses])
    means = (sums / max(1, terms)).tolist()
    if not math.isfinite(means[0]):
        raise Untrainable(
            NOT_FINITE,
            f"After step {slot.step} the validation loss is {means[0]}. "
            f"{'Choose a smaller learning_rate_multiplier.' if slot.step else UNTRAINED}",
        )
    return Evaluated(named("valid", objective, means), row_losses.tolist())


def named(prefix: str, objective: Objective, means: list[float]) -> dict[str, float]:
    names = ("loss", *objective.figures)
    return {f"{prefix}_{name}": mean for name, mean in zip(names, means, strict=True)}
