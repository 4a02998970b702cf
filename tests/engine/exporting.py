"""Adapters with something in them, bases to put them on, and orders to export them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from tests.engine.conftest import TINY, write_data
from tunery.base_model import files_of
from tunery.exports import Gguf, Merged, Ollama, Peft
from tunery.spec import Lora, Quantization, TrainingSpec
from worker.engine.model.base import WarmBase, auto_class
from worker.engine.results import exports
from worker.engine.training.slot import as_named
from worker.protocol import Export, Finished, Noted, Report

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "pad_token_id": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def random_base(folder: Path, architecture: str, **settings: Any) -> Path:
    """A base of that family in bf16, in shards, with the tokenizer of the tests' own."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(architecture, **(SIZES | settings))
    model = auto_class(architecture).from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2)
            if "norm" in name:
                parameter.add_(1)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="200KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    return folder


def random_adapter(folder: Path, base: Path, *, scale: float = 0.1, **settings: Any) -> Path:
    """PEFT's two files, of an adapter that says something else than its base."""
    torch.manual_seed(4)
    given: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
    }
    config = LoraConfig(**(given | settings))
    with as_named():
        family = json.loads((base / "config.json").read_text())["model_type"]
        model = get_peft_model(auto_class(family).from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=scale)
    model.save_pretrained(str(folder))
    return folder


def export_order(
    base: Path,
    adapter: Path,
    options: Peft | Merged | Gguf | Ollama,
    folder: Path,
    cache: Path,
    *,
    quantization: Quantization = "nf4",
    rows: list[dict[str, Any]] | None = None,
) -> Export:
    """As if the adapter had been trained on these rows. `folder` is made."""
    folder.mkdir()
    path, file = write_data(folder.with_suffix(".jsonl"), rows or [{"text": "The sea."}])
    config = json.loads((adapter / "adapter_config.json").read_text())
    spec = TrainingSpec(
        base_model="tunery/tiny",
        base_revision="r1",
        training_file=file,
        seed=5,
        n_epochs=2,
        batch_size=4,
        learning_rate=1e-2,
        max_length=256,
        lora=Lora(r=config["r"], alpha=config["lora_alpha"], rslora=config["use_rslora"]),
        quantization=quantization,
    )
    return Export(
        job_id="job-1",
        token=1,
        project_id=None,
        spec=spec,
        base_folder=base,
        base_files=files_of(base),
        adapter=adapter,
        options=options,
        training_file=path,
        folder=folder,
        cache=cache,
    )


def exported(order: Export, bases: WarmBase) -> tuple[Path, list[Noted]]:
    """The folder, and what was said on the way."""
    reports: list[Report] = []
    exports.make(order, bases, reports.append, lambda: None)
    *said, last = reports
    assert isinstance(last, Finished)
    return last.folder, [line for line in said if isinstance(line, Noted)]
