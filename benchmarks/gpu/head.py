"""The head and its loss, alone: time and memory of a forward and backward."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.gpu.report import NO_MEMORY, Table, on_gpu
from benchmarks.gpu.sizes import Size
from benchmarks.gpu.steps import GIB, seconds_of
from worker.engine.device import compute_dtype, device, free_cached
from worker.engine.kernels import chosen
from worker.engine.kernels.chosen import Kernels
from worker.engine.training.loss import token_nll

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(kernels: Kernels, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    chosen.choose(kernels)
    losses, _ = token_nll(hidden, head, labels)
    return losses.sum()


def fused() -> Loss | None:
    """Ours with the fused kernels, if they run here."""
    return partial(ours, "fused") if on_gpu() and chosen.proven() else None


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy((hidden @ head.T).float(), labels, reduction="sum")


def ligers() -> Loss | None:
    """Liger's fused linear cross-entropy, if it is installed."""
    if find_spec("liger_kernel") is None:
        return None
    fused = import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
    return lambda hidden, head, labels: fused(hidden, head, labels, reduction="sum")


def head(size: Size, name: str) -> None:
    columns = {
        "loss": "",
        "positions": "d",
        "vocabulary": "d",
        "ms": ".1f",
        "peak GiB": ".2f",
        "NLL, off fp32's": ".1e",
        "gradient, off fp32's": ".1e",
        "note": "",
    }
    notes = (
        "Forward and backward. The peak is what they allocate beside their inputs. Off: the "
        "relative error, by norm, against the first 512 positions in fp32."
    )
    losses: dict[str, Loss | None] = {
        "token_nll, plain kernels": partial(ours, "plain"),
        "token_nll, fused kernels": fused(),
        "full logits, torch": plain,
        "Liger fused linear cross-entropy": ligers(),
    }
    with Table(name, "The head and its loss", columns, notes) as table:
        for positions, width, vocab in size.head:
            for loss_name, loss in losses.items():
                known = (loss_name, positions, vocab)
                if loss is None:
                    table.without(*known, why="not measured: it is not installed or does not run")
                    continue
                try:
                    table.row(*known, *measured(loss, positions, width, vocab), "")
                except torch.OutOfMemoryError:
                    table.without(*known, why=NO_MEMORY)
                free_cached()


def measured(
    loss: Loss, positions: int, width: int, vocab: int
) -> tuple[float, float | None, float, float]:
    """(ms, peak GiB, relative error of the NLL, of the gradient)."""
    torch.manual_seed(1)
    made = {"device": device(), "dtype": compute_dtype()}
    hidden = torch.randn(positions, width, **made).requires_grad_()  # type: ignore[call-overload]
    weight = torch.randn(vocab, width, **made) * width**-0.5  # type: ignore[call-overload]
    labels = torch.randint(0, vocab, (positions,), device=device())

    def once() -> None:
        hidden.grad = None
        torch.autograd.backward(loss(hidden, weight, labels))

    milliseconds = 1e3 * seconds_of(once, least=0.5)
    peak = None
    if on_gpu():
        hidden.grad = None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once()
        peak = (torch.cuda.max_memory_allocated() - before) / GIB
    part = slice(0, 512)
    few = hidden[part].detach().requires_grad_()
    exact = hidden[part].detach().float().requires_grad_()
    nll = loss(few, weight, labels[part])
    wanted = plain(exact, weight.float(), labels[part])
    torch.autograd.backward([nll, wanted])
    assert few.grad is not None and exact.grad is not None  # noqa: PT018, S101
    off = (few.grad.float() - exact.grad).norm() / exact.grad.norm()
    return milliseconds, peak, abs(nll.item() / wanted.item() - 1), off.item()
