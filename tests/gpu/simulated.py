"""A GPU that is not there, for tests. The engine runs on it unchanged.

A tensor on it is one on PyTorch's meta device, which has a shape and a dtype and neither memory
nor values. To Python it says that it is on `cuda:0`; tensors on the CPU are real. Every operation
is seen, and goes into a `Ledger`: what is launched, how many bytes that moves, where the host
waits for the device, which copies it waits for, how much memory is taken. An operation on tensors
of two devices raises, as does more than the device's memory.

What is read back is made up: floats are 1, integers 0, bools true. So nothing here says whether a
number is right; the tests on the CPU do. Neither does it say how long anything takes, whether a
kernel takes what it is given, how the caching allocator cuts its memory into pieces, nor what
CUDA's own libraries take for themselves. The device has no random numbers of its own. In a
backward pass under autocast, what autograd itself computes is not cast again. int8 weights cannot
be made on it: bitsandbytes moves them in their place.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx.experimental import _config as config
from torch.nn.functional import scaled_dot_product_attention as plain_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import _allowed_determinism_checks_to_fns

from tests.gpu import autocast, fused
from tests.gpu.ledger import Ledger, tensors_in
from worker.engine.model import uncompiled  # noqa: F401  (bitsandbytes is imported without a GPU)

SHOWN = torch.device("cuda", 0)
# Where its tensors really are.
REAL = torch.device("meta")
# How large their results are depends on values, for which the host waits.
OF_VALUES = {"nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "equal"}
# They make their tensors on the host, and copy them.
FROM_NUMBERS = {torch.tensor, torch.as_tensor}
MADE_UP = {torch.bool: True}


class MixedDevices(RuntimeError):
    """As CUDA has it: "Expected all tensors to be on the same device"."""


def made_up(dtype: torch.dtype) -> Any:
    return MADE_UP.get(dtype, 1.0 if dtype.is_floating_point else 0)


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, those of a backward pass too."""

    def __init__(self, ledger: Ledger, memory: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger: Ledger = ledger
        self.memory: int = memory
        # The device that Python has just named, if any: meta's own are placeholders.
        self.named: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # here tensors are what they are
            return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        read = list(tensors_in(args, kwargs))
        ours = [each for each in read if self.ledger.holds(each)]
        target = kwargs.get("device")
        on_meta = target is not None and target.type == REAL.type
        like = "meta" if any(each.is_meta for each in read) else "cuda"
        if not ours and not (on_meta and (self.named or like) == "cuda"):
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if name == "_local_scalar_dense":
            self.ledger.waited("an item read")
            return made_up(args[0].dtype)
        if name == "_to_copy" and target is not None and target.type == "cpu":
            return self.read_back(args[0], kwargs)
        if name == "copy_" and not self.ledger.holds(args[0]):
            self.ledger.waited("a copy to the host")
            return args[0].fill_(made_up(args[0].dtype))
        if name == "_to_copy" and not ours:
            self.sent(args[0], non_blocking=kwargs.get("non_blocking", False))
        elif name == "copy_" and not self.ledger.holds(args[1]):
            self.sent(args[1], non_blocking=len(args) > 2 and args[2])
        else:
            self.require_one_device(name, read, ours)
            if name in OF_VALUES or (name.startswith("index") and masks_in(args)):
                self.ledger.waited(f"values asked for by {name}")
        autocast.require_known(name, read)
        with patch.object(config, "meta_nonzero_assume_all_nonzero", new=True):
            out = func(*args, **kwargs)
        written = list(tensors_in(out))
        if func.namespace == "tunery":  # a kernel of ours does not give what it writes over
            given = zip(func._schema.arguments, args, strict=False)
            written += [each for as_, each in given if as_.alias_info and as_.alias_info.is_write]
        self.note(name, func._schema.is_mutable, read, written)
        return out

    def note(self, name: str, mutates: bool, read: list[Tensor], written: list[Tensor]) -> None:
        fresh = [each for each in written if each.is_meta and not self.ledger.holds(each)]
        for each in fresh:
            self.ledger.take(each)
        if self.ledger.now > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to have {self.ledger.now} bytes of {self.memory}."
            )
        if fresh or mutates:
            self.ledger.launched(name, read, written)

    def read_back(self, tensor: Tensor, kwargs: dict[str, Any]) -> Tensor:
        if not kwargs.get("non_blocking"):
            self.ledger.waited("a copy to the host")
        dtype = kwargs.get("dtype") or tensor.dtype
        return torch.full(tensor.shape, made_up(dtype), dtype=dtype, device="cpu")

    def sent(self, tensor: Tensor, *, non_blocking: bool) -> None:
        """From the host's memory, if it is no placeholder and no number."""
        if tensor.is_meta or tensor.ndim == 0:
            return
        if not (non_blocking and getattr(tensor, "pinned", False)):
            self.ledger.copied_pageable()

    def require_one_device(self, name: str, read: list[Tensor], ours: list[Tensor]) -> None:
        """A number on the CPU may stand beside tensors on the GPU."""
        others = {str(each.device) for each in read if each.ndim and not self.ledger.holds(each)}
        if ours and others:
            raise MixedDevices(f"{name} on tensors on {SHOWN} and on {', '.join(sorted(others))}")


def masks_in(args: Any) -> bool:
    return any(each.dtype in {torch.bool, torch.uint8} for each in tensors_in(args[1:2]))


class Shown(TorchFunctionMode):
    """Has Python see CUDA tensors, and asks PyTorch for meta tensors where it is asked for CUDA."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels: Kernels = kernels
        holds = kernels.ledger.holds
        self.answers: dict[Any, Callable[..., Any]] = {
            of(Tensor.device): lambda t: SHOWN if holds(t) else t.device,
            of(Tensor.is_cuda): holds,
            of(Tensor.is_meta): lambda t: t.is_meta and not holds(t),
            Tensor.get_device: lambda t: 0 if holds(t) else t.get_device(),
            Tensor.pin_memory: pinned,
            Tensor.is_pinned: lambda t, *_: getattr(t, "pinned", False),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.answers:
            return self.answers[func](*args)
        if func in (torch.device, torch._C._nn._parse_to):  # they only read what they are given
            return func(*args, **kwargs)
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            like = args[1]
            args = (args[0], self.answers[of(Tensor.device)](like), like.dtype, *args[2:])
        named = [device for each in (*args, *kwargs.values()) if (device := device_in(each))]
        args = tuple(map(real, args))
        kwargs = {name: real(value) for name, value in kwargs.items()}
        if func is Tensor.cuda:
            return args[0].to(REAL, non_blocking=kwargs.get("non_blocking", False))
        if autocast.is_on():
            args, kwargs = autocast.cast(func, args, kwargs)
        if func is plain_attention and self.kernels.ledger.holds(args[0]):
            return fused.attention(*args, **kwargs)
        if func in FROM_NUMBERS and kwargs.get("device") is REAL:
            del kwargs["device"]
            func, args, kwargs = Tensor.to, (func(*args, **kwargs), REAL), {}
        if not named:
            return func(*args, **kwargs)
        with patch.object(self.kernels, "named", new=named[0]):
            return func(*args, **kwargs)


def device_in(value: Any) -> str | None:
    """Which of the two that look alike here it names."""
    if not isinstance(value, torch.device | str):
        return None
    name = str(value).partition(":")[0]
    return name if name in {"cuda", "meta"} else None


def real(value: Any) -> Any:
    return REAL if device_in(value) == "cuda" else value


def of(attribute: Any) -> Any:
    return attribute.__get__


def pinned(tensor: Tensor, *_: Any) -> Tensor:
    """A copy of it that the device can read while the host goes on."""
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


def shape_and_dtype(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


@contextmanager
def simulated_gpu(
    memory: int = 80 << 30, *, capability: tuple[int, int] = (9, 0), taken: int = 0
) -> Iterator[Ledger]:
    """In it this machine has one GPU with so many bytes of `memory`, of which others have `taken`
    some.
    """
    ledger = Ledger()

    def most(*_: Any) -> int:
        return ledger.peak

    def forget_most(*_: Any) -> None:
        ledger.peak = ledger.now

    properties = SimpleNamespace(
        name="Simulated GPU",
        total_memory=memory,
        major=capability[0],
        minor=capability[1],
        multi_processor_count=132,
        gcnArchName="",
    )
    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: properties.name,
        "is_bf16_supported": lambda *_, **__: capability >= (8, 0),
        "mem_get_info": lambda *_: (memory - taken - ledger.now, memory),
        "memory_allocated": lambda *_: ledger.now,
        "memory_reserved": lambda *_: ledger.now,
        "max_memory_allocated": most,
        "reset_peak_memory_stats": forget_most,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: ledger.waited("torch.cuda.synchronize"),
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
        "get_rng_state_all": list,
        "device": lambda *_: ExitStack(),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **cuda))
        # Else transformers would load weights in threads of its own, which see another device.
        stack.enter_context(patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        # Else a backward pass, which recomputes activations in Python, would see meta tensors.
        stack.enter_context(patch("torch.autograd.has_torch_function", lambda _: False))
        # It compares devices too, some of which were asked for where tensors are what they are.
        stack.enter_context(patch.dict(_allowed_determinism_checks_to_fns, default=shape_and_dtype))
        stack.enter_context(patch("torch.utils.checkpoint.get_device_states", lambda *_: ([], [])))
        stack.enter_context(patch("torch.utils.checkpoint.set_device_states"))
        # It keeps tensors on the device for good.
        stack.enter_context(patch.dict("bitsandbytes.functional.name2qmap"))
        kernels = stack.enter_context(Kernels(ledger, memory - taken))
        stack.enter_context(Shown(kernels))
        yield ledger
