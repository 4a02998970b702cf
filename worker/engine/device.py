"""The one device that this process trains on."""

from functools import cache

import torch
from torch import Tensor

from worker.engine.host import resident_memory, total_memory


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# NVIDIA's Ampere: the oldest with bf16 and flash attention.
LEAST_CAPABILITY = (8, 0)
# Of a GPU's memory, up to this is taken by the driver and by this process's own context.
OWN_BYTES = 1 << 30
# What PyTorch says where there is no GPU to use: then a CPU is meant.
NO_GPU = ("Found no NVIDIA driver", "No CUDA GPUs are available")


def unusable() -> str | None:
    """Why nothing can be trained on the GPU that is here; None if it can be, or if there is none.
    On the CPU instead, a training would take days without anybody knowing why.
    """
    if torch.version.cuda is None:
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        first, *_ = str(error).splitlines()
        if any(words in first for words in NO_GPU):
            return None
        return (
            f"This machine's GPU cannot be used by PyTorch {torch.__version__}: {first} CUDA "
            f"{torch.version.cuda} needs a driver of its own age (CUDA 13: R580 or newer). Update "
            "the driver; to train on the CPU all the same, start the worker with "
            'CUDA_VISIBLE_DEVICES="".'
        )
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        has, least = (".".join(map(str, each)) for each in (capability, LEAST_CAPABILITY))
        return (
            f"{device_name()} has compute capability {has}; trainings need {least} (Ampere) or "
            "newer. Choose another GPU with CUDA_VISIBLE_DEVICES; with an empty one the worker "
            "trains on the CPU."
        )
    return None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is still at."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def compute_dtype() -> torch.dtype:
    """bf16 where a GPU multiplies it fast; fp32 on CPU, where it is exact and often faster."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def device_memory() -> int:
    """Bytes that a training may be planned with, free or not: the GPU's without what other
    processes hold of it, else the machine's or its container's.
    """
    if device().type == "cuda":
        return int(torch.cuda.get_device_properties().total_memory) - taken_by_others()
    return total_memory()


@cache
def taken_by_others() -> int:
    """Bytes of the GPU's memory that other processes hold, as this one finds it when it begins. It
    is asked once, so that its trainings are all planned alike.
    """
    if device().type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    taken = total - free - torch.cuda.memory_reserved()
    return taken if taken > OWN_BYTES else 0


def memory_in_use() -> int:
    """Bytes: the most that PyTorch has had allocated on the GPU since this was last asked; without
    a GPU, the resident memory of this process now.
    """
    if device().type == "cuda":
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most
    return resident_memory()


def free_cached() -> None:
    """Gives back what PyTorch holds of the device's memory and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        return
    # On a CPU a backward pass that broke, for lack of memory perhaps, leaves what it has not done,
    # with all activations before it, to the next one in its thread.
    with torch.inference_mode(mode=False), torch.enable_grad():
        torch.autograd.backward(torch.zeros(1, requires_grad=True).sum())


# What is said of it by PyTorch of a CPU, and by CUDA and its libraries, whose errors have no class
# of their own. cuBLAS that cannot be started has found no room for its workspace.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or any(words in str(error) for words in OUT_OF_MEMORY)
