"""The engine's log on its way to the API while the attempt runs."""

import logging
import time
from contextlib import AbstractContextManager

from tunery import log_lines, messages
from worker.client import ApiAway, ApiRefused, Client
from worker.warm_engine import WarmEngine

log = logging.getLogger(__name__)

SEND_SECONDS = 2.0
# An API that hangs costs a try 10 s, in which nobody hears the engine.
AWAY_SECONDS = 60.0
PART_BYTES = 64 << 10
# An engine that writes faster than that is sent loses what is in between.
BEHIND_BYTES = 512 << 10


def about_attempt(lease: messages.Lease) -> AbstractContextManager[None]:
    """Whose this worker's own lines are."""
    return log_lines.about(job=lease.job_id, attempt=lease.token, project=lease.project_id)


class LogSender:
    """Of one attempt. Whatever becomes of the log, the attempt goes on."""

    def __init__(self, client: Client, lease: messages.Lease, engine: WarmEngine) -> None:
        self.client = client
        self.lease = lease
        self.engine = engine
        self.position = 0
        # What may have arrived; it is sent again as it was.
        self.part: messages.LogPart | None = None
        self.refused = False
        self.due = 0.0

    def send_if_due(self) -> None:
        """The lines that are whole, at most one part."""
        if time.monotonic() >= self.due:
            sent = self.send(rest=False)
            waits = self.part is not None and not sent
            self.due = time.monotonic() + (AWAY_SECONDS if waits else SEND_SECONDS)

    def send_rest(self) -> None:
        """What is not answered is sent once more: there is no later time."""
        while self.send(rest=True) or self.send(rest=True):
            pass

    def send(self, *, rest: bool) -> bool:
        """Whether something was sent. Raises `LeaseLost`."""
        if self.part is None:
            self.part = self.next_part(rest=rest)
        if self.part is None or self.refused:
            return False
        try:
            self.client.add_log(self.lease, self.part)
        except ApiAway as error:
            log.info("the log waits for the API: %s", error)
            return False
        except ApiRefused as error:  # an API older than this has no place for logs
            log.warning("the log is not sent: %s", error)
            self.refused = True
            return False
        self.position, self.part = self.part.start + self.part.bytes, None
        return True

    def next_part(self, *, rest: bool) -> messages.LogPart | None:
        start, data = self.engine.log_since(self.position, most=PART_BYTES, behind=BEHIND_BYTES)
        if not rest or len(data) == PART_BYTES:
            whole = data[: data.rfind(b"\n") + 1]
            data = whole or (data if len(data) == PART_BYTES else b"")
        if not data:
            return None
        told = self.engine.told(data)
        for line in told.splitlines():
            log_lines.OF_ENGINE.info("%s", line)
        return messages.LogPart(start=start, bytes=len(data), text=told)
