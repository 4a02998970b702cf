"""The plan that a training gets on a device, or why none fits."""

from bisect import bisect_right
from dataclasses import replace
from functools import partial

from tunery.errors import DoesNotFit
from tunery.plan.divided import Divided, divided, why_whole
from tunery.plan.memory import (
    ADMITTED,
    IN_WORDS,
    PROCESS_BYTES,
    Needs,
    Plan,
    gib,
    least_precision,
)
from tunery.spec import Lora, Quantization

# More tokens at once than these gain nothing; on a CPU 4,096 are slower than 2,048. With
# `ENOUGH_TOKENS` a GPU is busy. With fewer than `FEW_TOKENS` it waits for its launches, and
# recomputing activations in larger pieces costs less. Where they are recomputed, no more than
# `ENOUGH_TOKENS` are taken at once: the memory keeps the activations of as many layers as it holds.
MOST_TOKENS = {"bf16": 16_384, "fp32": 2_048}
ENOUGH_TOKENS = 4_096
FEW_TOKENS = 512
# On a CPU a wide base gains little from more tokens at once than these bytes of activations, nor
# from more than `FEW_TOKENS` if those take more.
CPU_BYTES = 160_000_000

# Of a device's memory up to where it is spent on speed.
COMFORTABLE = 0.85

# What a refusal proposes: rows of no fewer tokens, so many GPUs, adapters of
# these ranks.
SHORTEST_MEND = 128
SEVERAL = (2, 4, 8)
SMALLER_R = (128, 64, 32, 16, 8, 4)


def choose(
    needs: Needs,
    *,
    quantization: Quantization,
    longest: int,
    step_tokens: int,
    memory_bytes: int,
    gpus: int = 1,
) -> Plan:
    """The fastest plan that fits; one with a divided base if no other does. `longest` is the
    longest row, which is never split, and `step_tokens` are the tokens of an optimizer step, which
    are dealt to so many `gpus`. `memory_bytes` is all that each device has, not what is free, so
    that the same machine always plans the same.

    Raises:
        DoesNotFit: no plan does, with the changes that would help.

    """
    for each in (needs, divided(needs, quantization, gpus)):
        if found := fastest(each, quantization, longest, step_tokens, memory_bytes, gpus):
            return found
    refusal = does_not_fit(needs, quantization, longest, memory_bytes, gpus)
    assert refusal  # noqa: S101  (the least of all plans is among those tried)
    raise refusal


def fastest(
    needs: Needs,
    quantization: Quantization,
    longest: int,
    step_tokens: int,
    memory_bytes: int,
    gpus: int,
) -> Plan | None:
    """As `choose`, with the base as these needs have it; None: no plan fits."""
    admitted, comfortable = int(ADMITTED * memory_bytes), int(COMFORTABLE * memory_bytes)
    whole = max(longest, min(-(-step_tokens // gpus), most_useful(needs)))
    if needs.lora is None:
        quantization = "none"
    if quantization == "auto":
        enough = max(longest, min(whole, ENOUGH_TOKENS))
        fits = needs.peak("none", micro_tokens=enough, longest=longest) <= comfortable
        quantization = "none" if fits else "nf4"
    for checkpointing in (False, True):
        least = longest if checkpointing else max(longest, min(whole, FEW_TOKENS))
        most = needs.most_tokens(
            quantization, admitted, checkpointing=checkpointing, longest=longest
        )
        if most < least:
            continue
        micro_tokens, recomputed_layers = min(whole, most), None
        if checkpointing and needs.shape.layers > 1:
            # A GPU that is busy gains more from layers that keep theirs than from more tokens.
            micro_tokens = min(micro_tokens, max(longest, ENOUGH_TOKENS))
            recomputed_layers = needs.fewest_recomputed(
                quantization, admitted, micro_tokens=micro_tokens, longest=longest
            )
        peak = needs.peak(
            quantization,
            checkpointing=checkpointing,
            recomputed_layers=recomputed_layers,
            micro_tokens=micro_tokens,
            longest=longest,
        )
        is_divided = isinstance(needs, Divided)
        kept = needs.dequantized_bytes if quantization != "none" and not is_divided else 0
        dequantized = kept > 0 and peak + kept <= comfortable
        return Plan(
            quantization=quantization,
            dequantized=dequantized,
            checkpointing=checkpointing,
            micro_tokens=micro_tokens,
            peak_bytes=peak + kept * dequantized,
            double_quant=needs.double_quant,
            recomputed_layers=recomputed_layers,
            gpus=gpus,
            divided=is_divided,
        )
    return None


def least(needs: Needs, quantization: Quantization, longest: int, gpus: int = 1) -> int:
    """Bytes of each of so many GPUs: the peak of the plan that needs least. A device holds it if it
    is at most `ADMITTED` of its memory.
    """
    return leanest(needs, quantization, longest, gpus).least(quantization, longest)


def leanest(needs: Needs, quantization: Quantization, longest: int, gpus: int) -> Needs:
    """With the base whole or divided, whichever needs less."""
    both = (needs, divided(needs, quantization, gpus))
    return min(both, key=lambda each: each.least(quantization, longest))


def most_useful(needs: Needs) -> int:
    """The tokens at once from which on more would only take memory."""
    most = MOST_TOKENS[needs.compute]
    if needs.compute == "fp32":
        few = CPU_BYTES // needs.per_token(checkpointing=False)
        most = min(most, max(FEW_TOKENS, few))
    return most


def does_not_fit(
    needs: Needs, quantization: Quantization, longest: int, memory_bytes: int, gpus: int = 1
) -> DoesNotFit | None:
    """Why no plan fits, with each single change that would help; None if one does."""
    admitted = int(ADMITTED * memory_bytes)
    held = leanest(needs, quantization, longest, gpus)
    needed = held.least(quantization, longest)
    if needed <= admitted:
        return None
    precision = least_precision(quantization)
    mends = {}
    tokens = bisect_right(range(longest), admitted, key=partial(held.least, quantization)) - 1
    if tokens >= SHORTEST_MEND:
        mends["training.max_length"] = f"training.max_length {tokens} or less"
    if needs.lora is None:
        adapted = replace(needs, lora=Lora())
        if least(adapted, "auto", longest, gpus) <= admitted:
            mends["training.finetuning_type"] = 'training.finetuning_type "lora"'
    elif precision in {"none", "int8"} and least(needs, "nf4", longest, gpus) <= admitted:
        mends["training.quantization"] = 'training.quantization "nf4"'
    for r in (r for r in SMALLER_R if r < needs.r):
        smaller = replace(held, lora=needs.lora and needs.lora.model_copy(update={"r": r}))
        if smaller.least(quantization, longest) <= admitted:
            mends["lora.r"] = f"lora.r {r}"
            break
    if needed - needs.data <= admitted:
        mends["training_file"] = "a smaller training file"
    process = PROCESS_BYTES[needs.compute] + needs.data
    if admitted > process:
        billions = (admitted - process) / (needed - process) * needs.shape.parameters / 1e9
        mends["model"] = f"a base of about {billions:.2g} billion parameters"
    for more in (each for each in SEVERAL if each > gpus and needs.compute == "bf16"):
        if least(needs, quantization, longest, more) <= admitted:
            mends["training.gpus"] = f"training.gpus {more}, on a worker with so many of them"
            break
    if needs.lora is None:
        weights = f"{gib(needs.trained)} for all weights, their gradients and the optimizer"
    else:
        part = "its part of the base" if isinstance(held, Divided) else "the base"
        weights = (
            f"{gib(held.base(precision))} for {part} in "
            f"{IN_WORDS.get(precision, needs.compute)}, {gib(needs.trained)} for the adapter of "
            f"r {needs.r} and its optimizer"
        )
    if needs.data:
        weights += f", {gib(needs.data)} for the data set"
    each = ""
    if gpus > 1:
        each = f"Each of the {gpus} GPUs must hold all of that"
        each += f": {why}. " if (why := why_whole(needs, quantization)) else ". "
    return DoesNotFit(
        f"Training needs at least {gib(needed)}: {weights}, the rest for rows of up to {longest} "
        f"tokens. The device "
        f"has {gib(memory_bytes)}, of which {gib(admitted)} can be used. "
        f"{each}What would fit: {', or '.join(mends.values()) or 'nothing'}.",
        param=next(iter(mends), "model"),
    )
