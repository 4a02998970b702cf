"""Other forms of a trained model, each a sealed folder: one module for each."""

from collections.abc import Callable
from typing import Any, Literal

from tunery.errors import InvalidRequest
from tunery.exports import Gguf, Merged, Ollama, Peft, refuse
from worker.engine.base import WarmBase
from worker.engine.errors import Untrainable
from worker.engine.exports import gguf, merged, ollama, peft
from worker.engine.exports.adapter import Adapter
from worker.protocol import Export, Finished, Noted, Report


def make(
    order: Export,
    bases: WarmBase,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """Raises:
    StopAsked: from `stop_if_asked`.
    Untrainable: this model cannot be had in this form; the message names the mend.
    BaseRefused: see `base.read_folder`.
    DiskFull: the folder cannot be written.

    """

    def note(message: str, level: Literal["info", "warn"], data: dict[str, Any]) -> None:
        whose = {"job_id": order.job_id, "token": order.token}
        report(Noted(**whose, level=level, message=message, data=data))

    adapter = Adapter.read(order.adapter)
    base = bases.open(order.base_folder, order.spec.base_revision, order.cache)
    try:
        refuse(order.format, architecture=base.shape.architecture, lora=order.spec.lora)
    except InvalidRequest as error:
        raise Untrainable("export_refused", str(error)) from error
    match order.options:
        case Peft():
            folder = peft.make(order, adapter, base, note)
        case Merged() as options:
            folder = merged.make(order, options, adapter, bases, note, stop_if_asked)
        case Gguf() as options:
            folder = gguf.make(order, options, adapter, base)
        case Ollama() as options:
            folder = ollama.make(order, options, adapter, base)
    report(Finished(job_id=order.job_id, token=order.token, folder=folder))
