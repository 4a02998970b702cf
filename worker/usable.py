"""Whether the engine's device can be used, and still can after a fault."""

from tunery.states import FailureClass
from worker.protocol import Broke, Ready


class DeviceUnusable(Exception):
    """Nothing can be trained on this machine's GPU. Its words say why, and what to do."""


def require_usable(ready: Ready | None) -> None:
    """Raises `DeviceUnusable` if the engine has said that it is not."""
    if ready and ready.unusable:
        raise DeviceUnusable(ready.unusable)


def may_be_lost(ready: Ready | None, broke: Broke) -> bool:
    """After most of CUDA's errors a process can do nothing more on its GPU."""
    on_gpu = ready is not None and ready.device != "cpu"
    return on_gpu and broke.failure_class is FailureClass.INFRA
