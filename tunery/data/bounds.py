"""Bounds on what a chat template may take: it is a program, and may be a stranger's."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Of one conversation. One of 8 MiB takes a tenth of a second.
RENDER_SECONDS = 5


class TemplateTooCostly(BaseException):
    """A rendering has gone over its bounds; no other is to be tried. The message is a clause, not a
    sentence. Jinja goes on after any `Exception` while it computes what is constant.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the chat template takes {what} for one conversation")


class Rendering:
    """What of a template is under way in this process' main thread, its compiling or a rendering;
    `seconds` of the process' computing have gone by since it began. None: nothing.
    """

    seconds: int | None = None

    def __enter__(self) -> None:
        self.seconds = 0

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.seconds = None
        if isinstance(error, MemoryError):
            raise TemplateTooCostly("more memory than there is") from error

    def tick(self, _signal: int, _frame: FrameType | None) -> None:
        if self.seconds is None:
            return
        self.seconds += 1
        if self.seconds > RENDER_SECONDS:
            raise TemplateTooCostly(f"more than {RENDER_SECONDS} seconds")


rendering = Rendering()


@contextmanager
def renderings_bounded(memory_bytes: int) -> Iterator[None]:
    """Within it `TemplateTooCostly` ends what is done with a template if it computes for more than
    some seconds, or if this process takes so many bytes more than it has now. Only in the main
    thread, to which signals come; the bound on memory only on Linux.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, rendering.tick)
    signal.siginterrupt(signal.SIGVTALRM, False)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if (held := address_space()) is not None:
            most = held + memory_bytes
            limits = [limit for limit in (soft, hard, most) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def address_space() -> int | None:
    """Bytes of it that this process has; None where that cannot be seen."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
