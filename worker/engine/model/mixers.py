"""Layers that carry a state along the sequence: recurrent ones and convolutions. They know no
documents, so a pack is taken apart for them alone.
"""

import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_recurrent_attention_mask

from worker.engine.model.documents import Documents, Rows, packed, packed_as

PROBED_TOKENS = 12
RECURRENT_MASK = create_recurrent_attention_mask.__name__
# What says of the whole sequence which of its tokens are there, or what was before it.
OF_THE_SEQUENCE = ("attention_mask", "mask", "cache_params", "past_key_values", "seq_idx")


def unpack(model: nn.Module, mixers: Collection[str]) -> None:
    """Has the modules of these classes compute on a pack's documents as rows of batches."""
    for module in model.modules():
        if type(module).__name__ in mixers:
            module.forward = Unpacked(module.forward)
        if mixers and hasattr(here := sys.modules[type(module).__module__], RECURRENT_MASK):
            setattr(here, RECURRENT_MASK, recurrent_mask)


def recurrent_mask(*args: Any, **kwargs: Any) -> Tensor | None:  # noqa: ANN401
    """In the place of transformers' own, which asks the device whether a token is missing, and
    waits. Of a pack none is.
    """
    if packed() is not None:
        return None
    mask: Tensor | None = create_recurrent_attention_mask(*args, **kwargs)
    return mask


class Unpacked:
    """A mixer's forward."""

    def __init__(self, forward: Any) -> None:  # noqa: ANN401
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        documents = packed()
        if documents is None:
            return self.forward(*args, **kwargs)
        apart = documents.apart
        given = {name: None if name in OF_THE_SEQUENCE else value for name, value in kwargs.items()}
        outs = [
            self.forward(
                *(rows_of(batch, value, documents) for value in args),
                **{name: rows_of(batch, value, documents) for name, value in given.items()},
            )
            for batch in apart.batches
        ]
        if isinstance(outs[0], tuple):
            whole = apart.together([out[0] for out in outs])
            return (whole, *(None for _ in outs[0][1:]))
        return apart.together(outs)


def rows_of(batch: Rows, value: Any, documents: Documents) -> Any:  # noqa: ANN401
    if isinstance(value, tuple):
        return tuple(rows_of(batch, each, documents) for each in value)
    if isinstance(value, Tensor) and value.shape[:2] == (1, documents.tokens):
        return batch.of(value)
    return value


@torch.no_grad()
def find_mixers(body: Any, vocabulary: int) -> tuple[str, ...]:  # noqa: ANN401
    """The classes of the innermost modules that let one document of a pack change what comes out at
    another. They are found by asking each module of the `body`, not by name.
    """
    device = next(body.parameters()).device
    numbers = torch.Generator().manual_seed(5)
    ids = torch.randint(vocabulary, (1, PROBED_TOKENS), generator=numbers).to(device)
    documents = Documents((1, PROBED_TOKENS - 1), torch.tensor([0, 1, PROBED_TOKENS]).to(device))
    positions = torch.tensor([[0, *range(PROBED_TOKENS - 1)]]).to(device)
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Tensor]] = []

    def of_each_token(states: Any) -> bool:  # noqa: ANN401
        right = isinstance(states, Tensor) and states.dim() == 3 and states.is_floating_point()
        return right and states.shape[:2] == ids.shape

    def note(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:  # noqa: ANN401
        states, made = args[0] if args else kwargs.get("hidden_states"), first_of(out)
        if all(of_each_token(each) for each in (states, made)):
            calls.append((module, args, kwargs, made))

    inside = [module for module in body.modules() if module is not body]
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in inside]
    with packed_as(documents):
        try:
            body(
                input_ids=ids,
                position_ids=positions,
                attention_mask=torch.ones_like(ids),
                use_cache=False,
            )
        finally:
            for hook in hooks:
                hook.remove()
        found = [call[0] for call in calls if mixes(*call)]
    innermost = [
        module
        for module in found
        if not any(other in found for other in module.modules() if other is not module)
    ]
    return tuple(sorted({type(module).__name__ for module in innermost}))


def mixes(module: nn.Module, args: Any, kwargs: Any, before: Tensor) -> bool:  # noqa: ANN401
    """Whether another first token, a document of its own, changes the others."""
    if args:
        moved = args[0].clone()
        args = (moved, *args[1:])
    else:
        moved = kwargs["hidden_states"].clone()
        kwargs = kwargs | {"hidden_states": moved}
    moved[:, 0] += 1
    after = first_of(module(*args, **kwargs))
    return bool((after[:, 1:] - before[:, 1:]).abs().max() > 1e-6)


def first_of(out: Any) -> Any:  # noqa: ANN401
    return out[0] if isinstance(out, tuple) else out
