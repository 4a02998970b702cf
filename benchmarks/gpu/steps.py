"""What a step costs: its rate and memory, its time by tokens, and that it waits for nothing."""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.bases import Kind, Rows, random_base, random_rows, slot_on, spec_of
from benchmarks.gpu.report import (
    NO_MEMORY,
    TIME_IS_UP,
    Clock,
    Table,
    on_gpu,
    peak_flops,
)
from benchmarks.gpu.sizes import Size
from tunery.plan.duration import flops_per_token
from tunery.plan.memory import ADMITTED, Plan
from tunery.spec import TrainingSpec
from worker.engine.data.rows import TokenRow
from worker.engine.device import device_memory
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.slot import Slot
from worker.engine.training.step import read_steps, take_step

GIB = 2**30
# Of a fit, the shortest time that one size is measured for.
FIT_SECONDS = 0.5
# Of the layers: none of them, or all.
RECOMPUTED = {0: "no", None: "yes"}


def steps(size: Size, name: str, kinds: Sequence[Kind]) -> None:
    """Optimizer steps on the same rows, cut into more or fewer micro-steps."""
    clock = Clock()
    columns = {
        "base": "",
        "rows": "",
        "recomputed": "",
        "micro tokens": "d",
        "ms a step": ".0f",
        "tokens per s": ".0f",
        "MFU": ".1%",
        "HFU": ".1%",
        "plan GiB": ".1f",
        "reserved GiB": ".1f",
        "allocated GiB": ".1f",
        "device GiB": ".1f",
        "note": "",
    }
    notes = (
        f"Steps of {size.step_tokens} tokens through `take_step`, LoRA of r 16; "
        f"{size.warm_up} to warm up, then {size.steps} timed as one. "
        "FLOP of a token (tunery.plan.duration): forward and backward 2 x 2 x (block weights + "
        "head), and 3 x 2 x layers x heads x head width x row's tokens of attention, the row's "
        "length averaged over tokens. MFU counts recomputation as nothing, HFU as what it is: "
        "`half` recomputes the first half of the layers. Both are parts of the data sheet's dense "
        "bf16 peak. "
        "`plan` is what Plan.peak_bytes expects, the process's own part included; `reserved` and "
        "`allocated` are PyTorch's peaks; `device` is what is taken of the device in all."
    )
    with Table(name, f"Steps: {', '.join(map(str, kinds))}", columns, notes) as table:
        for kind in kinds:
            model = random_base(kind)
            half = kind.dimensions.layers // 2
            for rows, recomputed in product(size.row_kinds, (0, half, None)):
                if recomputed == half and rows == "short":
                    continue  # what it saves is seen on the others
                for micro_tokens in size.micro_tokens:
                    if rows == "long" and micro_tokens < size.long:
                        continue  # a row is never split
                    known = (str(kind), rows, RECOMPUTED.get(recomputed, "half"), micro_tokens)
                    if clock.left < 0:
                        table.without(*known, why=TIME_IS_UP)
                    else:
                        plan = kind.plan(
                            spec_of(1),
                            micro_tokens=micro_tokens,
                            checkpointing=recomputed != 0,
                            recomputed_layers=recomputed or None,
                        )
                        table.row(*known, *step_row(size, kind, model, rows, plan))
            del model


def step_row(
    size: Size, kind: Kind, model: PreTrainedModel, rows: Rows, plan: Plan
) -> Sequence[float | str | None]:
    made = size.rows(rows, kind.dimensions, seed=1)
    spec, nothing = spec_of(len(made)), [None] * 4
    expected = plan.peak_bytes / GIB
    if plan.peak_bytes > ADMITTED * device_memory():
        return [*nothing, expected, None, None, None, "not tried: it would not be admitted"]
    try:
        with slot_on(model, spec, plan) as slot:
            seconds = seconds_a_step(slot, made, spec, size.warm_up, size.steps)
            loss = read_steps(slot, NextToken(spec), 1, lambda _: None)[-1][0].train_loss
            memory = memory_gib()
    except torch.OutOfMemoryError:
        return [*nothing, expected, None, None, None, NO_MEMORY]
    layers = kind.dimensions.layers
    mfu = utilization(kind, made, seconds, recomputed=0)
    hfu = utilization(kind, made, seconds, recomputed=plan.recomputed(layers) / layers)
    rate = size.step_tokens / seconds
    return [seconds * 1e3, rate, mfu, hfu, expected, *memory, f"loss {loss:.3f}"]


def seconds_a_step(
    slot: Slot, rows: list[TokenRow], spec: TrainingSpec, warm_up: int, steps: int
) -> float:
    """The device is waited for at the end alone, as in a training."""

    def take(count: int) -> None:
        for _ in range(count):
            take_step(slot, NextToken(spec), rows, spec.learning_rate, spec, lambda: None)
        wait()

    take(warm_up)
    began = time.perf_counter()
    take(steps)
    return (time.perf_counter() - began) / steps


def wait() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def memory_gib() -> tuple[float | None, float | None, float | None]:
    """(reserved by PyTorch at its peak, allocated at its peak, taken of the device by all)."""
    if not on_gpu():
        return None, None, None
    free, total = torch.cuda.mem_get_info()
    reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    return reserved / GIB, allocated / GIB, (total - free) / GIB


def utilization(
    kind: Kind, rows: list[TokenRow], seconds: float, *, recomputed: float
) -> float | None:
    peak, lengths = peak_flops(), [len(row.ids) for row in rows]
    if peak is None:
        return None
    mean = sum(length**2 for length in lengths) // sum(lengths)
    flops = flops_per_token(kind.dimensions.shape, mean, recomputed=recomputed)
    return flops * sum(lengths) / seconds / peak


# ---- the time of a micro-step by its tokens ---------------------------------------------------


def fit(size: Size, name: str, kinds: Sequence[Kind]) -> None:
    """T = max(L, D + c M): L is what launching takes, D what the weights take however few tokens
    there are, c what each token adds.
    """
    clock = Clock()
    columns = {"base": "", "recomputed": ""}
    columns |= {f"M={tokens}": ".1f" for tokens in size.fit_tokens}
    columns |= {"L ms": ".1f", "D ms": ".1f", "c µs": ".1f", "worst misfit": ".1%", "note": ""}
    notes = (
        "Milliseconds of one micro-step, forward and backward, of M tokens in short rows; then "
        "L, D and c of T = max(L, D + c M), by least squares of the relative error."
    )
    with Table(name, "The time of a micro-step", columns, notes) as table:
        for kind in kinds:
            model = random_base(kind)
            for checkpointing in (False, True):
                known = (str(kind), "yes" if checkpointing else "no")
                if clock.left < 0:
                    table.without(*known, why=TIME_IS_UP)
                    continue
                take = partial(micro_step, size, kind, model, checkpointing=checkpointing)
                seconds = until_memory_ends(take, size.fit_tokens)
                times: list[float | str] = [1e3 * each for each in seconds]
                times += [NO_MEMORY] * (len(size.fit_tokens) - len(seconds))
                launch, fixed, token, misfit = fitted(size.fit_tokens[: len(seconds)], seconds)
                said = "" if launch else f"L is less than the time of M={size.fit_tokens[0]}"
                figures = (launch and 1e3 * launch, 1e3 * fixed, 1e6 * token, misfit, said)
                table.row(*known, *times, *figures)
            del model


def until_memory_ends(take: Callable[[int], float], sizes: Sequence[int]) -> list[float]:
    seconds: list[float] = []
    with suppress(torch.OutOfMemoryError):
        for tokens in sizes:
            seconds.append(take(tokens))  # noqa: PERF401  (those before the end are kept)
    return seconds


def micro_step(
    size: Size, kind: Kind, model: PreTrainedModel, tokens: int, *, checkpointing: bool
) -> float:
    """Seconds, of the steady state."""
    vocab = kind.dimensions.vocab
    rows = random_rows("short", tokens, seed=2, vocab=vocab, long=size.long)
    spec = spec_of(len(rows))
    plan = kind.plan(spec, micro_tokens=tokens, checkpointing=checkpointing)
    with slot_on(model, spec, plan) as slot:
        slot.model.train()

        def once() -> None:
            nll, _ = NextToken(spec).score(slot, rows)
            torch.autograd.backward(nll.sum() / tokens)

        return seconds_of(once, FIT_SECONDS)


def seconds_of(once: Callable[[], None], least: float) -> float:
    """Of one among as many as take `least` seconds; at least three, after two to warm up."""

    def take(count: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(count):
            once()
        wait()
        return time.perf_counter() - began

    take(1)
    count = max(3, int(least / take(1)))
    return take(count) / count


def fitted(
    tokens: Sequence[int], seconds: Sequence[float]
) -> tuple[float | None, float, float, float]:
    """(L, D, c, the largest relative error). L is None where no size was bound by it."""
    best: tuple[float, tuple[float | None, float, float, float]] | None = None
    sizes, times = torch.tensor(tokens).double(), torch.tensor(seconds).double()
    for flat in range(len(tokens) - 1):  # so many sizes, the smallest ones, take L
        # Divided by the times: the error is then relative.
        weights = 1 / times[flat:, None]
        line = torch.stack([torch.ones_like(sizes[flat:]), sizes[flat:]], dim=1)
        solved = torch.linalg.lstsq(line * weights, times[flat:, None] * weights).solution
        fixed, token = solved[:, 0].tolist()
        inverse = 1 / times[:flat]
        launch = float(inverse.sum() / (inverse**2).sum()) if flat else 0.0
        misfits = (fixed + token * sizes).clamp(min=launch) / times - 1
        error = float((misfits**2).sum())
        if best is None or error < best[0]:
            best = error, (launch or None, fixed, token, float(misfits.abs().max()))
    assert best  # noqa: S101
    return best[1]


# ---- no waiting ------------------------------------------------------------------------------


def syncs(size: Size, name: str, kinds: Sequence[Kind]) -> None:
    """A step under PyTorch's own watch for operations that make the host wait."""
    columns = {"base": "", "recomputed": "", "micro-steps": "d", "a step": ""}
    notes = 'One `take_step` under `torch.cuda.set_sync_debug_mode("error")`, after one without.'
    with Table(name, "Host synchronisation in a step", columns, notes) as table:
        for kind in kinds:
            model = random_base(kind)
            for checkpointing in (False, True):
                rows = size.rows("short", kind.dimensions, seed=1)
                spec, pieces = spec_of(len(rows)), 2
                plan = kind.plan(
                    spec,
                    micro_tokens=size.step_tokens // pieces,
                    checkpointing=checkpointing,
                )
                with slot_on(model, spec, plan) as slot:
                    said = watched_step(slot, rows, spec)
                table.row(str(kind), "yes" if checkpointing else "no", pieces, said)
            del model


def watched_step(slot: Slot, rows: list[TokenRow], spec: TrainingSpec) -> str:
    take = partial(take_step, slot, NextToken(spec), rows, spec.learning_rate, spec, lambda: None)
    take()
    if not on_gpu():
        take()
        return "taken, but not watched: nothing is asynchronous on a CPU"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            take()
        except RuntimeError as error:
            return f"WAITS: {str(error).splitlines()[0]}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "waits for nothing"
