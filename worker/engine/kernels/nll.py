"""The cross-entropy of logits that are there, and its gradient in their place, by a kernel that
keeps nothing else. It reads each row twice and writes it once; the second time the row should be in
the GPU's L2 cache, which no GPU has shown yet. (The scheme of Liger's, arXiv:2410.10989.)
"""

import torch
from torch import Tensor


@torch.library.custom_op("tunery::nll_in_place", mutates_args=("logits",), device_types="cuda")
def nll_in_place(logits: Tensor, labels: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """(NLL in nats, whether the guess is right) of each label (P,) int64 under logits (P,
    vocabulary), which lie row by row; (P,) fp32 and bool. All is computed in fp32. `with_gradient`:
    the logits become the gradient of their NLL, the softmax less 1 at the label.
    """
    # Triton is there where CUDA is.
    from worker.engine.kernels.nll_triton import launch  # noqa: PLC0415

    losses, right = room_for(logits, labels)
    launch(logits, labels, losses, right, with_gradient=with_gradient)
    return losses, right


@nll_in_place.register_fake
def _(logits: Tensor, labels: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return room_for(logits, labels)


def room_for(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    count = len(labels)
    losses = torch.empty(count, device=logits.device)
    return losses, torch.empty(count, dtype=torch.bool, device=logits.device)


def nll_plain(
    logits: Tensor, labels: Tensor, *, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The twin: NLL, whether the guess is right, and the gradient in fp32 if it is wanted. The
    logits are no longer what they were.
    """
    wanted = labels[:, None]
    logits = logits.float()
    best, guess = logits.max(dim=1, keepdim=True)
    right = (guess == wanted)[:, 0]
    logits -= best
    of_wanted = logits.gather(1, wanted)
    chances = logits.exp_()
    total = chances.sum(dim=1, keepdim=True)
    losses = (total.log() - of_wanted)[:, 0]
    if with_gradient:
        # d NLL / d logits = softmax - one-hot
        chances /= total
        chances.scatter_add_(1, wanted, torch.full_like(of_wanted, -1.0))
    return losses, right, chances
