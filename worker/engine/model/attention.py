"""Attention over packed rows: tokens of several documents in one sequence, none of which
sees another. It replaces transformers' own, which would build a dense tokens x tokens mask for it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

DOCUMENTS = "documents"


@dataclass(frozen=True)
class Documents:
    """Where the documents of a sequence lie: their lengths in its order, and on the device
    `bounds` (documents + 1,) int32, from 0 to the sequence's own length.
    """

    lengths: tuple[int, ...]
    bounds: Tensor


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (transformers makes none for this attention)
    scaling: float,
    documents: Documents | None = None,
    **_: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """One layer's attention, in the shape of transformers' `AttentionInterface`: query
    (1, heads, N, width), key and value (1, key heads, N, width), result (1, N, heads, width).

    It is causal if the layer, `module`, says so. Without `documents` each sequence of the batch is
    one, of full length.

    On CUDA it is variable-length flash attention. Elsewhere each document is attended to by
    itself, which is also its plain meaning.
    """
    causal = bool(module.is_causal)
    if documents is None:
        parts = [(query, key, value)]
    elif query.is_cuda:
        longest = max(documents.lengths)
        # Autocast leaves q and k in fp32, which their positions are in.
        states_of = (query.to(value.dtype), key.to(value.dtype), value)
        q, k, v = (states[0].transpose(0, 1) for states in states_of)
        out = varlen_attn(
            q,
            k,
            v,
            documents.bounds,
            documents.bounds,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0 if causal else -1),
            enable_gqa=True,
        )
        assert isinstance(out, Tensor)  # noqa: S101  (nothing else was asked for)
        return out[None], None
    else:
        lengths = list(documents.lengths)
        split = (torch.split(states, lengths, dim=2) for states in (query, key, value))
        parts = list(zip(*split, strict=True))
    # A single query is the newest token's, after keys that were kept.
    outs = [
        scaled_dot_product_attention(
            q, k, v, is_causal=causal and q.shape[2] > 1, scale=scaling, enable_gqa=True
        )
        for q, k, v in parts
    ]
    return torch.cat(outs, dim=2).transpose(1, 2), None


AttentionInterface.register(DOCUMENTS, attention)
