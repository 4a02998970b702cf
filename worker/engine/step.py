"""The arithmetic of a training: one step, its figures, an evaluation."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunery.failpoint import failpoint
from tunery.messages import Metrics
from tunery.spec import TrainingSpec
from worker.engine.data import Batch, TokenRow, named_lines, packed
from worker.engine.errors import Untrainable
from worker.engine.loss import token_nll
from worker.engine.seeds import seed_of
from worker.engine.slot import Slot, Taken, adapter_parameters


def take_step(
    slot: Slot,
    rows: Sequence[TokenRow],
    rate: float,
    spec: TrainingSpec,
    stop_if_asked: Callable[[], None],
) -> None:
    """One optimizer step on `rows` at the learning rate `rate`, in as many micro-steps as the plan
    cuts it into. Nothing in it waits for the device: its figures stay `unread` in the slot. A stop
    or an error before its update leaves the slot as before, but for gradients that nobody reads.

    The loss is the summed NLL over the trained tokens of the whole step, so how it is cut does not
    change it, but for the masks of dropout, which each micro-step has its own of.
    """
    failpoint("engine.step")
    slot.model.train()
    tokens = sum(row.trained_tokens for row in rows)
    sums = torch.zeros(2, device=slot.model.device)
    for micro_step, piece in enumerate(packed(rows, slot.plan.micro_tokens)):
        stop_if_asked()
        torch.manual_seed(seed_of("dropout", spec.seed, slot.step, micro_step))
        nll, right = score(slot, Batch.of(piece, slot.model.device))
        torch.autograd.backward(nll / tokens)
        sums += torch.stack([nll.detach(), right])
    parameters = adapter_parameters(slot.model).values()
    norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
    for group in slot.optimizer.param_groups:
        group["lr"] = rate
    slot.optimizer.step()
    slot.optimizer.zero_grad()
    slot.step += 1
    slot.trained_tokens += tokens
    slot.unread.append(
        Taken(
            step=slot.step,
            lines=[row.line for row in rows],
            tokens=tokens,
            trained_tokens=slot.trained_tokens,
            figures=torch.cat([sums, norm[None]]),
        )
    )


def read_steps(
    slot: Slot, tell: Callable[[list[tuple[Metrics, int]]], None]
) -> list[tuple[Metrics, int]]:
    """Waits for the device and takes the unread steps into the history. Returns their metrics, each
    with the tokens trained up to it.

    Raises:
        Untrainable: the loss of a step or its gradient is not finite, and so the adapter is spoilt.
            Those before it go to `tell`.

    """
    if not slot.unread:
        return []
    news: list[tuple[Metrics, int]] = []
    figures = torch.stack([taken.figures for taken in slot.unread]).tolist()
    for taken, (nll, right, norm) in zip(slot.unread, figures, strict=True):
        loss = nll / taken.tokens
        if not (math.isfinite(loss) and math.isfinite(norm)):
            tell(news)
            raise Untrainable(
                "loss_not_finite",
                f"Step {taken.step}: the loss is {loss}, its gradient's norm {norm}, on "
                f"{named_lines(sorted(taken.lines))} of the training file. "
                "Choose a smaller learning_rate_multiplier, or mend these rows.",
            )
        accuracy = right / taken.tokens
        metrics = Metrics(step=taken.step, train_loss=loss, train_mean_token_accuracy=accuracy)
        news.append((metrics, taken.trained_tokens))
    slot.history += [metrics for metrics, _ in news]
    slot.unread.clear()
    return news


def score(slot: Slot, batch: Batch) -> tuple[Tensor, Tensor]:
    """(summed NLL in nats, right next tokens) over a batch's trained tokens; 0-d, NLL in fp32."""
    hidden = slot.causal.get_decoder()(
        input_ids=batch.ids,
        position_ids=batch.positions,
        documents=batch.documents,
        use_cache=False,
    ).last_hidden_state
    predicting = hidden[0].index_select(0, batch.before)
    losses, right = token_nll(predicting, slot.causal.get_output_embeddings().weight, batch.labels)
    return losses.sum(), right.sum()


@torch.no_grad()
def evaluate(
    slot: Slot, rows: Sequence[TokenRow], stop_if_asked: Callable[[], None]
) -> tuple[float, float]:
    """(summed NLL / trained tokens in nats, fraction of right next tokens), dropout off.

    Raises:
        Untrainable: that loss is not finite.

    """
    failpoint("engine.evaluating")
    slot.model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=slot.model.device)
    for piece in packed(rows, slot.plan.micro_tokens):
        stop_if_asked()
        sums += torch.stack(score(slot, Batch.of(piece, slot.model.device)))
    nll, right = sums.tolist()
    if not math.isfinite(nll):
        raise Untrainable(
            "loss_not_finite",
            f"After step {slot.step} the validation loss is {nll}. "
            "Choose a smaller learning_rate_multiplier.",
        )
    tokens = sum(row.trained_tokens for row in rows)
    return nll / tokens, right / tokens
