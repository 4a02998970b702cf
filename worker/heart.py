"""The worker's sign of life: it renews the leases the worker holds, and hears what to do with them.

An API that is away changes nothing: a lease is lost only when the API says so.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tunery import messages, traces
from worker.client import Client

log = logging.getLogger(__name__)

IDLE_SECONDS = 15.0
LONGEST_SECONDS = 5.0
BEATS_IN_A_LEASE = 6

Directive = Literal["run", "pause", "release", "cancel", "lost"]


@dataclass
class Held:
    """A lease at work: what the API last said of it, and the step the work is at."""

    lease: messages.Lease
    directive: Directive = "run"
    step: int = 0

    @property
    def attempt(self) -> traces.Place:
        return traces.attempt(self.lease.job_id, self.lease.token)

    @property
    def beat(self) -> messages.LeaseBeat:
        return messages.LeaseBeat(job_id=self.lease.job_id, token=self.lease.token, step=self.step)


class Heart:
    """Beats in a thread of its own, with a lease or without. `facts` tells what the worker is."""

    def __init__(self, client: Client, facts: Callable[[], messages.WorkerFacts]) -> None:
        self.client = client
        self.facts = facts
        self.held: list[Held] = []
        self.changing = threading.Lock()
        self.ended = False
        self.nudged = threading.Event()
        self.thread = threading.Thread(target=self.beat_on, name="heart", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.ended = True
        self.nudged.set()
        self.thread.join()

    @contextmanager
    def holding(self, lease: messages.Lease, step: int = 0) -> Iterator[Held]:
        """Several threads may do this at once."""
        held = Held(lease, step=step)
        with self.changing:
            self.held = [*self.held, held]
        self.nudged.set()
        try:
            yield held
        finally:
            with self.changing:
                self.held = [other for other in self.held if other is not held]

    def beat_on(self) -> None:
        while not self.ended:
            try:
                self.beat(self.held)
            except Exception:
                # Whatever it was, the next beat may come through, and a heart that stops loses the
                # job while it still runs.
                log.exception("no heartbeat")
            self.nudged.wait(self.pause())
            self.nudged.clear()

    def beat(self, held: list[Held]) -> None:
        reply = self.client.heartbeat(self.facts(), [one.beat for one in held])
        for one, answer in zip(held, reply.leases, strict=True):
            one.directive = answer.directive

    def pause(self) -> float:
        leases = [one.lease.lease_seconds / BEATS_IN_A_LEASE for one in self.held]
        return min(LONGEST_SECONDS, *leases) if leases else IDLE_SECONDS
