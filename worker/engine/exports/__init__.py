"""Other forms of a trained model, each a folder of its own: one module for each target."""

from collections.abc import Callable

from worker.engine.base import WarmBase
from worker.engine.errors import Untrainable
from worker.protocol import Export, Report


def make(
    order: Export,
    bases: WarmBase,
    report: Callable[[Report], None],
    stop_if_asked: Callable[[], None],
) -> None:
    """Makes one export, from the adapter's files to a sealed folder.

    Raises:
        StopAsked: from `stop_if_asked`.
        Untrainable: this model has no such form; the message names the mend.
        BaseRefused: see `base.read_folder`.
        DiskFull: the folder cannot be written.

    """
    del bases, report, stop_if_asked
    raise Untrainable("export_refused", f"The format {order.format} is not made yet.")
