"""The training of one job: a function of its spec, its plan, its data and its base model."""

import time
from collections.abc import Callable
from functools import partial

import torch

from tunery.measured import Metrics, Samples
from tunery.messages import Phase
from tunery.plan.memory import Plan
from tunery.plan.shape import ENCODERS
from tunery.proof.kept import Proof
from tunery.spec import TrainingSpec
from worker.engine.data.batches import packed, rows_of_steps, steps_in_all, steps_per_epoch
from worker.engine.data.reading import TokenRows
from worker.engine.data.rows import Rows
from worker.engine.device import (
    compute_dtype,
    free_cached,
    is_out_of_memory,
    taken_by_others,
)
from worker.engine.errors import NOT_FINITE, DiskFull, StopAsked, Untrainable
from worker.engine.evaluation import Interview
from worker.engine.model.base import Base, WarmBase
from worker.engine.model.way import PACKED
from worker.engine.proof.family import examined, verdict_on
from worker.engine.ranks import together
from worker.engine.results import export
from worker.engine.results.proof import Proving
from worker.engine.samples import HeldOut
from worker.engine.teller import Teller
from worker.engine.training import checkpoint
from worker.engine.training.best import best_of, ends_early, published_of
from worker.engine.training.clock import Clock
from worker.engine.training.objectives.objective import Objective
from worker.engine.training.objectives.preference import PreferredAnswer, reference_of
from worker.engine.training.prepare import (
    objective_of,
    plan_of,
    read_files,
    rows_to_validate,
    tokenizer_of,
)
from worker.engine.training.schedule import learning_rate
from worker.engine.training.slot import (
    Slot,
    adapted,
    load_trained,
    new_slot,
    trained_parameters,
    whole,
)
from worker.engine.training.start import start_from
from worker.engine.training.step import ROWS_MEASURED, evaluate, read_steps, take_step
from worker.engine.training.weights import on_cpu
from worker.protocol import EVALUATION, Entered, Report, Train

# Each reading of metrics waits for the device, which has nothing queued up then.
READ_SECONDS = 0.5
# A plan that is expected to need more of the memory than this is tried before it is followed.
TIGHT = 0.5


def train(
    order: Train,
    bases: WarmBase,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """Trains one job from its start or its checkpoint to the exported adapter or model.

    `stop_if_asked` is called at each micro-step, and each row read. It raises `StopAsked` to end
    the attempt, which leaves a checkpoint of the last whole step if asked to.

    Of several processes that train it together, each calls this; only the first one is asked to
    stop, writes, and goes on to publish when the last step is done. If it ends before, or another
    one does, the attempt is over for all.

    Raises:
        StopAsked: from `stop_if_asked`.
        Untrainable: data, settings or a starting adapter that no machine can train.
        DoesNotFit: this machine has too little memory for any plan.
        BaseDiffers, BaseRefused: see `WarmBase.open`, `base.load` and `WarmBase.require_finite`.
        MemoryDamaged: see `WarmBase.require_finite`.
        CheckpointRefused: see `checkpoint.read`.
        DiskFull: the result cannot be written.

    """
    try:
        train_as_ordered(order, bases, report, stop_if_asked)
    except Untrainable as error:
        if error.code == NOT_FINITE and together.is_first():
            bases.require_finite(stop_if_asked)
        raise


def train_as_ordered(
    order: Train,
    bases: WarmBase,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """As `train`, whoever is at fault for a loss that is no number."""

    def enter(phase: Phase) -> None:
        report(Entered(job_id=order.job_id, token=order.token, phase=phase))

    spec = order.spec
    kept = checkpoint.read(order.checkpoint, spec) if order.checkpoint else None
    enter("base")
    folder = together.in_turn(
        partial(
            bases.open,
            *(order.base_folder, spec.base_revision, order.cache, order.base_files, stop_if_asked),
        )
    )
    verdict = verdict_on(folder)
    objective = objective_of(spec, folder)
    data, valid = read_files(order, objective, folder, bases.known_data, stop_if_asked, enter)
    enter("base")
    plan = same_for_all(plan_of(spec, folder, data, kept.plan if kept else None, verdict))
    load = partial(bases.load, folder, plan) if spec.lora else partial(bases.apart, folder)
    # Each holds a base that is divided whole in the machine's memory, while it takes its part.
    base = together.in_turn(partial(load, verdict), stop_if_asked if plan.divided else None)
    enter("training")
    tell = Teller(order, report, total_steps=steps_in_all(data, spec))
    with adapted(base.model, spec) if spec.lora else whole(base.model) as model:
        slot = new_slot(model, spec, plan, verdict.way, base.shards)
        goes_on = folder.shape.architecture not in ENCODERS
        proves = goes_on and together.is_first()
        proving = Proving.begun(slot, order, data, valid, stop_if_asked) if proves else None
        if kept:
            tell.resumed(slot, kept.restore(slot), examined=examined(verdict).model_dump())
            if ends_early(slot.history, spec):
                tell.total_steps = slot.step
        else:
            tell_of_data(tell, spec, objective, data, valid)
            tell_how(tell, spec, base, plan)
            if spec.adapter:
                start_from(model, spec.adapter, order.adapter, spec)
        if isinstance(objective, PreferredAnswer):
            refer(slot, spec, data, valid, tell, stop_if_asked)
        if plan.peak_bytes > TIGHT * together.memory():
            largest = partial(try_largest, slot, objective, data.rows, spec)
            cut_to_memory(slot, data.longest, tell, partial(together.agreed, largest))
        valid_rows = rows_to_validate(objective, valid)
        held_out = HeldOut(valid_rows, spec.samples if goes_on else 0, base)
        interview = Interview.of(order, valid, folder)
        if valid_rows and not kept:
            measure_base(slot, spec, objective, held_out, tell, stop_if_asked, base, interview)
        tell.started(slot)
        take_steps(slot, order, objective, data, held_out, tell, stop_if_asked)
        last = partial(conclude, slot, order, base, tell, proving, interview, stop_if_asked)
        first, proof = slot.left_as_first(last)
        if not first:
            return
        enter("publishing")
        result = order.folder / ("adapter" if spec.lora else "model")
        export.write(slot, spec, base, data, proof, result)
        # Its tokenizer and configs were copied, and its weights may be mapped.
        folder.require_same(stop_if_asked)
    tell.finished(slot, result, result / export.METRICS)


def same_for_all(plan: Plan) -> Plan:
    """The first process's, whatever the others found of their memory."""
    return Plan.model_validate_json(together.told(plan.model_dump_json()))


def tell_of_data(
    tell: Teller,
    spec: TrainingSpec,
    objective: Objective,
    data: TokenRows,
    valid: TokenRows | None,
) -> None:
    tell.files(objective, data, valid)
    if spec.validation_split and valid:
        tell.held_out(valid)


def tell_how(tell: Teller, spec: TrainingSpec, base: Base, plan: Plan) -> None:
    """By which plan it is trained, and what of the base is not as its makers have it."""
    what = "" if spec.lora else f"all weights in fp32, computed in {compute_dtype()}, "
    if taken := taken_by_others():
        tell.taken(taken)
    found = examined(base.verdict).model_dump()
    tell.plan(plan, f"The training's plan: {what}{{}}.", examined=found)
    if base.verdict != PACKED:
        tell.examined(base.verdict)
    if base.folder.dropouts:
        tell.dropouts_left_out(base.folder.dropouts)


def measure_base(
    slot: Slot,
    spec: TrainingSpec,
    objective: Objective,
    held_out: HeldOut,
    tell: Teller,
    stop_if_asked: Callable[[], None],
    base: Base,
    interview: Interview,
) -> None:
    """How the model that the training starts from does on the validation file."""
    slot.base_valid_loss = objective.loss_at_start
    if slot.base_valid_loss is None:
        checked = evaluate(slot, objective, held_out.rows, spec, stop_if_asked)
        slot.base_valid_loss, losses = checked.values["valid_loss"], checked.row_losses
        tell.base_loss(slot.base_valid_loss)
    else:
        losses = [slot.base_valid_loss] * min(ROWS_MEASURED, len(held_out.rows))

    def ask() -> None:
        if spec.samples:
            slot.base_said = held_out.ask(slot, losses, stop_if_asked)
        for why, lines in interview.left_out.items():
            tell.not_asked(lines, why)
        slot.base_answers = interview.ask(slot, base, stop_if_asked)

    slot.by_first(ask)


def conclude(
    slot: Slot,
    order: Train,
    base: Base,
    tell: Teller,
    proving: Proving | None,
    interview: Interview,
    stop_if_asked: Callable[[], None],
) -> Proof | None:
    """Chooses the result, and asks it what its proof and its evaluation are made of."""
    spec, proof = order.spec, None
    settle(slot, spec, tell)
    if proving:
        proof = proving.ended(slot, spec, tokenizer_of(spec, base.folder), stop_if_asked)
    interview.write(slot, base, order.folder / EVALUATION, stop_if_asked)
    return proof


def settle(slot: Slot, spec: TrainingSpec, tell: Teller) -> None:
    """Which weights are the result, and why there are no more steps."""
    published = published_of(slot.history, spec)
    if ends_early(slot.history, spec):
        tell.ended_early(slot)
    if spec.load_best_model_at_end:
        if published.step != slot.step:
            load_trained(slot.model, slot.best)
        tell.best(slot, published)
    tell.worsened(slot, published)


def refer(
    slot: Slot,
    spec: TrainingSpec,
    data: TokenRows,
    valid: TokenRows | None,
    tell: Teller,
    stop_if_asked: Callable[[], None],
) -> None:
    """Gives each pair of answers what it is compared with, which is computed once in a training and
    kept in its checkpoints.
    """
    for file in filter(None, (data, valid)):
        if file.kind not in slot.reference:
            reference = reference_of(slot, file.rows, spec, stop_if_asked)
            slot.reference[file.kind] = reference
            tell.referred(file, reference)
        file.rows = file.rows.with_reference(slot.reference[file.kind])


def take_steps(
    slot: Slot,
    order: Train,
    objective: Objective,
    data: TokenRows,
    held_out: HeldOut,
    tell: Teller,
    stop_if_asked: Callable[[], None],
) -> None:
    """All steps that are left. At each epoch's end: its evaluation, and a checkpoint."""
    spec, longest = order.spec, data.longest
    epoch_steps, last_step = steps_per_epoch(data, spec), steps_in_all(data, spec)

    def is_evaluated(step: int) -> bool:
        """At the end of each epoch, and of the training."""
        return step % epoch_steps == 0 or step == last_step

    def owes_evaluation(metrics: Metrics) -> bool:
        return bool(held_out.rows) and is_evaluated(metrics.step) and metrics.valid_loss is None

    # The stop may have come between an epoch's last step and its evaluation.
    first = slot.step - bool(slot.history and owes_evaluation(slot.history[-1]))
    clock, kept_at = Clock(slot), time.monotonic()

    def read() -> list[tuple[Metrics, int]]:
        return read_steps(
            slot, objective, epoch_steps, lambda news: tell.stepped(news, clock.read())
        )

    try:
        for step, rows in enumerate(rows_of_steps(data, spec, first), start=first):
            if ends_early(slot.history, spec):
                break
            if slot.step == step:  # else only its evaluation is owed
                rate = learning_rate(step, tell.total_steps, spec)
                drawn = objective.drawn(rows, step // epoch_steps)
                take = partial(take_step, slot, objective, drawn, rate, spec, stop_if_asked)
                cut_to_memory(slot, longest, tell, take)
            now, evaluates = time.monotonic(), is_evaluated(slot.step)
            keeps = evaluates or now - kept_at >= order.checkpoint_seconds
            if not keeps and step > first and clock.running < READ_SECONDS:
                continue
            *news, last = read() or [(slot.history[-1], slot.trained_tokens)]
            pace = clock.read()
            tell.stepped(news, pace)
            samples = None
            if held_out.rows and evaluates:
                checked = evaluate(slot, objective, held_out.rows, spec, stop_if_asked)
                # Before the history has it: a stop leaves all of it owed.
                answered = partial(held_out.answered_now, slot, checked.row_losses, stop_if_asked)
                samples = slot.by_first(answered)
                last = (last[0].model_copy(update=checked.values), last[1])
                slot.history[-1] = last[0]
                if spec.load_best_model_at_end and best_of(slot.history) is last[0]:
                    slot.best = on_cpu(trained_parameters(slot.model))
                if ends_early(slot.history, spec):
                    tell.total_steps = slot.step
            tell.stepped([last], pace)
            if keeps:
                keep(slot, order, slot.step // epoch_steps, tell, samples)
                kept_at = time.monotonic()
            clock.start()
        stop_if_asked()
    except StopAsked as stop:
        if stop.checkpoint and slot.step > slot.kept:
            news = [new for new in read() if not owes_evaluation(new[0])]
            tell.stepped(news, clock.read())
            keep(slot, order, slot.step // epoch_steps, tell)
        raise


def cut_to_memory(slot: Slot, longest: int, tell: Teller, step: Callable[[], None]) -> None:
    """Runs `step`, which leaves the slot as before if it fails, cut smaller for as long as it runs
    out of memory. Raises what it ran into when nothing is left to be cut.
    """
    while True:
        try:
            return step()
        except Exception as error:
            smaller = slot.plan.smaller(longest) if is_out_of_memory(error) else None
            if smaller is None:
                raise
        # Not in the handler, whose traceback holds on to the tensors of the attempt.
        slot.optimizer.zero_grad()
        free_cached()
        slot.follow(smaller)
        words = f"Step {slot.step + 1} ran out of memory; it is tried again and goes on with {{}}."
        tell.plan(smaller, words, level="warn")


def try_largest(slot: Slot, objective: Objective, rows: Rows, spec: TrainingSpec) -> None:
    """Forward and backward of the largest micro-step that can come."""
    slot.model.train()
    largest = next(packed(rows, slot.plan.micro_tokens, spec.micro_batch_size))

    def compute() -> None:
        losses, _ = objective.score(slot, objective.drawn(largest, 0))
        torch.autograd.backward(losses.sum())

    slot.once(compute)
    slot.optimizer.zero_grad()


def keep(
    slot: Slot, order: Train, epoch: int, tell: Teller, samples: Samples | None = None
) -> None:
    """Writes a checkpoint, `epoch` epochs being finished. A disk that is full is no reason to end
    the training.
    """
    if not together.is_first():
        return
    try:
        folder = checkpoint.write(slot, order.spec, order.base_folder, order.folder)
    except DiskFull as error:
        stands = f"that of step {slot.kept} stands" if slot.kept else "there is none before it"
        message = f"The checkpoint of step {slot.step} could not be kept: {error}; {stands}."
        tell.note(message, level="warn", step=slot.step)
    else:
        tell.checkpointed(slot, epoch, folder, samples)
