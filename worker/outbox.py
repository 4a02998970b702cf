"""Events on their way to the API, in batches. While the API is away they wait here, and the
training goes on.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from tunery import messages
from worker import protocol
from worker.client import ApiAway, Client

if TYPE_CHECKING:
    from tunery.measured import Fetching, Progress

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
MOST_EVENTS = 100


class Outbox:
    """Of one lease. Filled by one thread; any may flush."""

    def __init__(self, client: Client, lease: messages.Lease) -> None:
        self.client = client
        self.lease = lease
        self.events: list[messages.JobEvent] = []
        self.sent = 0
        self.progress: Progress | None = None
        self.fetching: Fetching | None = None
        self.step = 0
        self.due = 0.0
        self.sending = threading.Lock()

    def add(
        self, *, level: Literal["info", "warn"], message: str, data: dict[str, Any] | None = None
    ) -> None:
        self.events.append(messages.JobEvent(level=level, message=message, data=data))

    def add_step(self, stepped: protocol.Stepped) -> None:
        self.progress, self.step = stepped.progress, stepped.progress.step
        metrics, total = stepped.metrics, stepped.progress.total_steps
        message = f"Step {metrics.step}/{total}: training loss={metrics.train_loss:.2f}"
        if metrics.valid_loss is not None:
            message += f", validation loss={metrics.valid_loss:.2f}"
        facts = {"total_steps": total} | stepped.pace.model_dump()
        self.events.append(messages.JobEvent(message=message, metrics=metrics, data=facts))

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self.events or self.progress or self.fetching)

    def flush_if_due(self) -> None:
        """Tries once, unless another thread is at it."""
        if not self.waits or time.monotonic() < self.due:
            return
        if self.sending.acquire(blocking=False):
            try:
                self.send_all(patience=0)
            except ApiAway as error:
                log.warning("%d events wait for the API: %s", len(self.events), error)
            finally:
                self.sending.release()
        self.due = time.monotonic() + FLUSH_SECONDS

    def flush(self) -> None:
        """Sends all there is, however long the API is away."""
        with self.sending:
            self.send_all(patience=float("inf"))

    def send_all(self, *, patience: float) -> None:
        while self.waits:
            events, progress, fetching = self.events[:MOST_EVENTS], self.progress, self.fetching
            batch = messages.EventBatch(
                first=self.sent, events=events, progress=progress, fetching=fetching
            )
            self.client.add_events(self.lease, batch, patience=patience)
            self.sent += len(events)
            del self.events[: len(events)]
            if self.progress is progress:
                self.progress = None
            if self.fetching is fetching:
                self.fetching = None
