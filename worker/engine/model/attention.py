"""Attention over packed rows: tokens of several documents in one sequence, none of which sees
another. It stands in for transformers' own attention, which would build a dense tokens x tokens
mask. What a token sees within its document is asked of transformers, see `visible.py`.

Outside `packed_as` each row of a batch is one document, and the mask is transformers' own.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from worker.engine.errors import Unsupported
from worker.engine.model.documents import Documents, packed
from worker.engine.model.visible import Predicate, Seen, Visible

DOCUMENTS = "documents"
# PyTorch before 2.12 has it do that unasked.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
)
# Wider heads have no flash attention, and fp32 has none.
WIDEST_HEAD = 256
# What layers hand down that changes nothing here: masks say what is local, and nothing is cached,
# dropped or returned but the output.
WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "deterministic",
        "logits_to_keep",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",
        "use_cache",
    }
)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Visible | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """One layer's attention, in the shape of transformers' `AttentionInterface`: query
    (B, heads, N, width), key and value (B, key heads, N, width), result (B, N, heads, width). A
    pack has B = 1.

    `softcap` limits the scores (Gemma 2), `s_aux` or `sinks` (heads,) are learned scores of
    nothing (gpt-oss), `position_bias` (1, heads, N, N) is added to the scores. On CUDA a pack is
    computed by variable-length flash attention where it can do that; elsewhere each document by
    itself, which is also its plain meaning.

    Raises:
        Unsupported: the layer asks for something else, or for another sequence than the pack.

    """
    unknown = {name for name, given in others.items() if given is not None} - WITHOUT_EFFECT
    if unknown or dropout:
        asked = sorted(unknown | ({"dropout"} if dropout else set()))
        raise Unsupported(f"its attention asks for {', '.join(asked)}")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    scores = Scores(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=s_aux if sinks is None else sinks,
    )
    documents = packed()
    if documents is None:
        if isinstance(attention_mask, Visible):
            raise Unsupported("its mask is that of a pack, and no pack is computed on")
        seen: Seen = "all" if attention_mask is None else attention_mask
        # A single query is the newest token's, after keys that were kept.
        if attention_mask is None and causal and query.shape[2] > 1:
            seen = "causal"
        return attended(query, key, value, seen, scores, position_bias).transpose(1, 2), None
    if isinstance(attention_mask, Tensor):
        raise Unsupported("its mask is none that transformers makes")
    tokens = documents.tokens
    if not (len(query) == len(key) == 1 and query.shape[2] == key.shape[2] == tokens):
        raise Unsupported(
            f"it attends from {tuple(query.shape)} to {tuple(key.shape)} in a pack of {tokens}"
        )
    visible = attention_mask or (Visible.causal() if causal else Visible.all())
    plain = scores.plain and position_bias is None
    narrow = query.shape[-1] == value.shape[-1] <= WIDEST_HEAD
    if on_gpu(value) and plain and narrow and value.dtype is not torch.float32:
        window = visible.window(max(documents.lengths))
        if window is not None:
            return flash(query, key, value, documents, scores.scaling, window)[None], None
    outs, start = [], 0
    # Not slices, each of which has a gradient of the pack's whole length.
    parts = (torch.split(states, list(documents.lengths), dim=2) for states in (query, key, value))
    for length, q, k, v in zip(documents.lengths, *parts, strict=True):
        here = slice(start, start + length)
        bias = None if position_bias is None else position_bias[:, :, here, here]
        seen = visible.within(length, q.device)
        if plain and not keeps_scores(q, k, v, masked=isinstance(seen, Tensor)):
            outs.append(attended(q, k, v, seen, scores, bias))
        else:  # else all scores of all documents would be kept for the backward
            out = checkpoint(attended, q, k, v, seen, scores, bias, use_reentrant=False)
            outs.append(cast("Tensor", out))
        start += length
    return torch.cat(outs, dim=2).transpose(1, 2), None


def on_gpu(states: Tensor) -> bool:
    """On the meta device 16 bits stand for a GPU's, see `proof/footprint.py`."""
    return states.is_cuda or (states.is_meta and states.dtype is not torch.float32)


def keeps_scores(query: Tensor, key: Tensor, value: Tensor, *, masked: bool) -> bool:
    """Whether PyTorch has no kernel for such an attention but plain operations, which keep all
    scores for the backward.
    """
    same_width = query.shape[-1] == value.shape[-1]
    if not on_gpu(query):
        return not same_width
    is_flash = not masked and same_width and query.shape[-1] <= WIDEST_HEAD
    if is_flash and query.dtype is not torch.float32:
        return False
    return query.shape[1] != key.shape[1]


@dataclass(frozen=True)
class Scores:
    """What becomes of queries times keys before their softmax, as for `attention`."""

    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        return self.softcap is None and self.sinks is None


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    scaling: float,
    window: tuple[int, int],
) -> Tensor:
    """(N, heads, width) of a whole pack, on CUDA; the window as in `Visible`."""
    # Autocast leaves q and k in fp32, which their positions are in.
    states_of = (query.to(value.dtype), key.to(value.dtype), value)
    q, k, v = (states[0].transpose(0, 1) for states in states_of)
    longest = max(documents.lengths)
    out = varlen_attn(
        q,
        k,
        v,
        documents.bounds,
        documents.bounds,
        longest,
        longest,
        scale=scaling,
        window_size=window,
        **GROUPED,
    )
    assert isinstance(out, Tensor)  # noqa: S101  (nothing else was asked for)
    return out


def attended(
    query: Tensor, key: Tensor, value: Tensor, seen: Seen, scores: Scores, bias: Tensor | None
) -> Tensor:
    """(B, heads, queries, width). `bias` (B or 1, heads, queries, keys) is added to the scores."""
    if scores.plain and bias is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=seen if isinstance(seen, Tensor) else None,
            is_causal=isinstance(seen, str) and seen == "causal" and query.shape[2] > 1,
            scale=scores.scaling,
            enable_gqa=True,
        )
    group = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(group, dim=1) for states in (key, value))
    weights = query @ key.transpose(-1, -2) * scores.scaling
    if scores.softcap is not None:
        weights = scores.softcap * torch.tanh(weights / scores.softcap)
    if bias is not None:
        weights = weights + bias
    if isinstance(seen, str) and seen == "causal":
        seen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if isinstance(seen, Tensor):
        weights = weights.masked_fill(~seen, -torch.inf)
    if scores.sinks is not None:
        sinks = scores.sinks.to(weights.dtype)[None, :, None, None]
        weights = torch.cat([weights, sinks.expand(*weights.shape[:-1], 1)], dim=-1)
    exact = torch.promote_types(weights.dtype, torch.float32)
    chances = weights.softmax(dim=-1, dtype=exact).to(value.dtype)
    return chances[..., : key.shape[2]] @ value


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Predicate = causal_mask_function,
    attention_mask: Tensor | None = None,
    **options: Any,  # noqa: ANN401
) -> Visible | Tensor | None:
    """In the shape of transformers' `AttentionMaskInterface`."""
    if packed() is not None:
        return Visible(mask_function)
    always = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    dense: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        **(options | always),
    )
    return dense


AttentionInterface.register(DOCUMENTS, attention)
AttentionMaskInterface.register(DOCUMENTS, mask)
