"""Adapters beside the base's linear layers: each row of a batch by its own, or by none. Whatever
adapter a training has there is passed by meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunery.data.prompts import Unanswerable
from worker.engine.errors import Untrainable
from worker.engine.results.exports.adapter import Adapter
from worker.engine.training.weights import ADAPTER, ADAPTER_CONFIG

KEPT = 8
KEPT_MIXES = 4
# What PEFT may do beside A and B, and no job of ours does.
BEYOND = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
REFUSED = "adapter_not_answered"

Stamp = tuple[str, int, int, int]


@dataclass(frozen=True, eq=False)
class Weights:
    """A (r, in) and B (out, r) by the names of transformers' layers, in the dtype that the base is
    computed in; the scale is in B.
    """

    layers: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Mix:
    """Adapters of a batch's rows as one: A (K, in) and B (out, K) of all of them. `masks` (rows, K)
    say by layer which of the K are of each row's own; none: all rows have the only one.
    """

    rows: Sequence[Weights | None] = ()
    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)


class Adapters:
    """Those used last, on the device."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[Stamp, ...], Weights] = OrderedDict()
        # By the rows' adapters, which a mix holds on to.
        self.mixes: OrderedDict[tuple[int, ...], Mix] = OrderedDict()

    def read(self, folder: Path, base: PreTrainedModel) -> Weights:
        """Raises `Unanswerable` for one that is more than A and B on this base's linear layers."""
        key = tuple(stamp(folder / name) for name in (ADAPTER, ADAPTER_CONFIG))
        if key not in self.kept:
            self.kept[key] = weights_of(folder, base)
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return self.kept[key]

    def mix(self, rows: Sequence[Weights | None]) -> Mix:
        key = tuple(map(id, rows))
        if key not in self.mixes:
            self.mixes[key] = mixed(rows)
        self.mixes.move_to_end(key)
        while len(self.mixes) > KEPT_MIXES:
            self.mixes.popitem(last=False)
        return self.mixes[key]

    def clear(self) -> None:
        self.kept.clear()
        self.mixes.clear()


def stamp(path: Path) -> Stamp:
    facts = path.stat()
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns


def weights_of(folder: Path, base: PreTrainedModel) -> Weights:
    try:
        adapter = Adapter.read(folder)
    except Untrainable as error:
        raise Unanswerable(REFUSED, str(error)) from error
    if adapter.config.get("target_parameters"):
        raise Unanswerable(
            REFUSED,
            "This model has an adapter on experts (lora.target_parameters), which a worker does "
            "not answer with. Export it merged, or ask an endpoint that serves it.",
        )
    if beyond := [name for name in BEYOND if adapter.config.get(name)]:
        raise Unanswerable(REFUSED, f"The adapter has {', '.join(beyond)}, which is not LoRA.")
    sizes = {name: size_of(layer) for name, layer in layers_in(base)}
    layers = {}
    for name, (a, b) in adapter.layers.items():
        if sizes.get(name) != (a.shape[1], b.shape[0]):
            raise Unanswerable(REFUSED, f"The adapter is for another base: {name} is not its own.")
        layers[name] = (
            a.to(base.device, base.dtype),
            (b.float() * adapter.scale).to(base.device, base.dtype),
        )
    return Weights(layers)


def layers_in(base: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """The linear layers by their names without adapters."""
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            yield name.removesuffix(".base_layer"), module


def size_of(layer: Any) -> tuple[int, int]:  # noqa: ANN401
    """(inputs, outputs)."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return layer.in_features, layer.out_features


def mixed(rows: Sequence[Weights | None]) -> Mix:
    different = list({id(each): each for each in rows if each is not None}.values())
    layers, masks = {}, {}
    made: dict[tuple[int, ...], Tensor] = {}
    for name in dict.fromkeys(name for each in different for name in each.layers):
        here = [(each, *each.layers[name]) for each in different if name in each.layers]
        if len(here) == 1:
            layers[name] = here[0][1:]
        else:
            a, b = torch.cat([a for _, a, _ in here]), torch.cat([b for *_, b in here], dim=1)
            layers[name] = (a, b)
        if any(row is not here[0][0] for row in rows):
            key = tuple(part for each, a, _ in here for part in (id(each), len(a)))
            if key not in made:
                owners = [id(each) for each, a, _ in here for _ in range(len(a))]
                wanted = torch.tensor([id(row) for row in rows])[:, None]
                made[key] = (wanted == torch.tensor(owners)[None]).to(layers[name][0].device)
            masks[name] = made[key]
    return Mix(rows, layers, masks)


class Beside:
    """A base's layers while it answers: without what a training has beside them, and with the
    adapters of the rows that are computed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.mix = Mix()
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.before: list[tuple[Any, Any]] = []
        self.adapted: set[str] = set()
        for module in self.modules.values():
            if isinstance(module, LoraLayer):
                self.put(module, module.base_layer.__call__)

    def put(self, module: Any, forward: Callable[..., Tensor]) -> None:  # noqa: ANN401
        self.before.append((module, vars(module).get("forward")))
        module.forward = forward

    def use(self, mix: Mix) -> None:
        self.mix = mix
        for name in mix.layers.keys() - self.adapted:
            module = self.modules[name]
            self.put(module, partial(self.forward, name, module.forward))
            self.adapted.add(name)

    def leave(self) -> None:
        for module, forward in reversed(self.before):
            del module.forward
            if forward is not None:
                module.forward = forward

    def forward(
        self,
        name: str,
        plain: Callable[..., Tensor],
        x: Tensor,
        *others: Any,  # noqa: ANN401
    ) -> Tensor:
        """(..., out) of (..., in), whose rows come first."""
        out = plain(x, *others)
        found = self.mix.layers.get(name)
        if found is None:
            return out
        a, b = found
        flat = x.reshape(-1, x.shape[-1]).to(a.dtype)
        low = flat @ a.T
        if (mask := self.mix.masks.get(name)) is not None:
            if len(flat) != len(mask):
                mask = mask.repeat_interleave(len(flat) // len(mask), dim=0)
            low = torch.where(mask, low, 0)
        return out + (low @ b.T).view(out.shape).to(out.dtype)


@contextmanager
def beside(model: PreTrainedModel) -> Iterator[Beside]:
    """In it the model computes without dropout and without what is trained on it; on leaving it is
    as before.
    """
    trained = model.training
    model.eval()
    found = Beside(model)
    try:
        yield found
    finally:
        found.leave()
        model.train(trained)
