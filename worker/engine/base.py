"""The base model: loaded from a folder, and kept between jobs."""

import gc
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from tunery.base_model import context_of, read_config, shape_of
from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest
from tunery.failpoint import failpoint
from tunery.messages import TOKENIZER_FILES
from tunery.plan.memory import Plan, Precision
from tunery.plan.shape import ENCODERS, Shape
from worker.engine.attention import DOCUMENTS
from worker.engine.device import compute_dtype, device, free_cached
from worker.engine.errors import BaseRefused
from worker.engine.known_data import KnownData
from worker.engine.quantized import config_of, dequantize, load_quantized

# Layers narrower than this are not worth sharing between threads: a barrier costs more than it
# saves, and on a busy machine a whole time slice (8 ms; 60 times slower on a 2-core machine).
SHARED_WIDTH = 512
ALL_THREADS = torch.get_num_threads()

# What the families have their own dropout under.
DROPOUTS = (
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "embd_pdrop",
    "hidden_dropout_prob",
    "resid_pdrop",
)

logging.disable_progress_bar()


@dataclass(frozen=True)
class BaseFolder:
    """What a base model's folder says before its weights are loaded. `context_length` in tokens.
    In the folder `copies` lie copies of the base, quantized, or are laid. `dropouts` are the
    model's own by its config's names; they are left out.
    """

    path: Path
    revision: str
    copies: Path
    shape: Shape
    context_length: int
    dropouts: dict[str, float]
    tokenizer: ChatTokenizer
    tokenizer_sha256: str


@dataclass(frozen=True)
class Base:
    """A loaded base model, its precision as in `Plan`."""

    folder: BaseFolder
    quantization: Precision
    double_quant: bool
    dequantized: bool
    model: PreTrainedModel

    def is_that_of(self, folder: BaseFolder, plan: Plan) -> bool:
        ours = (self.folder, self.quantization, self.double_quant, self.dequantized)
        return ours == (folder, plan.quantization, plan.double_quant, plan.dequantized)


class WarmBase:
    """The one base model in memory, asking for another drops it; and the data read for any."""

    def __init__(self) -> None:
        self.known_data = KnownData()
        self.folder: BaseFolder | None = None
        self.base: Base | None = None

    def open(self, path: Path, revision: str, copies: Path) -> BaseFolder:
        """Raises `BaseRefused`, see `read_folder`."""
        if self.folder is None or (self.folder.path, self.folder.revision) != (path, revision):
            self.folder = read_folder(path, revision, copies)
        return self.folder

    def load(self, folder: BaseFolder, plan: Plan) -> Base:
        if self.base is None or not self.base.is_that_of(folder, plan):
            self.drop()
            self.base = load(
                folder,
                plan.quantization,
                double_quant=plan.double_quant,
                dequantized=plan.dequantized,
            )
        return self.base

    def drop(self) -> None:
        self.base = None
        gc.collect()  # modules and their hooks refer to each other in circles
        free_cached()


def read_folder(path: Path, revision: str, copies: Path) -> BaseFolder:
    """Reads a folder in transformers' layout: all but the weights.

    Raises:
        BaseRefused: it holds no safetensors, asks for code of its own, or is of an architecture
            that is not trained here.

    """
    try:
        config = read_config(path)
        shape = shape_of(config)
    except InvalidRequest as error:
        raise BaseRefused(str(error)) from error
    return BaseFolder(
        path=path,
        revision=revision,
        copies=copies,
        shape=shape,
        context_length=context_of(config),
        dropouts=dropouts_of(transformers_config(path)),
        tokenizer=ChatTokenizer(path),
        tokenizer_sha256=tokenizer_sha256(path),
    )


def tokenizer_sha256(path: Path) -> str:
    """Over all that `ChatTokenizer` reads."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        content = (path / name).read_bytes() if (path / name).exists() else b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def load(
    folder: BaseFolder, quantization: Precision, *, double_quant: bool = True, dequantized: bool
) -> Base:
    """Loads the weights. Only safetensors, and no code, is read from the folder."""
    failpoint("engine.loading")
    if quantization == "none":
        model = read(folder.path)
    else:
        config = config_of(quantization, double_quant=double_quant)
        model = load_quantized(folder.path, folder.revision, config, folder.copies, read)
    model.requires_grad_(False)
    if dequantized:
        dequantize(model)
    torch.set_num_threads(ALL_THREADS if folder.shape.hidden >= SHARED_WIDTH else 1)
    return Base(folder, quantization, double_quant, dequantized, model)


def read(path: Path, **how: Any) -> PreTrainedModel:  # noqa: ANN401 (from_pretrained's)
    """Raises `BaseRefused` for weights that the files lack: they would be random."""
    config = transformers_config(path)
    for name in dropouts_of(config):
        setattr(config, name, 0.0)
    # Typed as if it gave the model alone.
    both: Any = auto_class(config.model_type).from_pretrained(
        path,
        config=config,
        dtype=compute_dtype(),
        device_map={"": device()},
        attn_implementation=DOCUMENTS,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **how,
    )
    model: PreTrainedModel = both[0]
    if missing := sorted(both[1]["missing_keys"]):
        raise BaseRefused(
            f"The files of {path} lack weights of the model, such as {missing[0]} ({len(missing)} "
            "in all). Choose one that was saved with its language modelling head."
        )
    return model


def auto_class(architecture: str) -> type[AutoModelForCausalLM | AutoModelForMaskedLM]:
    """Transformers' own for loading such a model with its head."""
    return AutoModelForMaskedLM if architecture in ENCODERS else AutoModelForCausalLM


def transformers_config(path: Path) -> PretrainedConfig:
    """With the family's defaults for what config.json does not name."""
    config: PretrainedConfig = AutoConfig.from_pretrained(
        path, trust_remote_code=False, local_files_only=True
    )
    return config


def dropouts_of(config: PretrainedConfig) -> dict[str, float]:
    return {name: value for name in DROPOUTS if (value := getattr(config, name, None))}
