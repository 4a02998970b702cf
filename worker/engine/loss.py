"""The loss, from hidden states at trained positions alone; logits exist a chunk at a time."""

from typing import Any

import torch
from torch import Tensor

# Positions whose logits are in memory at once, in fp32.
CHUNK = 1024


def summed_nll(hidden: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(summed NLL in nats, right guesses) of `labels` (P,) int64 under the logits `hidden @ head.T`
    of P positions; 0-d, fp32 and int64. `hidden` (P, width) and the frozen `head` (vocabulary,
    width) have one dtype.
    """
    nll, right = HeadAndLoss.apply(hidden, head, labels, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return nll, right


class HeadAndLoss(torch.autograd.Function):
    """The head's product and the cross-entropy in one. The gradient of the hidden states is taken
    while a chunk's logits are there, so that nothing of the vocabulary's size is kept or computed
    again; the head is frozen and needs none. (The scheme of Liger's fused linear cross-entropy,
    arXiv:2410.10989.)
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(hidden) if with_gradient else None
        nll = torch.zeros((), device=hidden.device)
        right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            chunk = slice(start, start + CHUNK)
            wanted = labels[chunk, None]
            logits = (hidden[chunk] @ head.T).float()
            best, guess = logits.max(dim=1, keepdim=True)
            right += (guess == wanted).sum()
            logits -= best
            of_wanted = logits.gather(1, wanted)
            chances = logits.exp_()
            total = chances.sum(dim=1, keepdim=True)
            nll += (total.log() - of_wanted).sum()
            if gradient is not None:
                # d NLL / d logits = softmax - one-hot
                chances /= total
                chances.scatter_add_(1, wanted, torch.full_like(of_wanted, -1.0))
                gradient[chunk] = chances.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return nll, right

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *of_outputs: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        # In fp32: one over its tokens may be 0.4 % off in bf16, and the whole gradient with it.
        return (gradient.float() * of_outputs[0]).to(gradient.dtype), None, None, None
