"""The whole model as llama.cpp, LM Studio and Ollama load it: one GGUF file with the adapter merged
in, the weights quantized, the tokenizer and the chat template.

It is written weight by weight from the base's files: in memory are the base as it was trained on,
and one weight; on the disk no more than the file. Then llama.cpp loads it, and it is compared with
the adapter.
"""

import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import (
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    get_tensor_name_map,
)
from safetensors import safe_open

from tunery.exports import GGUF_MODELS, Gguf, GgufQuantization, Merged, Ollama
from tunery.messages import Phase
from worker.engine.model.base import BaseFolder, WarmBase
from worker.engine.results.exports import card, llama_cpp
from worker.engine.results.exports.adapter import Adapter
from worker.engine.results.exports.gguf import architecture_of
from worker.engine.results.exports.gguf_families import add_keys, context_of, extra_tensors, laid
from worker.engine.results.exports.gguf_numbers import (
    FILE_TYPES,
    bytes_of,
    library,
    type_of,
    written,
)
from worker.engine.results.exports.gguf_tokenizer import add_tokenizer
from worker.engine.results.exports.merged import NO_ROWS, Merge, as_trained, weight_files
from worker.engine.sealed import sealed
from worker.protocol import Export

FILE = "model.gguf"


def make(
    order: Export,
    options: Gguf,
    adapter: Adapter,
    opened: BaseFolder,
    bases: WarmBase,
    note: card.Note,
    enter: Callable[[Phase], None],
    stop_if_asked: Callable[[], None],
) -> Path:
    """Raises as `worker.engine.results.exports.make`."""
    assert options.quantization  # noqa: S101  (as it is called)
    about = card.about(order, adapter)
    folder = order.folder / "gguf"
    with sealed(folder, "export", about) as partial:
        words = write(
            partial / FILE,
            order,
            options.quantization,
            adapter,
            opened,
            bases,
            about,
            enter,
            stop_if_asked,
        )
        text = readme(order, options, opened.shape.architecture, words)
        (partial / "README.md").write_text(text)
    tell(about, words, note)
    return folder


def write(
    path: Path,
    order: Export,
    quantization: GgufQuantization,
    adapter: Adapter,
    opened: BaseFolder,
    bases: WarmBase,
    about: dict[str, Any],
    enter: Callable[[Phase], None],
    stop_if_asked: Callable[[], None],
) -> str:
    """How far the file is from the adapter, in words; `about` gets it as numbers.

    Raises:
        Untrainable: llama.cpp cannot have this model, or says something else with it.
        RuntimeError: the base's files have no place for a part of the adapter.

    """
    library()  # said before the base is loaded, if it is not there
    merged = Merged(dtype="fp32")
    trained = as_trained(order, merged, adapter, opened, bases, enter, stop_if_asked)
    name, template = order.spec.base_model, order.spec.chat_template
    write_model(path, name, template, quantization, opened, trained.merge, stop_if_asked)
    context = context_of(trained.merge.base.config)
    trained.forget(bases)
    stop_if_asked()
    drift = llama_cpp.compared(path, opened, trained, quantization, context, stop_if_asked)
    about["drift"] = drift.model_dump() if drift else None
    return drift.in_words() if drift else f"llama.cpp has loaded it; {NO_ROWS}"


def write_model(
    path: Path,
    base_model: str,
    chat_template: str | None,
    quantization: GgufQuantization,
    opened: BaseFolder,
    merge: Merge,
    stop_if_asked: Callable[[], None],
) -> None:
    """With the base's chat template unless another is given. Raises as `write`."""
    config = merge.base.config
    with closing(GGUFWriter(path, GGUF_MODELS[config.model_type])) as writer:
        writer.add_type(GGUFType.MODEL)
        writer.add_name(f"{base_model}, tuned")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base_model)
        writer.add_file_type(FILE_TYPES[quantization])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_keys(writer, config)
        add_tokenizer(writer, opened.path, config.vocab_size, chat_template)
        for name, tensor in extra_tensors(config):
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes)
        weights = list(weights_of(opened.path, config, quantization))
        for weight in weights:
            weight.add_to(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in extra_tensors(config):
            writer.write_tensor_data(tensor.numpy())
        for weight in weights:
            stop_if_asked()
            with safe_open(weight.file, "pt") as file:
                merged = merge.merged(weight.source, file.get_tensor(weight.source))
            writer.write_tensor_data(written(laid(weight.source, merged, config), weight.kind))
    merge.require_all(weight.source for weight in weights)


@dataclass(frozen=True)
class Weight:
    """`source` is its name in the base's `file`, `name` llama.cpp's; its shape is as transformers
    has it.
    """

    source: str
    file: Path
    name: str
    shape: list[int]
    kind: GGMLQuantizationType

    def add_to(self, writer: GGUFWriter) -> None:
        size = bytes_of(self.shape, self.kind)
        writer.add_tensor_info(self.name, self.shape, np.dtype(np.float32), size, self.kind)


def weights_of(
    folder: Path,
    config: Any,  # noqa: ANN401
    quantization: GgufQuantization,
) -> Iterator[Weight]:
    """Raises `RuntimeError` for one that llama.cpp has no place for."""
    layers, tied = config.num_hidden_layers, config.tie_word_embeddings
    names = get_tensor_name_map(architecture_of(GGUF_MODELS[config.model_type]), layers)
    for source, file in weight_files(folder).items():
        if source.endswith("rotary_emb.inv_freq") or (tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise RuntimeError(f"llama.cpp has no place for {source}")
        with safe_open(file, "pt") as opened:
            shape = opened.get_slice(source).get_shape()
        is_head = name == ("token_embd.weight" if tied else "output.weight")
        kind = type_of(quantization, name, shape, layers=layers, is_head=is_head)
        yield Weight(source, file, name, shape, kind)


def tell(about: dict[str, Any], words: str, note: card.Note) -> None:
    level: Literal["info", "warn"] = "info" if about["drift"] else "warn"
    note(f"Written as GGUF: {words}.", level, {"drift": about["drift"]})


def readme(order: Export, options: Gguf | Ollama, architecture: str, words: str) -> str:
    how = (
        f"`{FILE}` is the whole model in {options.quantization}, with its tokenizer and its chat "
        f"template: the adapter is merged onto {card.onto(order, Merged())}. On the worker {words}."
    )
    commands = {
        "gguf": f"llama-server -m {FILE}",
        "ollama": "ollama create tuned -f Modelfile",
    }
    return f"""{card.front_matter(order, architecture, library="gguf", relation="finetune")}

# {order.spec.base_model}, tuned, in GGUF

{card.table(order)}

{textwrap.fill(how, 100)}

```sh
{commands[options.format]}
```

llama.cpp, LM Studio and other programs made with llama.cpp load `{FILE}` alone. `manifest.json` has
the sha256 of each file.
"""
