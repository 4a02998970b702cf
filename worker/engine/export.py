"""The adapter as users download it: a flat folder that transformers and PEFT load."""

import csv
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from tunery.exports import vllm_faults, vllm_serve
from tunery.messages import Metrics
from tunery.plan.memory import IN_WORDS, Plan
from tunery.plan.targets import ALL_LINEAR
from tunery.spec import TrainingSpec
from worker.engine.base import Base
from worker.engine.data import TokenRows
from worker.engine.device import compute_dtype, device_name
from worker.engine.errors import Untrainable
from worker.engine.sealed import sealed, versions, write_json, write_tensors
from worker.engine.slot import Slot, adapter_parameters, adapter_tensors

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
METRICS = "metrics.csv"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

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


def write(slot: Slot, spec: TrainingSpec, base: Base, data: TokenRows, folder: Path) -> None:
    """Writes the finished adapter to `folder`, flushed to disk.

    Raises:
        Untrainable: the last step left weights that are not finite.
        RuntimeError: the file does not read back as it was written.
        DiskFull: see `sealed`.

    """
    about = {
        "base_model": spec.base_model,
        "base_revision": spec.base_revision,
        "training_data_sha256": spec.training_file.sha256,
        "spec": spec.model_dump(mode="json"),
        "plan": slot.plan.model_dump(),
        "libraries": versions(),
        "device": device_name(),
    }
    with sealed(folder, "adapter", about) as partial:
        write_adapter(slot.model, spec, partial)
        prove_adapter(slot.model, partial / ADAPTER)
        for name in TOKENIZER_FILES:
            if (base.folder.path / name).exists():
                shutil.copyfile(base.folder.path / name, partial / name)
        write_metrics(slot.history, partial / METRICS)
        (partial / "README.md").write_text(card(slot, spec, data))


def write_adapter(model: PeftModel, spec: TrainingSpec, folder: Path) -> None:
    """PEFT's two files: fp32 weights, and the config with the base's own id, not a local path."""
    write_tensors(folder / ADAPTER, adapter_tensors(model))
    config = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": spec.base_model,
        "revision": spec.base_revision,
        "inference_mode": True,
    }
    # PEFT keeps a set, whose order changes from one process to the next.
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / ADAPTER_CONFIG, config)


def prove_adapter(model: PeftModel, path: Path) -> None:
    """The file holds what was trained: same names, shapes and bits, all of them finite."""
    written, trained = load_file(path), adapter_tensors(model)
    for name, tensor in trained.items():
        if not torch.isfinite(tensor).all():
            raise Untrainable(
                "loss_not_finite",
                "The last step left weights that are not finite numbers. "
                "Choose a smaller learning_rate_multiplier.",
            )
        if name not in written or not torch.equal(written[name], tensor):
            raise RuntimeError(f"{name} of the adapter does not read back as it was written")
    if written.keys() != trained.keys():
        raise RuntimeError("the adapter's file has tensors that were not trained")


def write_metrics(history: list[Metrics], path: Path) -> None:
    """One row a step; a field without a value is empty."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Metrics.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(metrics.model_dump() for metrics in history)


def lora_in_words(spec: TrainingSpec) -> str:
    lora = spec.lora
    assert lora  # noqa: S101
    targets = lora.target_modules
    if targets == ALL_LINEAR:
        layers = "all linear layers but the head"
    else:
        layers = f"`{targets}`" if isinstance(targets, str) else ", ".join(targets)
    scale = "alpha / sqrt(r)" if lora.rslora else "alpha / r"
    return (
        f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, scaled by {scale}, on {layers}"
    )


def card(slot: Slot, spec: TrainingSpec, data: TokenRows) -> str:
    """The model card, with the front matter that PEFT writes."""
    last = slot.history[-1]
    plan = slot.plan
    precision = f"not quantized, in {compute_dtype()}"
    if plan.quantization != "none":
        precision = f"in {IN_WORDS[plan.quantization]}"
    if plan.quantization in {"nf4", "fp4"}:
        precision += f" with{'' if plan.double_quant else 'out'} double quantization"
    start = {"Goes on from": f"`{spec.adapter.model}`"} if spec.adapter else {}
    settings = {
        "Base model": f"`{spec.base_model}`, revision `{spec.base_revision}`, " + precision,
        **start,
        "Training file": f"{len(data.rows)} rows used of {spec.training_file.rows}, "
        f"sha256 `{spec.training_file.sha256}`",
        "Trained tokens": f"{slot.trained_tokens} over {spec.n_epochs} epochs",
        "Steps": f"{slot.step}, each on {spec.batch_size} rows of at most {spec.max_length} tokens",
        "Learning rate": f"{spec.learning_rate:g}, warm-up over {spec.warmup_ratio:g} of the "
        f"steps, then linear to 0; weight decay {spec.weight_decay:g}, gradient norm at most "
        f"{spec.max_grad_norm:g}",
        "LoRA": lora_in_words(spec),
        "Seed": str(spec.seed),
        "Training loss": f"{slot.history[0].train_loss:.4f} at the first step, "
        f"{last.train_loss:.4f} at the last",
    }
    if last.valid_loss is not None:
        before = "" if slot.base_valid_loss is None else f"{slot.base_valid_loss:.4f} before, "
        settings["Validation loss"] = f"{before}{last.valid_loss:.4f} after"
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    config = slot.model.peft_config["default"].to_dict()
    layers = {name.partition(".lora_")[0] for name in adapter_parameters(slot.model)}
    return f"""---
base_model: {json.dumps(spec.base_model)}
library_name: peft
pipeline_tag: text-generation
tags:
- {json.dumps(f"base_model:adapter:{spec.base_model}")}
- lora
- transformers
- tunery
---

# A LoRA adapter for {spec.base_model}

| | |
|---|---|
{rows}

`metrics.csv` has the losses of every step, `manifest.json` the full settings and the sha256 of each
file.

{how_to_load(spec, plan)}

{how_to_serve(spec, config, layers, slot.causal.config.model_type)}
"""


def how_to_load(spec: TrainingSpec, plan: Plan) -> str:
    """A card's section, with the base as it was trained on."""
    quantized, dtype = plan.quantization != "none", str(compute_dtype())
    also = ", BitsAndBytesConfig" if quantized else ""
    facts = {
        "quantization": plan.quantization,
        "double_quant": plan.double_quant,
        "dtype": dtype,
    }
    return f"""## Load it

```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{also}
{LOAD_QUANTIZED[plan.quantization].format(**facts)}
base = AutoModelForCausalLM.from_pretrained(
    {json.dumps(spec.base_model)},  # or the folder with this base model
    revision={json.dumps(spec.base_revision)},
    quantization_config={"quantized" if quantized else None},
    dtype={dtype},
){DENSE.format(dtype=dtype) if plan.quantization == "int8" else ""}
model = PeftModel.from_pretrained(base, "this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```

The adapter was trained on this base: on one of another precision its answers differ slightly."""


def how_to_serve(
    spec: TrainingSpec, config: Mapping[str, Any], layers: Iterable[str], architecture: str
) -> str:
    """A card's section: the command, or why there is none. Arguments as for `vllm_faults`."""
    if faults := vllm_faults(config, layers, architecture=architecture):
        return "## Serve it\n\n" + " ".join(faults)
    serve = vllm_serve(spec.base_model, name="tuned", folder="this/folder", r=config["r"])
    return f"## Serve it\n\n```sh\n{serve}\n```"
