"""One engine on a GPU: two would each plan with all of its memory."""

import os
import socket
import time

import torch

from worker.engine.device import device, device_name

# An engine that was killed leaves its place a moment later.
WAIT_SECONDS = 20.0
NAP_SECONDS = 0.2

# Bound for as long as this process lives.
_places: list[socket.socket] = []


def taken_by_another() -> str | None:
    """Takes this process's GPU for itself; None once it has it, or if there is none. Else says that
    another engine of this machine has it. Containers with networks of their own do not see each
    other; they are given their GPUs by whoever starts them.
    """
    if device().type != "cuda":
        return None
    uuid = uuid_of_device()
    if take(uuid, WAIT_SECONDS):
        return None
    return (
        f"Another worker on this machine has its GPU, {device_name()} ({uuid}). Give each worker "
        "one of its own with CUDA_VISIBLE_DEVICES; `tunery worker --gpus all` starts one worker "
        "for each GPU."
    )


def uuid_of_device() -> str:
    """Of a slice (MIG) its own, which is in its name alone."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # noqa: TID251 - as CUDA itself reads it
    if named.startswith("MIG-"):
        return named.partition(",")[0]
    return f"GPU-{torch.cuda.get_device_properties().uuid}"


def take(name: str, seconds: float) -> bool:
    """Whether this process has that place from now to its end. An abstract socket's name is the
    whole machine's, needs no folder that all may write, and is free when its owner ends.
    """
    place = socket.socket(socket.AF_UNIX)
    until = time.monotonic() + seconds
    while True:
        try:
            place.bind(f"\0tunery {name}")
        except OSError:
            if time.monotonic() >= until:
                place.close()
                return False
            time.sleep(NAP_SECONDS)
        else:
            _places.append(place)
            return True
