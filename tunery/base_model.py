"""What a folder with a base model holds: the facts that a registration states."""

import hashlib
import json
import math
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunery import hub
from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest
from tunery.facts import BaseModelFacts, FileFacts
from tunery.plan.families import FAMILIES
from tunery.plan.shape import Shape
from tunery.weights import Shapes, expert_stacks, linear_layers, require_whole, shapes_in

NEEDED_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
# Other names that families have for these.
USUAL_NAMES = {
    "d_ff": "intermediate_size",
    "d_model": "hidden_size",
    "ffn_dim": "intermediate_size",
    "ffn_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "max_seq_len": "max_position_embeddings",
    "n_ctx": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "seq_length": "max_position_embeddings",
}
NO_LIMIT = 10**9
EXPERTS = {"num_experts", "num_local_experts"}
# Names for how many of them a token goes through.
CHOSEN = (
    "num_experts_per_tok",
    "experts_per_token",
    "num_experts_per_token",
    "top_k_experts",
    "moe_top_k",
    "moe_topk",
    "moe_k",
)
# Where each token goes through all of them, and what others than the chosen say is not used.
THROUGH_ALL = frozenset({"llama4", "llama4_text"})
# Of models for images too: what published configs leave to the family's defaults.
NOT_WRITTEN = {
    "gemma3": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
}
# What a config may ask of a family that is computed only as it usually is.
USUAL = {
    "is_decoder": False,
    "add_cross_attention": False,
    "use_bidirectional_attention": False,
    "position_embedding_type": "absolute",
}
TIED_UNLESS_NAMED = frozenset(
    {"bert", "camembert", "gemma", "gemma2", "gemma3_text", "gpt2", "roberta", "xlm-roberta"}
)
WITH_LEARNED_POSITIONS = frozenset({"gpt2", "bert", "camembert", "roberta", "xlm-roberta"})
# Whose positions begin after their padding's.
AFTER_PADDING = frozenset({"camembert", "roberta", "xlm-roberta"})
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
    shapes = shapes_in(folder)
    require_whole(shapes, config)
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
            shape=shape_of(config, shapes),
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
    config = with_usual_names(of_text(written))
    if config.get("max_position_embeddings") is None:  # nothing in the model itself ends there
        config["max_position_embeddings"] = longest_of_tokenizer(folder)
    if "auto_map" in config:
        raise InvalidRequest(f"{folder} wants to run its own code (auto_map); that is refused.")
    if not list(folder.glob("*.safetensors")):
        raise InvalidRequest(f"{folder} has no .safetensors weights; other formats are refused.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise InvalidRequest(f"{folder} has no {name}, which training needs.")
    refuse_unsupported(config)
    return config


def of_text(config: dict[str, Any]) -> dict[str, Any]:
    """That of the language model in one for images or sound too, under the whole one's type."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    usual = NOT_WRITTEN.get(str(config.get("model_type")), {})
    whole = {name: value for name, value in config.items() if name != "text_config"}
    return usual | whole | text | {"model_type": config.get("model_type"), "holds_others": True}


def longest_of_tokenizer(folder: Path) -> int | None:
    """In tokens, as `tokenizer_config.json` names it; transformers writes 10^30 for none."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text()).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return None  # it is refused when the tokenizer is read
    return named if isinstance(named, int) and named < NO_LIMIT else None


def with_usual_names(config: dict[str, Any]) -> dict[str, Any]:
    """`intermediate_size` is the width of all that a token goes through between two attentions."""
    usual = dict(config)
    for name, usual_name in USUAL_NAMES.items():
        if usual.get(usual_name) is None and config.get(name) is not None:
            usual[usual_name] = config[name]
    if usual.get("intermediate_size") is None and isinstance(usual.get("hidden_size"), int):
        usual["intermediate_size"] = 4 * usual["hidden_size"]
    # Some name the width of all experts as that of one.
    one = usual.get("intermediate_size") if EXPERTS & config.keys() else None
    expert, chosen = config.get("moe_intermediate_size") or one, chosen_experts(config)
    if isinstance(expert, int):
        shared = config.get("shared_expert_intermediate_size") or 0
        usual["intermediate_size"] = max(usual["intermediate_size"], expert * chosen + shared)
    return usual


def shape_of(config: dict[str, Any], shapes: Shapes) -> Shape:
    """The dimensions in a model's config.json and its weights' `shapes`.

    Raises:
        InvalidRequest: the engine cannot train such a model.

    """
    config = with_usual_names(of_text(config))
    refuse_unsupported(config)
    family, heads = config["model_type"], config["num_attention_heads"]
    layers = (
        ()
        if family in FAMILIES
        else sorted(linear_layers(shapes, config, beside_others="holds_others" in config).items())
    )
    experts = (
        ()
        if family in FAMILIES
        else sorted(expert_stacks(shapes, config, beside_others="holds_others" in config).items())
    )
    if family not in FAMILIES and not layers:
        raise InvalidRequest(
            "The model's weights have no linear layers in numbered blocks, so that there is "
            "nothing that adapters could be put on."
        )
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
        layers_read=tuple((name, *sizes) for name, sizes in layers),
        experts_read=tuple((name, *sizes) for name, sizes in experts),
        experts_chosen=chosen_experts(config) if experts else 0,
        parameters_read=0 if family in FAMILIES else sum(map(math.prod, shapes.values())),
    )


def chosen_experts(config: dict[str, Any]) -> int:
    """How many of them each token goes through."""
    names = ("num_local_experts",) if config.get("model_type") in THROUGH_ALL else CHOSEN
    named = next((config[name] for name in names if isinstance(config.get(name), int)), 1)
    return max(1, named)


def context_of(config: dict[str, Any]) -> int:
    """The longest row, in tokens."""
    positions: int = config["max_position_embeddings"]
    return positions - first_position(config["model_type"], config.get("pad_token_id", 1))


def first_position(architecture: str, pad_token_id: int | None) -> int:
    """That of a row's first token: RoBERTa's come after its padding's."""
    return 1 + (pad_token_id or 0) if architecture in AFTER_PADDING else 0


def refuse_unsupported(config: dict[str, Any]) -> None:
    """Raises `InvalidRequest` for a model that no worker can train, with one that it can. Whether a
    family's own way of computing can be trained is for a worker to find out.
    """
    if not isinstance(config.get("model_type"), str):
        raise InvalidRequest("config.json names no model_type. Download the model again.")
    if config.get("is_encoder_decoder"):
        raise InvalidRequest(
            f"Models of type {config['model_type']!r} read with an encoder and write with a "
            "decoder, which cannot be trained here. Choose one that is either."
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


# Stands for a base's folder, whose place is its operator's affair.
FOLDER = "FOLDER"


def served_base(id_: str, revision: str, source: str = "") -> str:
    """What comes after `vllm serve`: a hub's name with the commit, or `FOLDER`."""
    if repository := hub.repository_of(source):
        return f"{repository} --revision {shlex.quote(revision)}"
    commit = hub_commit(id_, revision)
    return f"{id_} --revision {shlex.quote(commit)}" if commit else FOLDER


def where_served(id_: str, command: str) -> str:
    """A sentence for a command that has `FOLDER` in it, with a blank before it; else nothing."""
    if FOLDER not in command.split():
        return ""
    return f" {FOLDER} stands for the folder with the files of {id_}: its operator knows which."
