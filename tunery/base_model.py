"""What a folder with a base model holds: the facts that a registration states."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest
from tunery.messages import BaseModelFacts, FileFacts

NEEDED_KEYS = ("model_type", "hidden_size", "max_position_embeddings")
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


def describe(
    folder: Path,
    *,
    id_: str,
    revision: str | None = None,
    licence: str | None = None,
) -> BaseModelFacts:
    """Reads and hashes the folder.

    Raises:
        InvalidRequest: it is not a model that can be trained here, with the reason.

    """
    folder = folder.resolve()
    config = read_config(folder)
    try:
        tokenizer = ChatTokenizer(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InvalidRequest(
            f"{folder} has a tokenizer or chat template that cannot be used: {error}"
        ) from error
    files = [
        file_facts(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in SUFFIXES
    ]
    return BaseModelFacts(
        id=id_,
        revision=revision or revision_of(files),
        source=str(folder),
        licence=licence,
        architecture=config["model_type"],
        hidden_size=config["hidden_size"],
        context_length=config["max_position_embeddings"],
        has_chat_template=tokenizer.template is not None,
        files=files,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json, of a folder that has all it needs.

    Raises:
        InvalidRequest: as for `describe`.

    """
    if not (folder / "config.json").is_file():
        raise InvalidRequest(
            f"{folder} has no config.json. Give the folder of a downloaded model; a name on a "
            "model hub is not fetched: download it first, at a fixed commit."
        )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if "auto_map" in config:
        raise InvalidRequest(f"{folder} wants to run its own code (auto_map); that is refused.")
    if not list(folder.glob("*.safetensors")):
        raise InvalidRequest(f"{folder} has no .safetensors weights; other formats are refused.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise InvalidRequest(f"{folder} has no {name}, which training needs.")
    missing = [key for key in NEEDED_KEYS if key not in config]
    if missing:
        raise InvalidRequest(
            f"{folder}/config.json does not name {', '.join(missing)}; only text models whose "
            "config names them are trained here."
        )
    return config


def file_facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(name=path.name, bytes=path.stat().st_size, sha256=digest)


def revision_of(files: list[FileFacts]) -> str:
    """40 hex digits that change with any file's name or content."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:40]
