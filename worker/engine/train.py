"""The training of one job: a function of its spec, its data and its base model."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypedDict

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunery.failpoint import failpoint
from tunery.messages import Metrics, Progress
from tunery.spec import TrainingSpec
from worker.engine import checkpoint, export
from worker.engine.base import Base
from worker.engine.data import (
    NOT_TRAINED,
    Batch,
    TokenRow,
    TokenRows,
    micro_batches,
    named_lines,
    read_data,
    rows_of_steps,
    steps_per_epoch,
)
from worker.engine.errors import DiskFull, StopAsked, Untrainable
from worker.engine.seeds import seed_of
from worker.engine.slot import Slot, adapted, adapter_parameters, new_slot
from worker.protocol import Checkpointed, Finished, Noted, Report, Started, Stepped, Train


class Whose(TypedDict):
    job_id: str
    token: int


def train(
    order: Train,
    base: Base,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """Trains one job from its start or its checkpoint to the exported adapter.

    `stop_if_asked` is called at each micro-step, and each row read. It raises `StopAsked` to end
    the attempt, which leaves a checkpoint of the last whole step if asked to.

    Raises:
        StopAsked: from `stop_if_asked`.
        Untrainable: data or settings that no machine can train.
        CheckpointRefused: see `checkpoint.load`.
        DiskFull: the adapter cannot be written.

    """
    spec, whose = order.spec, Whose(job_id=order.job_id, token=order.token)
    data, valid = read_files(order, base, stop_if_asked)
    epoch_steps = steps_per_epoch(data, spec)
    total_steps = spec.n_epochs * epoch_steps
    with adapted(base.model, spec) as model:
        slot = new_slot(model, spec)
        if order.checkpoint is not None:
            changed = checkpoint.load(order.checkpoint, slot, spec)
            report(resumed(whose, slot, changed))
        else:
            for file in filter(None, (data, valid)):
                level, facts = "info" if file.whole else "warn", file.facts()
                report(Noted(**whose, level=level, message=file.summary(), data=facts))
            if valid:
                slot.base_valid_loss, _ = evaluate(model, valid.rows, stop_if_asked)
                report(base_noted(whose, slot.base_valid_loss))
        progress = Progress(
            step=slot.step, total_steps=total_steps, trained_tokens=slot.trained_tokens
        )
        report(Started(**whose, progress=progress))
        began = kept_at = time.monotonic()
        resumed_at = slot.step
        # The stop may have come between an epoch's last step and its evaluation.
        owed = bool(
            valid
            and slot.history
            and slot.step % epoch_steps == 0
            and slot.history[-1].valid_loss is None
        )
        first = slot.step - owed
        try:
            for step, rows in enumerate(rows_of_steps(data, spec, first), start=first):
                if slot.step == step:  # else only its evaluation is owed
                    slot.history.append(take_step(slot, rows, spec, total_steps, stop_if_asked))
                metrics, ends_epoch = slot.history[-1], slot.step % epoch_steps == 0
                if valid and ends_epoch:
                    loss, accuracy = evaluate(model, valid.rows, stop_if_asked)
                    metrics.valid_loss, metrics.valid_mean_token_accuracy = loss, accuracy
                taken, seconds = slot.step - resumed_at, time.monotonic() - began
                progress = Progress(
                    step=slot.step,
                    total_steps=total_steps,
                    trained_tokens=slot.trained_tokens,
                    seconds_left=(total_steps - slot.step) * seconds / taken if taken else None,
                )
                report(Stepped(**whose, metrics=metrics, progress=progress))
                if ends_epoch or time.monotonic() - kept_at >= order.checkpoint_seconds:
                    report(keep(order, slot, slot.step // epoch_steps))
                    kept_at = time.monotonic()
            stop_if_asked()
        except StopAsked as stop:
            if stop.checkpoint and slot.step > slot.kept:
                report(keep(order, slot, slot.step // epoch_steps))
            raise
        adapter = order.folder / "adapter"
        export.write(slot, spec, base, data, adapter)
    report(
        Finished(
            **whose,
            folder=adapter,
            trained_tokens=slot.trained_tokens,
            metrics_csv=adapter / export.METRICS,
        )
    )


def take_step(
    slot: Slot,
    rows: Sequence[TokenRow],
    spec: TrainingSpec,
    total_steps: int,
    stop_if_asked: Callable[[], None],
) -> Metrics:
    """One optimizer step on `rows`, in as many micro-steps as fit the memory. A stop within it
    leaves the slot as before, but for gradients that nobody reads.

    The loss is the summed NLL over the trained tokens of the whole step, so how it is cut does not
    change it.

    Raises:
        Untrainable: the loss or its gradient is not finite; the adapter is as before the step.

    """
    failpoint("engine.step")
    slot.model.train()
    parameters = adapter_parameters(slot.model).values()
    tokens = sum(row.trained_tokens for row in rows)
    sums = torch.zeros(2, device=slot.model.device)  # read once a step: each read waits for a GPU
    for micro_step, piece in enumerate(micro_batches(rows)):
        stop_if_asked()
        torch.manual_seed(seed_of("dropout", spec.seed, slot.step, micro_step))
        piece_nll, piece_correct = score(slot.model, Batch.of(piece, slot.model.device))
        torch.autograd.backward(piece_nll / tokens)
        sums += torch.stack([piece_nll.detach(), piece_correct])
    norm = torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
    nll, correct, norm = torch.cat([sums, norm[None]]).tolist()
    loss, accuracy = nll / tokens, correct / tokens
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Untrainable(
            "loss_not_finite",
            f"Step {slot.step + 1}: the loss is {loss}, its gradient's norm {norm}, on "
            f"{named_lines(sorted(row.line for row in rows))} of the training file. "
            "Choose a smaller learning_rate_multiplier, or mend these rows.",
        )
    for group in slot.optimizer.param_groups:
        group["lr"] = learning_rate(slot.step, total_steps, spec)
    slot.optimizer.step()
    slot.optimizer.zero_grad()
    slot.step += 1
    slot.trained_tokens += tokens
    return Metrics(step=slot.step, train_loss=loss, train_mean_token_accuracy=accuracy)


def keep(order: Train, slot: Slot, epoch: int) -> Checkpointed | Noted:
    """Writes a checkpoint, `epoch` epochs being finished. A disk that is full is no reason to end
    the training.
    """
    whose = Whose(job_id=order.job_id, token=order.token)
    try:
        folder = checkpoint.write(slot, order.spec, order.folder)
    except DiskFull as error:
        stands = f"that of step {slot.kept} stands" if slot.kept else "there is none before it"
        message = f"The checkpoint of step {slot.step} could not be kept: {error}; {stands}."
        return Noted(**whose, level="warn", message=message, data={"step": slot.step})
    return Checkpointed(**whose, epoch=epoch, metrics=slot.history[-1], folder=folder)


def score(model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """(summed NLL in nats, right next tokens) over a batch's trained tokens; 0-d, NLL in fp32."""
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        position_ids=batch.positions,
        use_cache=False,
    ).logits[:, :-1]
    labels = batch.labels[:, 1:]
    nll = cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=NOT_TRAINED, reduction="sum"
    )
    return nll, (logits.argmax(-1) == labels).sum()


@torch.no_grad()
def evaluate(
    model: PeftModel, rows: Sequence[TokenRow], stop_if_asked: Callable[[], None]
) -> tuple[float, float]:
    """(summed NLL / trained tokens in nats, fraction of right next tokens), dropout off."""
    failpoint("engine.evaluating")
    model.eval()
    nll = correct = 0.0
    for piece in micro_batches(rows):
        stop_if_asked()
        piece_nll, piece_correct = score(model, Batch.of(piece, model.device))
        nll += piece_nll.item()
        correct += piece_correct.item()
    tokens = sum(row.trained_tokens for row in rows)
    return nll / tokens, correct / tokens


def learning_rate(step: int, total_steps: int, spec: TrainingSpec) -> float:
    """The rate of the step after `step` steps: linear warm-up to the peak, then linear to 0."""
    warmup = math.ceil(spec.warmup_ratio * total_steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    return spec.learning_rate * (total_steps - step) / (total_steps - warmup)


def read_files(
    order: Train, base: Base, stop_if_asked: Callable[[], None]
) -> tuple[TokenRows, TokenRows | None]:
    """The training rows and, if there is a file of them, the validation rows, fit for the base."""
    spec = order.spec
    if base.context_length is not None and spec.max_length > base.context_length:
        raise Untrainable(
            "max_length_over_context",
            f"max_length is {spec.max_length} tokens, {spec.base_model} takes "
            f"{base.context_length}. Set max_length to {base.context_length} or less.",
        )
    read = partial(
        read_data,
        tokenizer=base.tokenizer,
        max_length=spec.max_length,
        stop_if_asked=stop_if_asked,
    )
    data = read("training", order.training_file, spec.training_file)
    valid = None
    if spec.validation_file is not None:
        if order.validation_file is None:
            raise ValueError("the job names a validation file, the attempt has none")
        valid = read("validation", order.validation_file, spec.validation_file)
    for file in filter(None, (data, valid)):
        for row in file.rows:
            if int(row.ids.max()) >= base.vocab_size:
                raise Untrainable(
                    "tokenizer_over_vocabulary",
                    f"Line {row.line} of the {file.kind} file has token {int(row.ids.max())}, but "
                    f"{spec.base_model} has only {base.vocab_size} tokens: its tokenizer belongs "
                    "to another model. Choose another base model.",
                )
    return data, valid


def resumed(whose: Whose, slot: Slot, changed: str | None) -> Noted:
    if changed is None:
        message = f"Resumed from the checkpoint of step {slot.step}."
        return Noted(**whose, message=message, data={"step": slot.step})
    message = (
        f"Resumed from the checkpoint of step {slot.step} on another set-up ({changed}): from "
        "here the result is not bit-equal to an uninterrupted training."
    )
    return Noted(**whose, level="warn", message=message, data={"step": slot.step})


def base_noted(whose: Whose, loss: float) -> Noted:
    message = f"Validation loss of the base model: {loss:.4f}"
    return Noted(**whose, message=message, data={"base_valid_loss": loss})
