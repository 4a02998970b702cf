"""The base model: loaded from a folder, and kept between jobs."""

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from tunery.data.template import ChatTokenizer
from tunery.failpoint import failpoint
from worker.engine.device import compute_dtype, device
from worker.engine.errors import BaseRefused
from worker.engine.nf4 import load_quantized

# Layers narrower than this are not worth sharing between threads: a barrier costs more than it
# saves, and on a busy machine a whole time slice (8 ms; 60 times slower on a 2-core machine).
SHARED_WIDTH = 512
ALL_THREADS = torch.get_num_threads()

logging.disable_progress_bar()


# "none": the weights in the compute dtype, as they are.
Quantization = Literal["nf4", "none"]


@dataclass(frozen=True)
class Base:
    """A loaded base model. `context_length` in tokens, None if its config names none."""

    folder: Path
    revision: str
    quantization: Quantization
    model: PreTrainedModel
    tokenizer: ChatTokenizer
    context_length: int | None
    vocab_size: int


class WarmBase:
    """The one base model in memory. Asking for another drops it."""

    def __init__(self) -> None:
        self.base: Base | None = None

    def get(self, folder: Path, revision: str, quantization: Quantization, cache: Path) -> Base:
        base, asked = self.base, (folder, revision, quantization)
        if base is None or (base.folder, base.revision, base.quantization) != asked:
            self.drop()
            base = self.base = load(folder, revision, quantization, cache)
        return base

    def drop(self) -> None:
        self.base = None
        gc.collect()  # modules and their hooks refer to each other in circles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(folder: Path, revision: str, quantization: Quantization, cache: Path) -> Base:
    """Loads a folder in transformers' layout. Only safetensors, and no code, is read from it. A
    quantized copy is kept in the folder `cache`.

    Raises:
        BaseRefused: the folder holds no safetensors, or asks for code of its own.

    """
    failpoint("engine.loading")
    refuse_unsafe(folder)
    quantized = quantization == "nf4"
    model = load_quantized(folder, revision, cache, read) if quantized else read(folder)
    config = model.config.get_text_config()
    torch.set_num_threads(ALL_THREADS if config.hidden_size >= SHARED_WIDTH else 1)
    return Base(
        folder=folder,
        revision=revision,
        quantization=quantization,
        model=model,
        tokenizer=ChatTokenizer(folder),
        context_length=getattr(config, "max_position_embeddings", None),
        vocab_size=config.vocab_size,
    )


def read(folder: Path, **how: Any) -> PreTrainedModel:  # noqa: ANN401 (from_pretrained's)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=compute_dtype(),
        device_map={"": device()},
        attn_implementation="sdpa",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        **how,
    )
    return model


def refuse_unsafe(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise BaseRefused(
            f"The base model's folder {folder.name} holds no .safetensors file. Register a copy "
            "with safetensors weights; other formats can carry code."
        )
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists() and "auto_map" in json.loads(path.read_text()):
            raise BaseRefused(
                f"{name} of the base model asks for Python code of its own (auto_map), which is "
                "never run here. Register a model that transformers itself knows."
            )
