"""What every export says of where it comes from: for people in its card, and in its manifest."""

import json
from collections.abc import Callable
from typing import Any, Literal

from tunery.base_model import file_facts
from tunery.exports import Merged
from tunery.plan.memory import IN_WORDS, Plan
from tunery.plan.shape import ENCODERS
from worker.engine.device import device_name
from worker.engine.results.card import lora_in_words
from worker.engine.results.exports.adapter import Adapter
from worker.engine.sealed import versions
from worker.engine.training.weights import ADAPTER
from worker.protocol import Export

Note = Callable[[str, Literal["info", "warn"], dict[str, Any]], None]


def plan_of(order: Export) -> Plan:
    """How the base was trained on; no more of it is read than that."""
    if order.plan:
        return order.plan
    if order.spec.quantization == "auto":
        raise ValueError("what the base was trained in is the plan's to say, and there is none")
    return Plan(
        quantization=order.spec.quantization,
        double_quant=order.spec.double_quant,
        dequantized=False,
        checkpointing=False,
        micro_tokens=0,
        peak_bytes=0,
    )


def trained_in(order: Export) -> str | None:
    """The precision that the base was quantized to, if it was."""
    return IN_WORDS.get(plan_of(order).quantization)


def onto(order: Export, options: Merged) -> str:
    precision = trained_in(order)
    if options.onto == "original" and precision:
        return f"the original base, not the one in {precision} that it was trained on"
    as_trained = f", dequantized from {precision}" if precision else ""
    return f"the base as it was trained on{as_trained}"


def about(order: Export, adapter: Adapter) -> dict[str, Any]:
    spec = order.spec
    return {
        "export": order.options.model_dump(exclude_none=True),
        "base_model": spec.base_model,
        "base_revision": spec.base_revision,
        "adapter_sha256": file_facts(adapter.folder / ADAPTER).sha256,
        "training_data_sha256": spec.training_file.sha256,
        "spec": spec.model_dump(mode="json"),
        "plan": order.plan.model_dump() if order.plan else None,
        "libraries": versions(),
        "device": device_name(),
    }


def table(order: Export) -> str:
    spec, precision = order.spec, trained_in(order)
    facts = {
        "Base model": f"`{spec.base_model}`, revision `{spec.base_revision}`",
        "Trained on it": f"in {precision}" if precision else "not quantized",
        "Training file": f"{spec.training_file.rows} rows, sha256 `{spec.training_file.sha256}`",
        "Epochs": str(spec.n_epochs),
        "LoRA": lora_in_words(spec),
        "Seed": str(spec.seed),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"| | |\n|---|---|\n{rows}"


def front_matter(
    order: Export, architecture: str, *, library: str, relation: Literal["adapter", "finetune"]
) -> str:
    """What model hubs read of a card."""
    base = order.spec.base_model
    task = "fill-mask" if architecture in ENCODERS else "text-generation"
    return f"""---
base_model: {json.dumps(base)}
base_model_relation: {relation}
library_name: {library}
pipeline_tag: {task}
tags:
- {json.dumps(f"base_model:{relation}:{base}")}
- tunery
---"""


def served_on(order: Export) -> str:
    """What to expect of the adapter on a base in a precision of its own."""
    return (
        f"It was trained on the base in {trained_in(order) or 'full precision'}: on one that is "
        "quantized otherwise its answers differ slightly."
    )
