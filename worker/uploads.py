"""Checkpoints on their way to the API, beside the training that wrote them."""

import logging
import shutil
import threading
import time
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Self

from tunery import messages, traces
from tunery.base_model import file_facts
from tunery.failpoint import failpoint
from worker.client import ApiAway, Client
from worker.outbox import Outbox
from worker.protocol import Checkpointed

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2


class CheckpointUploads:
    """Sends one checkpoint after the other, in a thread of its own. Of those that wait only the
    newest is worth sending; each folder is deleted when it is no longer needed.
    """

    def __init__(self, client: Client, lease: messages.Lease, outbox: Outbox) -> None:
        self.client = client
        self.lease = lease
        self.outbox = outbox
        self.waiting: Checkpointed | None = None
        self.sending = False
        self.closed = False
        self.error: Exception | None = None
        self.changed = threading.Condition()
        # What it logs is about the same attempt.
        send_on = partial(copy_context().run, self.send_on)
        self.thread = threading.Thread(target=send_on, name="uploads", daemon=True)

    def add(self, written: Checkpointed) -> None:
        with self.changed:
            older, self.waiting = self.waiting, written
            self.changed.notify_all()
        if older:
            shutil.rmtree(older.folder)

    def require_well(self) -> None:
        """Raises what has ended the sending: `LeaseLost`, `ApiRefused` or `OSError`."""
        if self.error:
            raise self.error

    def wait_sent(self) -> None:
        """Until nothing waits any more, or there is no time left. Raises like `require_well`."""
        with self.changed:
            # The deadline may come about while we wait; an upload under way may hang.
            while time.monotonic() < self.client.deadline and not self.changed.wait_for(
                lambda: self.error or self.closed or not (self.waiting or self.sending),
                timeout=LOOK_SECONDS,
            ):
                pass
        self.require_well()

    def send_on(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.closed or not self.waiting:
                    return
                written, self.waiting, self.sending = self.waiting, None, True
            try:
                attempt, step = traces.attempt(written.job_id, written.token), written.metrics.step
                with traces.timed("upload of a checkpoint", within=attempt, step=step):
                    self.send(written)
            except ApiAway as error:
                log.warning("no time to send the checkpoint: %s", error)
                self.closed = True
            except Exception as error:  # noqa: BLE001  (the thread that waits for us raises it)
                self.error = error
            with self.changed:
                self.sending = False
                self.changed.notify_all()
            if self.error:
                return

    def send(self, written: Checkpointed) -> None:
        # Whoever goes on from this checkpoint does not report the steps before it again.
        self.outbox.flush()
        files = []
        for path in sorted(written.folder.iterdir()):
            facts = file_facts(path)
            self.client.upload(self.lease, path, facts, patience=float("inf"))
            files.append(facts)
        failpoint("agent.checkpoint_uploaded")
        self.client.add_checkpoint(
            self.lease,
            messages.CheckpointWritten(
                step=written.metrics.step,
                epoch=written.epoch,
                metrics=written.metrics,
                files=files,
                samples=written.samples,
            ),
            patience=float("inf"),
        )
        shutil.rmtree(written.folder)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """What is still being sent is left to itself: its claim is over."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
