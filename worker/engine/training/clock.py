"""The pace of a training's steps."""

import time
from dataclasses import dataclass, field

from tunery.measured import Pace
from worker.engine.device import memory_in_use
from worker.engine.training.slot import Slot


@dataclass
class Clock:
    """Times the steps of one attempt, which wait on the device until they are read together."""

    slot: Slot
    began: float = field(init=False)
    since: float = field(init=False)
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.began = time.monotonic() - self.slot.seconds
        memory_in_use()  # what came before is no step's
        self.start()

    def start(self) -> None:
        """The steps from here on are the next to be read."""
        self.since, self.tokens = time.monotonic(), self.slot.tokens

    @property
    def running(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self.since

    def read(self) -> Pace:
        """The pace of the steps since `start`, all of which the device has finished."""
        self.slot.seconds = time.monotonic() - self.began
        tokens = self.slot.tokens - self.tokens
        return Pace(
            elapsed_seconds=self.slot.seconds,
            tokens_per_second=tokens / self.running if tokens else None,
            memory_bytes=memory_in_use(),
        )
