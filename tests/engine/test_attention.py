"""The attention that a GPU computes, with plain torch in the place of its kernel."""

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import sliding_window_causal_mask_function

from worker.engine.model import attention as attending
from worker.engine.model.attention import attention
from worker.engine.model.documents import Documents, packed_as
from worker.engine.model.visible import Visible

HEADS, KEY_HEADS, WIDTH = 6, 2, 8
LENGTHS = (5, 1, 9, 3)


class OnGpu(Tensor):
    """A CPU's, which says that it is a GPU's."""

    is_cuda = True


class Layer(torch.nn.Module):
    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


def plain_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What PyTorch documents of its own, (tokens, heads, width) each; and what its kernel asks."""
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == max(cu_seq_q.diff().tolist())
    assert window_size in {(-1, 0), (-1, -1), (3, 0)}  # causal, not, and within four tokens
    assert enable_gqa
    group = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q[1:].tolist(), strict=False):
        for head in range(query.shape[1]):
            q, k, v = (
                states[start:end, at]
                for states, at in ((query, head), (key, head // group), (value, head // group))
            )
            scores = q @ k.T * scale
            before, after = window_size
            grid = torch.ones(end - start, end - start)
            if after == 0:
                scores = scores.masked_fill(grid.triu(1).bool(), -torch.inf)
            if before >= 0:
                scores = scores.masked_fill(grid.tril(-before - 1).bool(), -torch.inf)
            out[start:end, head] = scores.softmax(dim=1) @ v
    return out


@pytest.mark.parametrize(
    ("causal", "mask"),
    [(True, None), (False, None), (True, Visible(sliding_window_causal_mask_function(4)))],
)
def test_a_gpu_is_asked_for_what_a_cpu_computes(
    monkeypatch: pytest.MonkeyPatch, mask: Visible | None, *, causal: bool
) -> None:
    monkeypatch.setattr(attending, "varlen_attn", plain_varlen_attn)
    numbers = torch.Generator().manual_seed(1)
    tokens = sum(LENGTHS)

    def states(heads: int) -> Tensor:
        """As transformers' projections leave them."""
        made = torch.randn(1, tokens, heads, WIDTH, generator=numbers, dtype=torch.float64)
        return made.transpose(1, 2).requires_grad_()

    inputs = [states(HEADS), states(KEY_HEADS), states(KEY_HEADS)]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    documents = Documents(LENGTHS, bounds)

    def result(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        module = Layer(causal)
        with packed_as(documents):
            out, _ = attention(module, query, key, value, mask, scaling=0.3)
        assert out.shape == (1, tokens, HEADS, WIDTH)
        return out

    on_cpu = result(*inputs)
    on_gpu = result(*(tensor.as_subclass(OnGpu) for tensor in inputs)).as_subclass(Tensor)
    torch.testing.assert_close(on_gpu, on_cpu)
    weights = torch.linspace(-1, 1, on_cpu.numel()).view_as(on_cpu)
    ones, others = (torch.autograd.grad((out * weights).sum(), inputs) for out in (on_gpu, on_cpu))
    torch.testing.assert_close(ones, others)
