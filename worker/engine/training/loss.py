"""The loss, from hidden states at trained positions alone; logits exist a chunk at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from worker.engine.kernels import chosen
from worker.engine.kernels.nll import nll_in_place, nll_plain

# Positions whose logits are in memory at once, in fp32.
CHUNK = 1024

# Of hidden states (positions, width) those over the vocabulary (positions, vocabulary).
Logits = Callable[[Tensor], Tensor]


def token_nll(
    hidden: Tensor, head: Tensor, labels: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(NLL in nats, whether the guess is right) of each of P `labels`, (P,) int64, under the logits
    `hidden @ head.T + bias`; (P,) fp32 and bool. `hidden` (P, width), `head` (vocabulary, width)
    and `bias` (vocabulary,) have one dtype.
    """
    if head.requires_grad and torch.is_grad_enabled():
        return nll_through(partial(logits_of, head=head, bias=bias), hidden, labels, trained=True)
    losses, right = HeadAndLoss.apply(hidden, head, labels, bias, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return losses, right


class HeadAndLoss(torch.autograd.Function):
    """A frozen head's product and the cross-entropy in one. The gradient of the hidden states is
    taken while a chunk's logits are there, so that nothing of the vocabulary's size is kept or
    computed again. (The scheme of Liger's fused linear cross-entropy, arXiv:2410.10989.)
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(hidden) if with_gradient else None
        losses = torch.empty(len(labels), device=hidden.device)
        right = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            chunk = slice(start, start + CHUNK)
            if chosen.fused(hidden):
                logits = logits_of(hidden[chunk], head, bias)
                losses[chunk], right[chunk] = nll_in_place(logits, labels[chunk], with_gradient)
            else:
                losses[chunk], right[chunk], logits = nll_plain(
                    logits_of(hidden[chunk], head, bias),
                    labels[chunk],
                    with_gradient=with_gradient,
                )
            if gradient is not None:
                gradient[chunk] = logits.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return losses, right

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *of_outputs: Tensor,
    ) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return weighed(gradient, of_outputs[0]), None, None, None, None


class NllThrough(torch.autograd.Function):
    """As `HeadAndLoss`, for a frozen head that is more than a product."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        labels: Tensor,
        logits: Logits,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(hidden) if with_gradient else None
        losses = torch.empty(len(labels), device=hidden.device)
        right = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            chunk = slice(start, start + CHUNK)
            with torch.set_grad_enabled(with_gradient):
                part = hidden[chunk].detach().requires_grad_(with_gradient)
                nll, right[chunk] = nll_of(logits(part), labels[chunk])
                if gradient is not None:
                    (gradient[chunk],) = torch.autograd.grad(nll.sum(), part)
            losses[chunk] = nll.detach()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return losses, right

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *of_outputs: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return weighed(gradient, of_outputs[0]), None, None, None


def weighed(gradient: Tensor, weights: Tensor) -> Tensor:
    """(P, width): each position's gradient times its weight (P,). In fp32: one over its tokens may
    be 0.4 % off in bf16, and the whole gradient with it.
    """
    return (gradient.float() * weights[:, None]).to(gradient.dtype)


def nll_through(
    logits: Logits, hidden: Tensor, labels: Tensor, *, trained: bool
) -> tuple[Tensor, Tensor]:
    """As `token_nll`, of the `logits` (positions, vocabulary) of hidden states; a head that is
    `trained` too computes each chunk's once more for the backward, which then knows what each
    position weighs.
    """
    if not trained:
        losses, right = NllThrough.apply(hidden, labels, logits, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return losses, right

    def of_chunk(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return nll_of(logits(hidden), labels)

    chunks = [
        cast("tuple[Tensor, Tensor]", checkpoint(of_chunk, *chunk, use_reentrant=False))
        for chunk in zip(torch.split(hidden, CHUNK), torch.split(labels, CHUNK), strict=True)
    ]
    losses, right = zip(*chunks, strict=True)
    return torch.cat(losses), torch.cat(right)


def nll_of(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    return cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels


def logits_of(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    """(positions, vocabulary) in the dtype of a product."""
    return hidden @ head.T if bias is None else torch.addmm(bias, hidden, head.T)
