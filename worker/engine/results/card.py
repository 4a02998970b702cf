"""The model card of what was trained: what of, on what, how, and how to load it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from peft import PeftModel

from tunery.base_model import FOLDER, hub_commit, served_base, where_served
from tunery.exports import vllm_faults, vllm_serve
from tunery.plan.memory import IN_WORDS, Plan
from tunery.plan.shape import ENCODERS
from tunery.plan.targets import ALL_LINEAR
from tunery.spec import MaskedLm, Preference, Supervised, TrainingSpec
from worker.engine.data.batches import steps_in_all, steps_per_epoch
from worker.engine.data.reading import TokenRows
from worker.engine.device import compute_dtype
from worker.engine.model.base import auto_class
from worker.engine.model.experts import modules_with_experts
from worker.engine.results.curves import EVENTS
from worker.engine.training.best import published_of
from worker.engine.training.schedule import warmup_of
from worker.engine.training.slot import Slot, trained_parameters

LOAD_QUANTIZED = {
    "none": "",
    "int8": """
quantized = BitsAndBytesConfig(load_in_8bit=True)""",
    "nf4": """
quantized = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="{quantization}",
    bnb_4bit_use_double_quant={double_quant},
    bnb_4bit_compute_dtype={dtype},
)""",
}
LOAD_QUANTIZED["fp4"] = LOAD_QUANTIZED["nf4"]
# Else bitsandbytes rounds the activations to int8 too, which training does not.
DENSE = """
base = base.dequantize(dtype={dtype})"""


def lora_in_words(spec: TrainingSpec) -> str:
    lora = spec.lora
    assert lora  # noqa: S101  (of a training of an adapter)
    targets = lora.target_modules
    if targets == ALL_LINEAR:
        layers = "all linear layers but the head"
    else:
        layers = f"`{targets}`" if isinstance(targets, str) else ", ".join(targets)
    scale = "alpha / sqrt(r)" if lora.rslora else "alpha / r"
    if lora.target_parameters:
        layers += f", and on experts' {', '.join(lora.target_parameters)}"
    return (
        f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, scaled by {scale}, on {layers}"
    )


def base_in_words(plan: Plan) -> str:
    if plan.quantization == "none":
        return f"not quantized, in {compute_dtype()}"
    if plan.quantization == "int8":
        return "in int8"
    without = "" if plan.double_quant else "out"
    return f"in {IN_WORDS[plan.quantization]} with{without} double quantization"


def trained_in_words(spec: TrainingSpec) -> dict[str, str]:
    if spec.lora:
        return {"LoRA": lora_in_words(spec)}
    return {"Trained": f"all weights, in fp32, computed in {compute_dtype()}"}


def optimizer_in_words(spec: TrainingSpec) -> str:
    named = {
        "beta1": spec.adam_beta1,
        "beta2": spec.adam_beta2,
        "epsilon": spec.adam_epsilon,
    }
    said = [f"{name} {value:g}" for name, value in named.items() if value is not None]
    return ", ".join([spec.optimizer, *said])


def method_in_words(objective: Supervised | Preference | MaskedLm) -> str:
    match objective:
        case Supervised():
            return "supervised: the next token"
        case Preference(beta=beta):
            return f"preferences by DPO, beta {beta:g}"
        case MaskedLm(mask_probability=chance):
            return f"masked tokens, {chance:.0%} of a text"


def card(slot: Slot, spec: TrainingSpec, data: TokenRows) -> str:
    """With the front matter that PEFT writes, or transformers."""
    last = slot.history[-1]
    course: str = "linear to 0" if spec.lr_scheduler == "linear" else spec.lr_scheduler
    if spec.min_lr_ratio is not None:
        course += f" to {spec.min_lr_ratio:g} of it"
    if spec.loraplus_lr_ratio is not None:
        course += f", {spec.loraplus_lr_ratio:g} times as much for B"
    precision = f", {base_in_words(slot.plan)}" if spec.lora else ""
    auto = auto_class(slot.causal.config.model_type).__name__
    if spec.lr_scheduler != "constant":  # which begins at its peak
        warmup = warmup_of(spec, steps_in_all(data, spec))
        course = f"warm-up over {warmup} steps, then {course}"
    epochs = slot.step / steps_per_epoch(data, spec)  # fewer than asked for, if it ended early
    used = data.rows.lines
    start = {"Goes on from": f"`{spec.adapter.model}`"} if spec.adapter else {}
    settings = {
        "Base model": f"`{spec.base_model}`, revision `{spec.base_revision}`{precision}",
        **start,
        "Method": method_in_words(spec.objective),
        "Training file": f"{used} rows used of {spec.training_file.rows}, "
        f"sha256 `{spec.training_file.sha256}`",
        "Trained tokens": f"{slot.trained_tokens} over {epochs:.3g} epochs",
        "Steps": f"{slot.step}, each on {spec.batch_size} rows of at most {spec.max_length} tokens",
        "Learning rate": f"{spec.learning_rate:g}, {course}; weight decay {spec.weight_decay:g}, "
        f"gradient norm at most {spec.max_grad_norm:g}",
        "Optimizer": optimizer_in_words(spec),
        **trained_in_words(spec),
        "Seed": str(spec.seed),
        "Training loss": f"{slot.history[0].train_loss:.4f} at the first step, "
        f"{last.train_loss:.4f} at the last",
    }
    published = published_of(slot.history, spec)
    if published.valid_loss is not None:
        before = "" if slot.base_valid_loss is None else f"{slot.base_valid_loss:.4f} before, "
        settings["Validation loss"] = f"{before}{published.valid_loss:.4f} after"
    if published.step != slot.step:
        settings["Weights"] = f"those of step {published.step}, the best on the validation file"
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    architecture = slot.causal.config.model_type
    if isinstance(slot.model, PeftModel):
        config = slot.model.peft_config["default"].to_dict()
        layers = {name.partition(".lora_")[0] for name in trained_parameters(slot.model)}
        served = how_to_serve(spec, config, layers, architecture)
    else:
        served = serve_whole(architecture)
    return f"""---
base_model: {json.dumps(spec.base_model)}
{front_matter(spec, auto)}
- transformers
- tunery
---

# {"A LoRA adapter for" if spec.lora else "All weights trained of"} {spec.base_model}

| | |
|---|---|
{rows}

`metrics.csv` has the losses of every step, `{EVENTS}` the same for TensorBoard,
`manifest.json` the full settings and the sha256 of each file.

## Load it

```python
{load_adapter(slot.plan, spec, auto) if spec.lora else LOAD_MODEL.format(auto=auto)}
```

{same_base(slot.plan, experts=has_experts(slot)) if spec.lora else FEWER_BITS}

## Serve it

{served}
"""


def front_matter(spec: TrainingSpec, auto: str) -> str:
    task = "fill-mask" if auto == "AutoModelForMaskedLM" else "text-generation"
    if not spec.lora:
        return f"""base_model_relation: finetune
library_name: transformers
pipeline_tag: {task}
tags:"""
    return f"""library_name: peft
pipeline_tag: {task}
tags:
- {json.dumps(f"base_model:adapter:{spec.base_model}")}
- lora"""


SAME_BASE = (
    "The adapter was trained on this base: on one of another precision its answers differ slightly."
)
# Of a quantized base.
EXPERTS_DIFFER = (
    "transformers leaves experts in 16 bits where this base had them quantized: the merged export "
    "has the values that were trained on."
)
FEWER_BITS = "In another dtype it takes less memory, and its answers differ slightly."
LOAD_MODEL = """import torch
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("this/folder", dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained("this/folder")"""


def same_base(plan: Plan, *, experts: bool) -> str:
    return f"{SAME_BASE} {EXPERTS_DIFFER}" if experts and plan.quantization != "none" else SAME_BASE


def has_experts(slot: Slot) -> bool:
    return any(modules_with_experts(slot.causal))


def how_to_serve(
    spec: TrainingSpec,
    config: Mapping[str, Any],
    layers: Iterable[str],
    architecture: str,
) -> str:
    """The command, or why there is none. Arguments as for `vllm_faults`."""
    if faults := vllm_faults(config, layers, architecture=architecture):
        return " ".join(faults)
    served = served_base(spec.base_model, spec.base_revision)
    serve = vllm_serve(served, name="tuned", folder="this/folder", r=config["r"])
    return f"```sh\n{serve}\n```\n{where_served(spec.base_model, serve)}".rstrip()


def serve_whole(architecture: str) -> str:
    if architecture in ENCODERS:
        return "An encoder gives no answers: it is used in a program, as above."
    return "```sh\nvllm serve this/folder --dtype bfloat16\n```"


def load_adapter(plan: Plan, spec: TrainingSpec, auto: str) -> str:
    """Python, of a name `model`."""
    quantized, dtype = plan.quantization != "none", str(compute_dtype())
    facts = {
        "quantization": plan.quantization,
        "double_quant": plan.double_quant,
        "dtype": dtype,
    }
    if commit := hub_commit(spec.base_model, spec.base_revision):
        place = f"""{json.dumps(spec.base_model)},  # or a folder with it
    revision={json.dumps(commit)},"""
    else:
        place = f'"{FOLDER}",  # where the files of {spec.base_model} are on your machine'
    return f"""import torch
from peft import PeftModel
from transformers import {auto}, AutoTokenizer{", BitsAndBytesConfig" if quantized else ""}
{LOAD_QUANTIZED[plan.quantization].format(**facts)}
base = {auto}.from_pretrained(
    {place}
    quantization_config={"quantized" if quantized else None},
    dtype={dtype},
){DENSE.format(dtype=dtype) if plan.quantization == "int8" else ""}
model = PeftModel.from_pretrained(base, "this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")"""
