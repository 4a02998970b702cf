"""One model in the place of a base and its adapter: W + scale * B A, in transformers' layout.

It is written shard by shard from the base's files: in memory are the base as it was trained on, so
quantized, and one shard. Only when all is written is it loaded, in the base's place, to see how far
it is from the adapter.
"""

import json
import math
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunery.exports import Merged
from tunery.messages import Phase
from tunery.plan.memory import ADMITTED
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device, device_memory, free_cached
from worker.engine.errors import BaseRefused, Untrainable
from worker.engine.model.base import BaseFolder, WarmBase, auto_class, is_finite, not_finite, read
from worker.engine.model.experts import modules_with_experts, stacks_in
from worker.engine.model.lora import adapters_of_experts
from worker.engine.model.quantized import dense_weight
from worker.engine.model.way import Verdict
from worker.engine.proof.family import verdict_on
from worker.engine.results.card import serve_whole
from worker.engine.results.export import lay_template
from worker.engine.results.exports import card
from worker.engine.results.exports.adapter import Adapter
from worker.engine.results.exports.drift import Drift, compare, few_rows, predictions
from worker.engine.results.exports.experts import ExpertsInFiles
from worker.engine.sealed import sealed, write_json, write_tensors
from worker.protocol import Export

if TYPE_CHECKING:
    from tunery.spec import DataFile
    from worker.engine.data.reading import Kind

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Each shard is put together in memory, twice.
SHARD_BYTES = 1 << 30
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
NO_ROWS = "how far it is from the adapter was not measured, for want of rows"
# What is laid beside the weights, where the base has it.
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
)


def make(
    order: Export,
    options: Merged,
    adapter: Adapter,
    opened: BaseFolder,
    bases: WarmBase,
    note: card.Note,
    enter: Callable[[Phase], None],
    stop_if_asked: Callable[[], None],
) -> Path:
    """Raises as `worker.engine.results.exports.make`."""
    trained = as_trained(order, options, adapter, opened, bases, enter, stop_if_asked)
    about = card.about(order, adapter)
    folder = order.folder / "merged"
    with sealed(folder, "export", about) as partial:
        trained.merge.write(partial, stop_if_asked)
        lay_template(order.spec, partial)
        trained.forget(bases)
        drift = measure(partial, options, trained, stop_if_asked)
        about["drift"] = drift.model_dump() if isinstance(drift, Drift) else None
        words = drift.in_words() if isinstance(drift, Drift) else drift
        (partial / "README.md").write_text(readme(order, options, opened.shape.architecture, words))
    level: Literal["info", "warn"] = "info" if isinstance(drift, Drift) else "warn"
    note(f"Merged onto {card.onto(order, options)}: {words}.", level, {"drift": about["drift"]})
    return folder


@dataclass
class Trained:
    """What is to be merged, and what it said of some `rows` of the file `which` before it was: see
    `predictions`.
    """

    merge: "Merge"
    verdict: Verdict
    which: str
    rows: list[TokenRow]
    theirs: list[Tensor]

    def forget(self, bases: WarmBase) -> None:
        """The base's weights, when all is written."""
        del self.merge
        bases.drop()


def as_trained(
    order: Export,
    options: Merged,
    adapter: Adapter,
    opened: BaseFolder,
    bases: WarmBase,
    enter: Callable[[Phase], None],
    stop_if_asked: Callable[[], None],
) -> Trained:
    """Raises as `worker.engine.results.exports.make`."""
    plan = card.plan_of(order)
    which, rows = rows_to_compare(order, opened, enter)
    enter("base")
    verdict = verdict_on(opened)
    base = bases.load(opened, plan.model_copy(update={"dequantized": False}), verdict).model
    enter("publishing")
    with adapter.on(base) as model:
        theirs = predictions(model, rows, stop_if_asked)
        of_experts = {name: each.delta for name, each in adapters_of_experts(model).items()}
    merge = Merge(opened.path, base, adapter, of_experts, options)
    return Trained(merge, verdict, which, rows, theirs)


def rows_to_compare(
    order: Export, base: BaseFolder, enter: Callable[[Phase], None]
) -> tuple[str, list[TokenRow]]:
    spec = order.spec
    files: tuple[tuple[Kind, Phase, Path | None, DataFile | None], ...] = (
        ("validation", "validation_file", order.validation_file, spec.validation_file),
        ("training", "training_file", order.training_file, spec.training_file),
    )
    for which, phase, path, file in files:
        if path is None:
            continue
        enter(phase)
        if rows := few_rows(path, spec, base, file.columns if file else None):
            return which, rows
    return "training", []


def measure(
    folder: Path,
    options: Merged,
    trained: Trained,
    stop_if_asked: Callable[[], None],
) -> Drift | str:
    """How far the model in the folder is from the adapter, or why that is not known."""
    if not trained.rows:
        return NO_ROWS
    on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed = on_disk * compute_dtype().itemsize / DTYPES[options.dtype].itemsize
    if needed > ADMITTED * device_memory():
        return "how far it is from the adapter was not measured: it does not fit this worker"
    model = read(folder, trained.verdict)
    ours = predictions(model, trained.rows, stop_if_asked)
    del model
    free_cached()
    return compare(trained.which, trained.rows, trained.theirs, ours)


@dataclass(frozen=True)
class Merge:
    """`base` is the model as it was trained on, without the adapter; its files lie in `folder`.
    `of_experts` gives what the adapter adds to experts' parameters, by their names.
    """

    folder: Path
    base: PreTrainedModel
    adapter: Adapter
    of_experts: Mapping[str, Callable[[], Tensor]]
    options: Merged

    @cached_property
    def modules(self) -> dict[str, torch.nn.Module]:
        return dict(self.base.named_modules())

    @cached_property
    def plain(self) -> PreTrainedModel:
        """As transformers makes it, on the meta device."""
        with torch.device("meta"):
            return type(self.base)(self.base.config)

    @cached_property
    def transposed(self) -> set[str]:
        """The layers whose weight is (in, out) in the files."""
        return {name for name, module in self.plain.named_modules() if isinstance(module, Conv1D)}

    @cached_property
    def added_to_experts(self) -> ExpertsInFiles:
        return ExpertsInFiles(self.plain, self.of_experts)

    @cached_property
    def experts(self) -> ExpertsInFiles:
        """Those that are quantized in the base, with the values that it computes on."""
        return ExpertsInFiles(
            self.plain,
            {
                f"{name}.{weight}": stack.dense
                for name, module in modules_with_experts(self.base)
                for weight, stack in stacks_in(module).items()
            },
        )

    def layer_of(self, name: str) -> str | None:
        """Of a tensor in the files: the layer whose weight it is. Some bases' files leave out the
        beginning of the names.
        """
        layer, _, kind = name.rpartition(".")
        beside_images = layer.replace("language_model.model.", "model.language_model.", 1)
        for whole in (layer, f"{self.base.base_model_prefix}.{layer}", beside_images):
            if kind == "weight" and whole in self.modules:
                return whole
        return None

    def merged(self, name: str, original: Tensor) -> Tensor:
        """What stands in the place of a base's tensor.

        Raises:
            Untrainable: a weight is too large for the dtype.

        """
        if not original.is_floating_point():
            return original
        layer, dtype = self.layer_of(name), DTYPES[self.options.dtype]
        weight = original.to(device(), torch.float32)
        if self.options.onto == "trained":
            weight = self.trained(layer, name, weight)
        if layer in self.adapter.layers:
            assert layer  # noqa: S101  (a key of it)
            delta = self.adapter.delta(layer, device())
            weight = weight + (delta.T if layer in self.transposed else delta)
        if (added := self.added_to_experts.value(name)) is not None:
            weight = weight + added
        written = weight.to(dtype)
        if not is_finite(written):
            if not is_finite(original):
                raise BaseRefused(not_finite(self.folder, name))
            raise Untrainable(
                "export_not_finite",
                f"{name} has weights over {torch.finfo(dtype).max:g}, the largest number of "
                f"{self.options.dtype}. Export it with dtype bf16 or fp32.",
            )
        return written.cpu().contiguous()

    def trained(self, layer: str | None, name: str, weight: Tensor) -> Tensor:
        """As the base had it in training: dequantized, and rounded to what was computed in."""
        if (dense := self.experts.value(name)) is not None:
            return dense.float()
        module = self.modules.get(layer or "")
        if isinstance(module, torch.nn.Linear):
            dense = dense_weight(module).float()
            return dense.T if layer in self.transposed else dense
        return weight.to(compute_dtype()).float()

    def write(self, folder: Path, stop_if_asked: Callable[[], None]) -> None:
        """The weights, in shards with their index, and the config.

        Raises:
            Untrainable: see `merged`.
            RuntimeError: the base's files have no place for a part of the adapter.

        """
        files = weight_files(self.folder)
        shards = list(self.shards(files))
        places, size = dict[str, str](), 0
        for number, names in enumerate(shards, start=1):
            whole = WHOLE if len(shards) == 1 else shard_name(number, len(shards))
            tensors = {}
            for name in names:
                stop_if_asked()
                with safe_open(files[name], "pt") as opened:
                    tensors[name] = self.merged(name, opened.get_tensor(name))
                places[name] = whole
                size += tensors[name].nbytes
            write_tensors(folder / whole, tensors)
        self.require_all(places)
        if len(shards) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            write_json(folder / INDEX, index)
        write_json(folder / "config.json", self.config())
        for name in COPIED:
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)

    def require_all(self, names: Iterable[str]) -> None:
        """Raises `RuntimeError` if these tensors are not all that the adapter changes."""
        merged = {self.layer_of(name) for name in names}
        if missing := self.adapter.layers.keys() - merged:
            raise RuntimeError(f"the base's files have no weight of {min(missing)}")
        unseen = set(self.added_to_experts.unseen)
        if self.options.onto == "trained":
            unseen |= self.experts.unseen
        if unseen:
            raise RuntimeError(f"the base's files have no weights of {min(unseen)}")

    def shards(self, files: dict[str, Path]) -> Iterator[list[str]]:
        """The names of tensors that go into one file each."""
        size, names = 0, list[str]()
        for name, path in files.items():
            with safe_open(path, "pt") as opened:
                shape = opened.get_slice(name).get_shape()
            its = math.prod(shape) * DTYPES[self.options.dtype].itemsize
            if names and size + its > SHARD_BYTES:
                yield names
                size, names = 0, []
            size += its
            names.append(name)
        yield names

    def config(self) -> dict[str, Any]:
        """The base's, of weights in another dtype."""
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        for name in ("quantization_config", "torch_dtype"):
            config.pop(name, None)
        return config | {"dtype": str(DTYPES[self.options.dtype]).removeprefix("torch.")}


def shard_name(number: int, of: int) -> str:
    return f"model-{number:05}-of-{of:05}.safetensors"


def weight_files(folder: Path) -> dict[str, Path]:
    """Each of a model's tensors and the file that holds it, in the files' order."""
    if (folder / INDEX).exists():
        places = json.loads((folder / INDEX).read_text())["weight_map"]
        in_order = sorted(places.items(), key=lambda each: each[1])
        return {name: folder / file for name, file in in_order}
    with safe_open(folder / WHOLE, "pt") as opened:
        return dict.fromkeys(opened.keys(), folder / WHOLE)


def readme(order: Export, options: Merged, architecture: str, drift: str) -> str:
    auto = auto_class(architecture).__name__
    how = (
        f"The adapter is merged onto {card.onto(order, options)}, and the weights are written in "
        f"{options.dtype}. Compared with the adapter: {drift}."
    )
    return f"""{card.front_matter(order, architecture, library="transformers", relation="finetune")}

# {order.spec.base_model}, tuned and merged

{card.table(order)}

{textwrap.fill(how, 100)}

## Load it

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("this/folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
```

Quantizing it again changes what it says. `manifest.json` has the sha256 of each file.

## Serve it

{serve_whole(architecture)}
"""
