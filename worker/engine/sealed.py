"""Folders that are there whole or not at all, and prove it: a manifest with each file's sha256."""

import errno
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from tunery.base_model import file_facts
from tunery.disk import flush
from tunery.failpoint import failpoint
from worker.engine.errors import DiskFull

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors")


@contextmanager
def sealed(
    folder: Path,
    kind: Literal["checkpoint", "adapter", "model", "base", "export"],
    about: Mapping[str, Any],
) -> Iterator[Path]:
    """Gives a new folder to write files into, and then makes it `folder`: with a manifest, and
    flushed to disk. If anything goes wrong, nothing half-written stays.

    Raises:
        DiskFull: it does not fit on the disk, or is over a limit.

    """
    partial = folder.with_name(f".{folder.name}")
    try:
        partial.mkdir()
        failpoint(f"{kind}.begun")
        yield partial
        failpoint(f"{kind}.files_written")
        files = [file_facts(path).model_dump() for path in sorted(partial.iterdir())]
        write_json(partial / MANIFEST, {"kind": kind, **about, "files": files})
        failpoint(f"{kind}.manifest_written")
        for path in partial.iterdir():
            flush(path)
        flush(partial)
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise DiskFull(f"the worker's disk is full ({error.strerror})") from error
        raise
    failpoint(f"{kind}.renamed")
    flush(folder.parent)
    failpoint(f"{kind}.sealed")


def broken_seal(folder: Path, sha256: Callable[[Path], str] | None = None) -> str | None:
    """Why the folder is not as it was sealed, or None. Without a `sha256` that knows better each
    file is read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return f"it has no readable {MANIFEST}"
    for facts in manifest["files"]:
        path = folder / facts["name"]
        if not path.exists():
            return f"{path.name} is missing"
        digest = sha256(path) if sha256 else file_facts(path).sha256
        if (path.stat().st_size, digest) != (facts["bytes"], facts["sha256"]):
            return f"{path.name} is damaged"
    return None


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file. Its `save_file` tells of a full disk without an errno."""
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@cache
def versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries}
