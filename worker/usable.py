"""Whether the engine's device can be used, and still can after a fault."""

from tunery.states import FailureClass
from worker.protocol import Broke, Ready


class DeviceUnusable(Exception):
    """Nothing can be trained on this machine's GPU. Its words say why, and what to do."""


def require_usable(ready: Ready | None, gpus: int = 1) -> None:
    """Raises `DeviceUnusable` if the engine has said that it is not, or sees fewer than the GPUs
    that one training may use.
    """
    if ready and ready.unusable:
        raise DeviceUnusable(ready.unusable)
    if ready and ready.device != "cpu" and ready.gpus < gpus:
        raise DeviceUnusable(
            f"TUNERY_GPUS_PER_JOB is {gpus}, and this worker sees {ready.gpus} of the machine's "
            "GPUs. Lower it, or give the worker more with CUDA_VISIBLE_DEVICES; `tunery worker "
            f"--gpus-per-job {gpus}` does both."
        )


def may_be_lost(ready: Ready | None, broke: Broke) -> bool:
    """After most of CUDA's errors a process can do nothing more on its GPU."""
    on_gpu = ready is not None and ready.device != "cpu"
    return on_gpu and broke.failure_class is FailureClass.INFRA
