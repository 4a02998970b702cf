"""Other forms of a trained model, each a sealed folder: one module for each."""

from collections.abc import Callable
from typing import Any, Literal

from tunery.errors import InvalidRequest
from tunery.exports import Gguf, Merged, Ollama, Peft, refuse
from tunery.messages import Phase
from worker.engine.errors import Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.results.exports import gguf, gguf_model, merged, ollama, peft
from worker.engine.results.exports.adapter import Adapter
from worker.protocol import Entered, Export, Finished, Noted, Report


def make(
    order: Export,
    bases: WarmBase,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """Raises:
    StopAsked: from `stop_if_asked`.
    Untrainable: this model cannot be exported in this form; the message says how to fix it.
    BaseDiffers, BaseRefused: see `WarmBase.open` and `base.load`.
    DiskFull: the folder cannot be written.

    """

    def note(message: str, level: Literal["info", "warn"], data: dict[str, Any]) -> None:
        whose = {"job_id": order.job_id, "token": order.token}
        report(Noted(**whose, level=level, message=message, data=data))

    def enter(phase: Phase) -> None:
        report(Entered(job_id=order.job_id, token=order.token, phase=phase))

    adapter = Adapter.read(order.adapter)
    enter("base")
    base = bases.open(
        order.base_folder, order.spec.base_revision, order.cache, order.base_files, stop_if_asked
    )
    try:
        refuse(order.options, architecture=base.shape.architecture, lora=order.spec.lora)
    except InvalidRequest as error:
        raise Untrainable("export_refused", str(error)) from error
    enter("publishing")
    match order.options:
        case Peft():
            folder = peft.make(order, adapter, base, note)
        case Merged() as options:
            folder = merged.make(order, options, adapter, base, bases, note, enter, stop_if_asked)
        case Gguf(quantization=None) as options:
            folder = gguf.make(order, options, adapter, base)
        case Gguf() as options:
            folder = gguf_model.make(
                order, options, adapter, base, bases, note, enter, stop_if_asked
            )
        case Ollama(quantization=None) as options:
            folder = ollama.make(order, options, adapter, base)
        case Ollama() as options:
            folder = ollama.make_whole(
                order, options, adapter, base, bases, note, enter, stop_if_asked
            )
    # Files of it were copied and merged.
    base.require_same(stop_if_asked)
    report(Finished(job_id=order.job_id, token=order.token, folder=folder))
