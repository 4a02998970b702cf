"""What the safetensors files of a model's folder say of themselves, without their weights.

The format: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from tunery.errors import InvalidRequest
from tunery.plan.shape import ENCODERS

INDEX = "model.safetensors.index.json"
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100 << 20
POINTER = b"version https://git-lfs"
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|h)\.(\d+)\.")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
# Of the head that guesses masked tokens, by the encoder's `model_type`.
HEADS = {
    "bert": "cls.predictions.",
    "camembert": "lm_head.",
    "modernbert": "head.",
    "roberta": "lm_head.",
    "xlm-roberta": "lm_head.",
}
# What is in a block and no layer for adapters: experts, which are one tensor for all of them in
# memory, what chooses between them, and layers that guess several tokens at once.
NO_LAYER = frozenset({"experts", "gate", "mtp", "router", "shared_expert_gate"})

# A name that begins at the blocks of a body that was saved alone.
BARE = re.compile(r"(?:h|layers|blocks|decoder|encoder)\.")
# Of the models for images those whose language model is a whole one, with a body and a head.
WHOLE_WITHIN = frozenset({"llama4"})

# Ends of the names that families have for the matrices of experts after their activation; those
# before it are one in memory.
DOWN = ("down_proj", "output_linear", "w2")

# Of Mamba's layers PEFT takes no adapters on these.
MAMBAS = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
REFUSED_OF_MAMBA = frozenset({"conv1d", "out_proj"})

Shapes = dict[str, list[int]]


def shapes_in(folder: Path) -> Shapes:
    """Raises InvalidRequest for weights that are not all there."""
    by_file = {path.name: header(path) for path in sorted(folder.glob("*.safetensors"))}
    if (folder / INDEX).is_file():
        by_file = those_named(folder, by_file)
    return {name: shape for found in by_file.values() for name, shape in found.items()}


def linear_layers(
    shapes: Shapes, config: dict[str, Any], *, beside_others: bool
) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of those in a model's blocks by the names that transformers has for them,
    but for `NO_LAYER`; of the language model alone if it is `beside_others` for images or sound.
    """
    no_layer = NO_LAYER | (REFUSED_OF_MAMBA if config["model_type"] in MAMBAS else frozenset())
    return {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for written, shape in shapes.items()
        if (name := module_name(written, config["model_type"], beside_others=beside_others))
        and (layer := LAYER.search(name))
        and int(layer[1]) < config["num_hidden_layers"]
        and name.endswith(".weight")
        and len(shape) == 2
        and no_layer.isdisjoint(name.split("."))
        and "embed" not in name
        and (not beside_others or "language_model" in name.split("."))
    }


def module_name(name: str, architecture: str, *, beside_others: bool) -> str:
    """As transformers, and so PEFT, has a tensor's name in the files."""
    if BARE.match(name):
        name = f"{'transformer' if name.startswith('h.') else 'model'}.{name}"
    if beside_others and name.startswith("model.layers."):  # as if there was nothing beside
        return name.replace("model.", "model.language_model.", 1)
    if architecture in WHOLE_WITHIN:
        return name
    return name.replace("language_model.model.", "model.language_model.", 1)


def expert_stacks(
    shapes: Shapes, config: dict[str, Any], *, beside_others: bool
) -> dict[str, tuple[int, int, int]]:
    """(experts, inputs, outputs) of the parameters that hold the matrices of all experts of a layer
    in memory: `…experts.gate_up_proj` and `…experts.down_proj`. Files have them so, or each
    expert's for itself.
    """
    values: dict[str, int] = {}
    experts: dict[str, set[str]] = {}
    for name, shape in shapes.items():
        layer, parts = LAYER.search(name), name.removesuffix(".weight").split(".")
        if (
            not layer
            or int(layer[1]) >= config["num_hidden_layers"]
            or "mtp" in parts
            or (beside_others and "language_model" not in parts)
        ):
            continue
        if len(shape) == 2 and "experts" in parts[:-2] and parts[-2].isdigit():
            around, numbers = parts[:-2], {parts[-2]}
        elif len(shape) == 3 and "conv" not in parts[-1] and shape[0] > 1 and shape[1] > 1:
            around = parts[:-1] if "experts" in parts else [*parts[:-1], "experts"]
            numbers = {str(number) for number in range(shape[0])}
        else:
            continue
        stack = ".".join([*around, "down_proj" if parts[-1] in DOWN else "gate_up_proj"])
        experts.setdefault(stack, set()).update(numbers)
        values[stack] = values.get(stack, 0) + math.prod(shape)
    hidden = config["hidden_size"]
    found = {}
    for stack, numbers in experts.items():
        width = values[stack] // len(numbers) // hidden
        sizes = (width, hidden) if stack.endswith("down_proj") else (hidden, width)
        found[stack] = (len(numbers), *sizes)
    return found


def require_whole(shapes: Shapes, config: dict[str, Any]) -> None:
    """Raises InvalidRequest for weights that are not those of the config."""
    layers = {int(layer[1]) for name in shapes if (layer := LAYER.search(name))}
    wanted = config["num_hidden_layers"]
    if missing := set(range(wanted)) - layers:
        raise InvalidRequest(
            f"The weights have {wanted - len(missing)} of the {wanted} layers that config.json "
            "names. Download the model again."
        )
    for name, shape in shapes.items():
        if name.endswith(EMBEDDINGS) and shape != [config["vocab_size"], config["hidden_size"]]:
            raise InvalidRequest(
                f"{name} has shape {shape}, and config.json names {config['vocab_size']} tokens of "
                f"size {config['hidden_size']}. The two are not of one model; download it again."
            )
    family = config["model_type"]
    if family in ENCODERS and not any(name.startswith(HEADS[family]) for name in shapes):
        raise InvalidRequest(
            f"The weights have no head that guesses masked tokens ({HEADS[family]}…), which the "
            "method masked_lm trains through. Take the model that was trained with it, such as "
            "bert-base-uncased, and not one for sentences or classes."
        )


def those_named(folder: Path, by_file: dict[str, Shapes]) -> dict[str, Shapes]:
    """The files that the index names, each with all that it names in it."""
    try:
        weight_map: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        named = dict.fromkeys(weight_map.values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidRequest(f"{INDEX} cannot be read ({error}). Download it again.") from error
    missing = [name for name in named if name not in by_file]
    if missing:
        raise InvalidRequest(
            f"{INDEX} names {len(named)} files, and {len(missing)} are not there: "
            f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}. Download them."
        )
    for weight, name in weight_map.items():
        if weight not in by_file[name]:
            raise InvalidRequest(
                f"{INDEX} has {weight} in {name}, where it is not. Download the model again."
            )
    return {name: by_file[name] for name in named}


def header(path: Path) -> Shapes:
    """The shape of each tensor. Raises InvalidRequest for a file that is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        if (start + file.read(len(POINTER) - LENGTH_BYTES)).startswith(POINTER):
            raise InvalidRequest(
                f"{path.name} is a pointer of Git LFS, not the weights. Run `git lfs pull` in the "
                "folder, or download the file itself."
            )
        length = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        if not 0 < length <= min(MOST_HEADER_BYTES, size - LENGTH_BYTES):
            raise broken(path, f"{size:,} bytes without a whole header")
        file.seek(LENGTH_BYTES)
        try:
            described = json.loads(file.read(length))
            tensors = {name: each for name, each in described.items() if name != "__metadata__"}
            end = max((each["data_offsets"][1] for each in tensors.values()), default=0)
            shapes = {name: [int(n) for n in each["shape"]] for name, each in tensors.items()}
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise broken(path, f"a header that cannot be read: {error}") from error
    whole = LENGTH_BYTES + length + end
    if size != whole:
        raise broken(path, f"{size:,} of the {whole:,} bytes that its header names")
    return shapes


def broken(path: Path, found: str) -> InvalidRequest:
    return InvalidRequest(f"{path.name} is not whole: it has {found}. Download it again.")
