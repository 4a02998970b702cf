"""Weights in files: an adapter as PEFT has it, a whole model as transformers has it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tunery.base_model import hub_commit
from tunery.spec import TrainingSpec
from worker.engine.sealed import write_json, write_tensors
from worker.engine.training.slot import trained_parameters

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL = "model"
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
# By these names PEFT 0.12 reads an adapter's config, and it takes no others. What came later is
# left out where it is what it is by default.
KNOWN_SINCE_0_12 = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)
# Each shard is put together in memory, twice.
SHARD_BYTES = 1 << 30


def write_trained(
    model: PeftModel | PreTrainedModel, spec: TrainingSpec, base: Path, folder: Path
) -> None:
    """The trained weights in fp32, and the configs that they are loaded by. The base's own files
    lie in `base`.
    """
    if isinstance(model, PeftModel):
        write_tensors(folder / ADAPTER, on_cpu(trained_parameters(model)))
        write_json(folder / ADAPTER_CONFIG, adapter_config(model, spec))
        return
    write_shards(folder, MODEL, trained_parameters(model))
    config = json.loads((base / MODEL_CONFIG).read_text())
    config.pop("torch_dtype", None)
    write_json(folder / MODEL_CONFIG, config | {"dtype": "float32"})
    if (base / GENERATION_CONFIG).exists():
        shutil.copyfile(base / GENERATION_CONFIG, folder / GENERATION_CONFIG)


def read_trained(spec: TrainingSpec, folder: Path) -> dict[str, Tensor]:
    """What `write_trained` has written, by the names of `trained_parameters`."""
    return load_file(folder / ADAPTER) if spec.lora else read_shards(folder, MODEL)


def adapter_config(model: PeftModel, spec: TrainingSpec) -> dict[str, object]:
    """PEFT's, with the base's own id and not a local path."""
    config = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": spec.base_model,
        # A hub is asked for it by `AutoPeftModel`.
        "revision": hub_commit(spec.base_model, spec.base_revision),
        "inference_mode": True,
    }
    # PEFT keeps a set, whose order changes from one process to the next.
    config["target_modules"] = sorted(config["target_modules"])
    usual = LoraConfig().to_dict()
    return {
        name: value
        for name, value in config.items()
        if name in KNOWN_SINCE_0_12 or value != usual.get(name)
    }


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def write_shards(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """As `name.safetensors`, or in numbered parts of it with transformers' index."""
    shards, size = [dict[str, Tensor]()], 0
    for key, tensor in tensors.items():
        if size and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_tensors(folder / f"{name}.safetensors", on_cpu(tensors))
        return
    places = dict[str, str]()
    for number, shard in enumerate(shards, start=1):
        file = f"{name}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, on_cpu(shard))
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / f"{name}.safetensors.index.json", index)


def read_shards(folder: Path, name: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{name}*.safetensors")):
        tensors |= load_file(path)
    return tensors
