"""What a folder with a base model holds: the facts that a registration states."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from tunery import hub
from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest
from tunery.facts import STORED, BaseModelFacts, FileFacts
from tunery.plan.shape import Architecture, Shape
from tunery.weights import require_whole

NEEDED_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
# GPT-2 has names of its own.
GPT2_NAMES = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
# What a config may ask of a family that is computed only as it usually is.
USUAL = {
    "is_decoder": False,
    "add_cross_attention": False,
    "use_bidirectional_attention": False,
    "position_embedding_type": "absolute",
}
TIED_UNLESS_NAMED = frozenset({"gemma", "gpt2", "bert", "roberta"})
WITH_LEARNED_POSITIONS = frozenset({"gpt2", "bert", "roberta"})
# How a revision begins that is a hash over the files.
HASHED = "sha256-"
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


def describe(
    folder: Path,
    *,
    id_: str,
    revision: str | None = None,
    licence: str | None = None,
    source: str | None = None,
    files: list[FileFacts] | None = None,
) -> BaseModelFacts:
    """Reads and hashes the folder. With `files` given it stands in for what lies at `source`: it
    has all of it but the weights behind the headers.

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
    require_whole(folder, config)
    files = files or files_of(folder)
    try:
        return BaseModelFacts(
            id=id_,
            revision=revision or revision_of(files),
            source=source or str(folder),
            licence=licence,
            architecture=config["model_type"],
            hidden_size=config["hidden_size"],
            context_length=context_of(config),
            has_chat_template=tokenizer.template is not None,
            files=files,
            shape=shape_of(config),
        )
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["loc"] == ("id",):
            raise InvalidRequest(
                f"{id_!r} is no name for a model. Use letters, digits and . _ - with at most one "
                "/, such as org/model-8b."
            ) from error
        raise InvalidRequest(f"{fault['loc'][0]} of {folder}: {fault['msg']}.") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json under the usual names, of a folder that has all it needs.

    Raises:
        InvalidRequest: as for `describe`.

    """
    if not (folder / "config.json").is_file():
        raise InvalidRequest(
            f"{folder} has no config.json. Give the folder of a downloaded model, or the name of "
            "one on a model hub, as ORG/NAME."
        )
    try:
        written = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InvalidRequest(
            f"{folder}/config.json cannot be read ({error}). Download it again."
        ) from error
    if not isinstance(written, dict):
        raise InvalidRequest(f"{folder}/config.json holds no settings. Download it again.")
    config = with_usual_names(written)
    if "auto_map" in config:
        raise InvalidRequest(f"{folder} wants to run its own code (auto_map); that is refused.")
    if not list(folder.glob("*.safetensors")):
        raise InvalidRequest(f"{folder} has no .safetensors weights; other formats are refused.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise InvalidRequest(f"{folder} has no {name}, which training needs.")
    refuse_unsupported(config)
    return config


def with_usual_names(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("model_type") != "gpt2":
        return config
    config = {GPT2_NAMES.get(name, name): value for name, value in config.items()}
    if config.get("intermediate_size") is None and isinstance(config.get("hidden_size"), int):
        config["intermediate_size"] = 4 * config["hidden_size"]
    return config


def shape_of(config: dict[str, Any]) -> Shape:
    """The dimensions in a model's config.json.

    Raises:
        InvalidRequest: the engine cannot train such a model.

    """
    config = with_usual_names(config)
    refuse_unsupported(config)
    family, heads = config["model_type"], config["num_attention_heads"]
    return Shape(
        architecture=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        tied=config.get("tie_word_embeddings", family in TIED_UNLESS_NAMED),
        positions=config["max_position_embeddings"] if family in WITH_LEARNED_POSITIONS else 0,
    )


def context_of(config: dict[str, Any]) -> int:
    """The longest row, in tokens."""
    positions: int = config["max_position_embeddings"]
    return positions - first_position(config["model_type"], config.get("pad_token_id", 1))


def first_position(architecture: str, pad_token_id: int | None) -> int:
    """That of a row's first token: RoBERTa's come after its padding's."""
    return 1 + (pad_token_id or 0) if architecture == "roberta" else 0


def refuse_unsupported(config: dict[str, Any]) -> None:
    """Raises `InvalidRequest` for a model that the engine cannot train, with one that it can."""
    architecture = config.get("model_type")
    families = get_args(Architecture)
    if architecture not in families:
        raise InvalidRequest(
            f"Models of type {architecture!r} cannot be trained here yet. Choose one of the "
            f"families {', '.join(families)}."
        )
    missing = [key for key in NEEDED_KEYS if not isinstance(config.get(key), int)]
    if missing:
        raise InvalidRequest(f"config.json does not name {', '.join(missing)} as whole numbers.")
    if "quantization_config" in config:
        raise InvalidRequest(
            "The weights are quantized already (quantization_config). Choose the model in 16 bits; "
            "it is quantized here where that is needed."
        )
    for name, usual in USUAL.items():
        if config.get(name, usual) not in (usual, None):
            raise InvalidRequest(
                f"The model's {name} is {config[name]!r}, which cannot be trained here. Choose a "
                f"model of its family with {usual!r}."
            )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    # Of Phi-3's "su" and "yarn" transformers makes the same.
    if kind == "longrope" or (architecture == "phi3" and kind not in {None, "default"}):
        raise InvalidRequest(
            "The model's rotary positions change with the longest row that is computed together "
            "(longrope), which cannot be trained here yet. Choose another one."
        )
    if slides(config):
        raise InvalidRequest(
            "The model attends only to a window of its context (sliding_window), which cannot be "
            "trained here yet. Choose one that attends to all of it, such as Mistral 7B v0.3."
        )


def slides(config: dict[str, Any]) -> bool:
    """Whether some layer attends to less than the context. Mistral's window is 4,096 if unnamed."""
    if config["model_type"] in {"mistral", "phi3"}:
        window = config.get("sliding_window", 4096 if config["model_type"] == "mistral" else None)
        return window is not None and window < config["max_position_embeddings"]
    kinds = config.get("layer_types") or ()
    return bool(config.get("use_sliding_window")) or "sliding_attention" in kinds


def files_of(folder: Path) -> list[FileFacts]:
    """Those that a registration names."""
    return [
        file_facts(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in SUFFIXES
    ]


def file_facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(name=path.name, bytes=path.stat().st_size, sha256=digest)


def revision_of(files: list[FileFacts]) -> str:
    """Changes with any file's name or content. It does not look like a commit: no hub has it."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return HASHED + hashlib.sha256(lines.encode()).hexdigest()[:40]


def hub_commit(id_: str, revision: str) -> str | None:
    """The commit, if a registered base can be had from a model hub under its own name: it is named
    as there, and its operator told the commit. Else only its folder is sure.
    """
    return revision if "/" in id_ and not revision.startswith(HASHED) else None


def served_base(id_: str, revision: str, folder: str | Path) -> str:
    """What comes after `vllm serve`: a hub's name with the commit, or the folder, which is not
    known of files in storage.
    """
    if repository := hub.repository_of(str(folder)):
        return f"{repository} --revision {shlex.quote(revision)}"
    commit = hub_commit(id_, revision)
    if folder == STORED and not commit:
        return "FOLDER"
    return f"{id_} --revision {shlex.quote(commit)}" if commit else shlex.quote(str(folder))
