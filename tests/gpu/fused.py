"""Attention as CUDA computes it: PyTorch chooses a kernel by the device, and for the meta device
plain operations, which keep all scores.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as plain

# Of flash attention, and of the memory-efficient one.
WIDEST_HEAD = 256
kernels = torch.ops.aten


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """In the place of `scaled_dot_product_attention`; no kernel takes heads of two widths, and that
    for masks takes no groups of heads.
    """
    widths = {query.shape[-1], value.shape[-1]}
    fits = len(widths) == 1 and max(widths) <= WIDEST_HEAD
    how: dict[str, Any] = {"scale": scale}
    if fits and attn_mask is None and query.dtype is not torch.float32:
        flash = kernels._scaled_dot_product_flash_attention
        out: Tensor = flash(query, key, value, dropout_p, is_causal, **how)[0]
        return out
    if not fits or query.shape[1] != key.shape[1]:
        how |= {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal}
        return plain(query, key, value, enable_gqa=enable_gqa, **how)
    bias = attn_mask
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
        bias = zeros.masked_fill(~attn_mask, -torch.inf)
    if bias is not None:
        bias = bias.expand(*query.shape[:3], key.shape[2])
    efficient = kernels._scaled_dot_product_efficient_attention
    how |= {"dropout_p": dropout_p, "is_causal": is_causal}
    made: Tensor = efficient(query, key, value, bias, torch.is_grad_enabled(), **how)[0]
    return made
