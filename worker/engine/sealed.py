"""Folders that are there whole or not at all, and prove it: a manifest with each file's sha256."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tunery.base_model import file_facts
from worker.engine.base import device

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors")


def seal(partial: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Writes the manifest, flushes every file of `partial` to disk and renames it to `folder`."""
    files = [file_facts(path).model_dump() for path in sorted(partial.iterdir())]
    write_json(partial / MANIFEST, {**about, "files": files})
    for path in partial.iterdir():
        flush(path)
    flush(partial)
    partial.rename(folder)
    flush(folder.parent)


def broken_seal(folder: Path) -> str | None:
    """Why the folder is not as it was sealed, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return f"it has no readable {MANIFEST}"
    for facts in manifest["files"]:
        path = folder / facts["name"]
        if not path.exists():
            return f"{path.name} is missing"
        if file_facts(path).model_dump() != facts:
            return f"{path.name} is damaged"
    return None


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries}


def device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"
