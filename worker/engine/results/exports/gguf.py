"""The adapter as llama.cpp loads it: one GGUF file of the kind that `convert_lora_to_gguf.py` of
llama.cpp writes.

Each layer has two tensors, `blk.N.NAME.weight.lora_a` (r, in) and `.lora_b` (out, r). The format
knows one alpha and multiplies by alpha / r.
"""

from pathlib import Path
from typing import Literal

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, get_tensor_name_map
from torch import Tensor

from tunery.exports import GGUF_ARCHITECTURES, Gguf
from tunery.plan.shape import Shape
from worker.engine.errors import Untrainable
from worker.engine.model.base import BaseFolder
from worker.engine.results.exports import card
from worker.engine.results.exports.adapter import Adapter
from worker.engine.sealed import sealed
from worker.protocol import Export

FILE = "adapter.gguf"
DTYPES = {"f16": torch.float16, "f32": torch.float32}


def make(order: Export, options: Gguf, adapter: Adapter, base: BaseFolder) -> Path:
    """Raises as `write`; `DiskFull`, see `sealed`."""
    folder = order.folder / "gguf"
    with sealed(folder, "export", card.about(order, adapter)) as partial:
        write(partial / FILE, adapter, base.shape, order.spec.base_model, options.dtype or "f32")
        (partial / "README.md").write_text(readme(order, options, base.shape.architecture))
    return folder


def write(
    path: Path, adapter: Adapter, shape: Shape, base_model: str, dtype: Literal["f16", "f32"]
) -> None:
    """Raises:
    Untrainable: a weight is too large for the dtype.
    RuntimeError: an adapted layer is not one of a block.

    """
    architecture = GGUF_ARCHITECTURES[shape.architecture]
    writer = GGUFWriter(path, architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    r = adapter.config["r"]
    writer.add_float32("adapter.lora.alpha", adapter.scale * r)
    writer.add_name(f"LoRA for {base_model}")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_model)
    names = get_tensor_name_map(architecture_of(architecture), shape.layers)
    for layer, (a, b) in adapter.layers.items():
        name = names.get_name(layer)
        if name is None or not name.startswith("blk."):
            raise RuntimeError(f"llama.cpp has no place for an adapter on {layer}")
        for end, tensor in ((".lora_a", a), (".lora_b", permuted(layer, b, shape))):
            written = tensor.to(DTYPES[dtype]).contiguous()
            if not torch.isfinite(written).all():
                raise Untrainable(
                    "export_not_finite",
                    f"The adapter of {layer} has weights over {torch.finfo(torch.float16).max:g}, "
                    "the largest number of f16. Export it with dtype f32.",
                )
            writer.add_tensor(f"{name}.weight{end}", written.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture_of(name: str) -> MODEL_ARCH:
    return next(arch for arch, its in MODEL_ARCH_NAMES.items() if its == name)


def permuted(layer: str, b: Tensor, shape: Shape) -> Tensor:
    """B of a layer as llama.cpp has its rows. For the architecture llama it turns a head's
    neighbouring dimensions together, where transformers turns one of the first half with one of the
    second.
    """
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(layer.rpartition(".")[2])
    if heads is None or GGUF_ARCHITECTURES[shape.architecture] != "llama":
        return b
    by_head = b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1])
    return by_head.transpose(1, 2).reshape(b.shape)


def readme(order: Export, options: Gguf, architecture: str) -> str:
    base = order.spec.base_model
    return f"""{card.front_matter(order, architecture, library="gguf", relation="adapter")}

# A LoRA adapter for {base}, for llama.cpp

{card.table(order)}

`{FILE}` holds it in {options.dtype}. It belongs on a GGUF of the same base model:

```sh
llama-server --model BASE.gguf --lora {FILE}
```

{card.served_on(order)} `manifest.json` has the sha256 of each file.
"""
