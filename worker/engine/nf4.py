"""A base model in 4-bit NormalFloat with double quantization, as in QLoRA (Dettmers et al. 2023),
section 3. It is quantized once on a machine; its copy on disk is read from then on.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, PreTrainedModel

from worker.engine.device import compute_dtype
from worker.engine.errors import DiskFull
from worker.engine.linear4bit import Linear4bit
from worker.engine.sealed import broken_seal, sealed

log = logging.getLogger(__name__)

# An 8B model's copy takes 6 GB.
KEPT_COPIES = 3
# What the bits of a copy depend on, and whether they are read as they were written.
MADE_BY = ("torch", "transformers", "bitsandbytes")


def nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(),
    )


def load_quantized(
    folder: Path, revision: str, copies: Path, read: Callable[..., PreTrainedModel]
) -> PreTrainedModel:
    """The base in `folder`, from its copy in `copies` if there is one. `read` loads a folder.

    A copy that cannot be written only costs the next engine time.
    """
    copy = copies / copy_name(folder, revision)
    if is_whole(copy):
        os.utime(copy)
        model = read(copy)
    else:
        model = read(folder, quantization_config=nf4())
        make_room(copies)
        try:
            with sealed(copy, "base", {"base_revision": revision}) as partial:
                # In shards, for each is put together in memory.
                model.save_pretrained(partial, max_shard_size="1GB")
        except (DiskFull, SafetensorError) as error:
            log.warning("no quantized copy of %s is kept: %s", folder, error)
    keep_weights(model)
    return model


def copy_name(folder: Path, revision: str) -> str:
    """Another for all that would make other bits."""
    facts = {
        "folder": str(folder),
        "revision": revision,
        "config": nf4().to_dict(),
        "libraries": {name: importlib.metadata.version(name) for name in MADE_BY},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{folder.name}-{digest[:16]}"


def is_whole(copy: Path) -> bool:
    """Whether there is such a copy. One that is damaged is removed."""
    if not copy.exists():
        return False
    if reason := broken_seal(copy):
        log.warning("the quantized copy %s is made again: %s", copy, reason)
        shutil.rmtree(copy)
        return False
    return True


def make_room(copies: Path) -> None:
    """For one more copy: those used longest ago go, and what a killed engine left half-written."""
    whole = [copy for copy in copies.iterdir() if not copy.name.startswith(".")]
    whole.sort(key=lambda copy: copy.stat().st_mtime, reverse=True)
    for copy in [*copies.glob(".*"), *whole[KEPT_COPIES - 1 :]]:
        shutil.rmtree(copy)


def keep_weights(model: PreTrainedModel) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks a layer at its first forward in eval mode: it
    rounds the scales to bf16 for good, and has no backward from there. Evaluation between steps
    must leave the base as it is.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
