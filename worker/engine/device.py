"""What the engine computes on, and in which numbers."""

import os

import torch


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where a GPU multiplies it fast; fp32 on CPU, where it is exact and often faster."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def device_name() -> str:
    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def device_memory() -> int:
    """Bytes: the GPU's, else the machine's."""
    if device().type == "cuda":
        return int(torch.cuda.get_device_properties().total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
