"""What a training holds of a device's memory for each token, measured on the meta device: there the
model has its own sizes, and tensors have shapes but no values and no memory.

Layers of one kind are computed once. In 16 bits it is what a GPU would hold, in 32 bits a CPU.
"""

import copy
import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PretrainedConfig

from tunery.plan.footprint import Footprint, Held
from tunery.plan.memory import Compute, Plan
from tunery.spec import Lora
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.errors import Unsupported
from worker.engine.model.attention import DOCUMENTS, keeps_scores
from worker.engine.model.base import auto_class, without_dropout
from worker.engine.model.documents import Documents, packed_as
from worker.engine.model.head import recomputable
from worker.engine.model.lora import BaseAndAdapter
from worker.engine.model.mixers import unpack
from worker.engine.model.way import Verdict
from worker.engine.training.forward import hidden_states
from worker.engine.training.loss import nll_through
from worker.engine.training.slot import Slot, linear_layers

META = torch.device("meta")
DTYPES: dict[Compute, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
# A length that no model has for a width: what has it twice are scores. It is two of the longest
# chunks that state-space layers have.
TOKENS = 509
POSITIONS = 256
PLAN = Plan(
    quantization="none", dequantized=False, checkpointing=False, micro_tokens=TOKENS, peak_bytes=0
)

log = logging.getLogger(__name__)


def footprints(config: PretrainedConfig, verdict: Verdict) -> dict[Compute, Footprint]:
    """By what a device computes in. Of a family whose forward pass asks for values there is none,
    and the log has why.
    """
    found: dict[Compute, Footprint] = {}
    for compute in get_args(Compute):
        try:
            found[compute] = footprint(config, verdict, DTYPES[compute])
        except Exception as error:  # any of the family's own code  # noqa: BLE001
            said = f"{type(error).__name__}: {error}"
            log.warning("what it holds of memory in %s cannot be measured: %s", compute, said)
    return found


def footprint(config: PretrainedConfig, verdict: Verdict, dtype: torch.dtype) -> Footprint:
    slot = on_meta(config, verdict, dtype)
    with Modelled():
        kept, recomputed = held_by(slot)
        return Footprint(
            kept=kept,
            recomputed=recomputed,
            one_row=verdict.way == "packed",
            logits=0 if verdict.plain_head else logits_of(slot),
        )


def on_meta(config: PretrainedConfig, verdict: Verdict, dtype: torch.dtype) -> Slot:
    """The whole model with the usual adapters."""
    with META:
        model = auto_class(config.model_type).from_config(  # type: ignore[no-untyped-call]
            without_dropout(copy.deepcopy(config)),
            attn_implementation=DOCUMENTS if verdict.way == "packed" else None,
            dtype=dtype,
        )
        unpack(model, verdict.mixers)
        model.requires_grad_(requires_grad=False).train()
        trained = [
            each
            for name in linear_layers(model)
            for each in with_adapter(model.get_submodule(name))
        ]
    return Slot(model, torch.optim.SGD(trained), PLAN, verdict.way)


def with_adapter(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:  # noqa: ANN401
    """As `lora.forward` computes it."""
    r, (out, in_) = Lora().r, layer.weight.shape
    if not isinstance(layer, nn.Linear):  # GPT-2's are the other way round
        out, in_ = in_, out
    a, b = nn.Parameter(torch.empty(r, in_)), nn.Parameter(torch.empty(out, r))

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, in_)
        made: Tensor = BaseAndAdapter.apply(flat, flat, layer, a, b, 1.0)  # type: ignore[no-untyped-call]
        return made.view(*x.shape[:-1], out)

    layer.forward = forward
    return a, b


@dataclass(frozen=True)
class Call:
    """What a layer was given, and whether it gave a tuple."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_tuple: bool = False

    @property
    def hidden(self) -> Tensor:
        states: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return states


@dataclass
class Kind:
    """Layers with the same modules, sizes and settings. The `first` is computed, the others hand on
    what they are given.
    """

    first: nn.Module
    count: int = 1
    call: Call | None = None

    def note(self, _: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: object) -> None:
        self.call = Call(args, kwargs, isinstance(out, tuple))

    def hand_on(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        hidden = Call(args, kwargs).hidden
        assert self.call  # noqa: S101  (the first comes first)
        return (hidden, None) if self.call.in_tuple else hidden


def kinds_of(body: nn.Module) -> list[Kind]:
    """Of the layers that are recomputed at once."""
    kinds: dict[object, Kind] = {}
    for layer in recomputable(body):
        alike = kinds.get(identity_of(layer))
        if alike is None:
            kind = kinds[identity_of(layer)] = Kind(layer)
            layer.register_forward_hook(kind.note, with_kwargs=True)
        else:
            alike.count += 1
            layer.forward = alike.hand_on
    if not kinds:
        raise Unsupported("it has no layers that can be recomputed")
    return list(kinds.values())


def identity_of(layer: nn.Module) -> object:
    """But for the layer's number."""
    return tuple(
        (
            name,
            type(module),
            *(tuple(weight.shape) for weight in module.parameters(recurse=False)),
            *(
                (key, value)
                for key, value in vars(module).items()
                if isinstance(value, bool | int | str) and "idx" not in key
            ),
        )
        for name, module in layer.named_modules()
    )


@dataclass(frozen=True)
class Room:
    """Bytes of one row's tensors; `scores` are of those for each two of its tokens."""

    linear: int = 0
    scores: int = 0

    @classmethod
    def of(cls, tensor: Tensor) -> "Room":
        size = tensor.untyped_storage().nbytes()
        return cls(0, size) if tensor.shape.count(TOKENS) > 1 else cls(size)

    def __add__(self, other: "Room") -> "Room":
        return Room(self.linear + other.linear, self.scores + other.scores)

    def __sub__(self, other: "Room") -> "Room":
        return self + -1 * other

    def __rmul__(self, times: int) -> "Room":
        return Room(times * self.linear, times * self.scores)

    def __or__(self, other: "Room") -> "Room":
        """Enough for either."""
        return Room(max(self.linear, other.linear), max(self.scores, other.scores))

    @property
    def held(self) -> Held:
        return Held(token=-(-self.linear // TOKENS), pair=-(-self.scores // TOKENS**2))


def held_by(slot: Slot) -> tuple[Held, Held]:
    """By a row: `Footprint.kept` and `recomputed`."""
    row = TokenRow(1, torch.zeros(TOKENS).int(), torch.ones(TOKENS).bool())
    batch, kinds = Batch.of([row], META), kinds_of(slot.head.body)
    kept = recomputed = held_outside(slot, kinds, batch)
    most = beside = Room()
    for kind in kinds:
        alone = held_alone(kind, batch.documents if slot.way == "packed" else None)
        kept += kind.count * alone.after
        recomputed += kind.count * alone.given
        most, beside = most | alone.most, beside | (alone.most - alone.after)
    return (kept + beside).held, (recomputed + most).held


def held_outside(slot: Slot, kinds: list[Kind], batch: Batch) -> Room:
    """What a forward pass keeps outside of its layers, or for all of them."""
    weights = {id_of(each) for each in chain(slot.causal.parameters(), slot.causal.buffers())}
    kept: dict[int, Tensor] = {}
    inside = 0

    def enter(*_: object) -> None:
        nonlocal inside
        inside += 1

    def leave(*_: object) -> None:
        nonlocal inside
        inside -= 1

    def keep(tensor: Tensor) -> Tensor:
        if not inside:
            kept[id_of(tensor)] = tensor
        return tensor

    firsts = [kind.first for kind in kinds]
    hooks = [first.register_forward_pre_hook(enter) for first in firsts]
    hooks += [first.register_forward_hook(leave) for first in firsts]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states(slot, batch)
    for hook in hooks:
        hook.remove()
    for kind in kinds:
        assert kind.call  # noqa: S101  (it was computed)
        given = {id_of(each): each for each in tensors_in((kind.call.args, kind.call.kwargs))}
        del given[id_of(kind.call.hidden)]
        kept |= given
    return sum((Room.of(each) for which, each in kept.items() if which not in weights), Room())


@dataclass(frozen=True)
class Alone:
    """Of one layer: the hidden states that it is `given`, what it holds `after` its forward pass,
    and the `most` there is until the end of its backward pass.
    """

    given: Room
    after: Room
    most: Room


def held_alone(kind: Kind, documents: Documents | None) -> Alone:
    assert kind.call  # noqa: S101  (it was computed)
    call = Call(*tree_map(apart, (kind.call.args, kind.call.kwargs)))
    hidden = call.hidden.requires_grad_()
    kept = set[int]()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(id_of(tensor))
        return tensor

    with packed_as(documents), Live() as live:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = kind.first(*call.args, **call.kwargs)
        out = out[0] if isinstance(out, tuple) else out
        after = live.now - Room.of(out)
        torch.autograd.grad(out, hidden, torch.empty_like(out))
    given = Room.of(hidden)
    # Else the next layer lets go of it.
    after += given if id_of(hidden) in kept else Room()
    return Alone(given, after, live.most)


def apart(value: Any) -> Any:  # noqa: ANN401
    """A tensor without what led to it."""
    return value.detach() if isinstance(value, Tensor) else value


def logits_of(slot: Slot) -> int:
    """Bytes for each position."""
    weight = slot.head.weights.weight
    hidden = weight.new_empty(POSITIONS, weight.shape[1], requires_grad=True)
    labels = torch.zeros(POSITIONS, dtype=torch.long, device=META)
    with Live() as live:
        nll_through(slot.head.logits, hidden, labels, trained=False)
    most: int = live.most.linear
    return most // POSITIONS


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that are made in it: those that there are `now`, and the `most` that there
    were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: Room = Room()
        self.most: Room = Room()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        known = {id_of(tensor) for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(out):
            if id_of(tensor) not in known:  # it is no other view
                known.add(id_of(tensor))
                self.now += Room.of(tensor)
                weakref.finalize(tensor.untyped_storage(), self.let_go, Room.of(tensor))
        self.most |= self.now
        return out

    def let_go(self, room: Room) -> None:
        self.now -= room


class Modelled(TorchFunctionMode):
    """In it attention that keeps no scores is computed as the kernels do that keep none; and what
    is asked about values is answered with yes: all tokens are there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            masked = kwargs.get("attn_mask") is not None
            if not keeps_scores(*args, masked=masked):
                return Fused.apply(*args)  # type: ignore[no-untyped-call]
        if func is torch._grouped_mm and args[0].dtype is torch.float32:  # noqa: SLF001
            return Grouped.apply(*args)  # type: ignore[no-untyped-call]
        if func is Tensor.__bool__:
            return True
        return func(*args, **kwargs)


class Fused(torch.autograd.Function):
    """(B, heads, N, width) of query, key and value, which it keeps, with its result and a sum of
    each query's scores.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
        batch, heads, tokens, _ = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, tokens, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class Grouped(torch.autograd.Function):
    """(rows, out) of rows that are each multiplied by the weights of an expert (experts, in, out),
    which are frozen. The meta device has it for 16 bits alone.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor) -> Tensor:  # noqa: ANN401
        ctx.width = weights.shape[1]
        return states.new_empty(len(states), weights.shape[2])

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (of_output,) = of_outputs
        return of_output.new_empty(len(of_output), ctx.width), None


def tensors_in(values: object) -> Iterator[Tensor]:
    return (each for each in tree_leaves(values) if isinstance(each, Tensor))


def id_of(tensor: Tensor) -> int:
    """The same for views of the same memory."""
    which: int = tensor.untyped_storage()._cdata  # noqa: SLF001
    return which
