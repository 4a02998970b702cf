"""The one device that this process trains on."""

import torch

from worker.engine.host import resident_memory, total_memory


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where a GPU multiplies it fast; fp32 on CPU, where it is exact and often faster."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def device_memory() -> int:
    """Bytes in all, free or not: the GPU's, else the machine's or its container's."""
    if device().type == "cuda":
        return int(torch.cuda.get_device_properties().total_memory)
    return total_memory()


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
    """Gives back what PyTorch holds of a GPU's memory and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
