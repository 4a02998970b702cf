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

from tunery.messages import Metrics, Progress
from tunery.spec import TrainingSpec
from worker.engine import checkpoint, export
from worker.engine.base import Base
from worker.engine.data import (
    NOT_TRAINED,
    Batch,
    TokenRow,
    TokenRows,
    epoch_order,
    micro_batches,
    named_lines,
    read_data,
)
from worker.engine.errors import Untrainable
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

    `stop_if_asked` is called at each micro-step and raises `StopAsked` to end the attempt.

    Raises:
        Untrainable: data or settings that no machine can train.
        CheckpointRefused: see `checkpoint.load`.

    """
    spec, whose = order.spec, Whose(job_id=order.job_id, token=order.token)
    data, valid = read_files(order, base, stop_if_asked)
    steps_per_epoch = math.ceil(len(data.rows) / spec.batch_size)
    total_steps = spec.n_epochs * steps_per_epoch
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
        began, first = time.monotonic(), slot.step
        for epoch in range(slot.step // steps_per_epoch, spec.n_epochs):
            in_order = epoch_order(len(data.rows), spec.seed, epoch)
            for index in range(slot.step % steps_per_epoch, steps_per_epoch):
                chosen = in_order[index * spec.batch_size : (index + 1) * spec.batch_size]
                rows = [data.rows[row] for row in chosen]
                metrics = take_step(slot, rows, spec, total_steps, stop_if_asked)
                if valid and index + 1 == steps_per_epoch:
                    loss, accuracy = evaluate(model, valid.rows, stop_if_asked)
                    metrics.valid_loss, metrics.valid_mean_token_accuracy = loss, accuracy
                slot.history.append(metrics)
                pace = (time.monotonic() - began) / (slot.step - first)
                progress = Progress(
                    step=slot.step,
                    total_steps=total_steps,
                    trained_tokens=slot.trained_tokens,
                    seconds_left=pace * (total_steps - slot.step),
                )
                report(Stepped(**whose, metrics=metrics, progress=progress))
            folder = checkpoint.write(slot, spec, epoch + 1, order.folder)
            report(Checkpointed(**whose, epoch=epoch + 1, metrics=metrics, folder=folder))
        stop_if_asked()
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
    """One optimizer step on `rows`, in as many micro-steps as fit the memory.

    The loss is the summed NLL over the trained tokens of the whole step, so how it is cut does not
    change it.

    Raises:
        Untrainable: the loss or its gradient is not finite; the adapter is as before the step.

    """
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
