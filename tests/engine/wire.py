"""The agent's side of an engine: two pipes, and a process at their other ends."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from worker.engine.device import device_memory, device_name
from worker.protocol import REPORT, Alive, Entered, Finished, Line, Ready, Report, Serves

ROOT = Path(__file__).resolve().parents[2]
READY = Ready(device=device_name(), memory_bytes=device_memory())
PATIENCE = 300  # seconds, of which imports on a busy machine take most


class Wire:
    """The agent's ends of the two pipes, and the engine's ends until it has them."""

    def __init__(self) -> None:
        self.engine_in, self.commands = os.pipe()
        self.reports, self.engine_out = os.pipe()
        self.unread = b""

    @property
    def fds(self) -> tuple[int, int]:
        return self.engine_in, self.engine_out

    @property
    def arguments(self) -> list[str]:
        return [f"--commands={self.engine_in}", f"--reports={self.engine_out}"]

    def given_away(self) -> None:
        os.close(self.engine_in)
        os.close(self.engine_out)

    def send(self, line: Line | bytes) -> None:
        text = line if isinstance(line, bytes) else line.model_dump_json().encode()
        os.write(self.commands, text + b"\n")

    def next(self) -> Report:
        end = time.monotonic() + PATIENCE
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.reports], [], [], max(0, end - time.monotonic()))
            assert ready, "the engine says nothing"
            chunk = os.read(self.reports, 1 << 16)
            assert chunk, "the engine is gone"
            self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        return REPORT.validate_json(line)

    def until(self, *kinds: type[Line]) -> list[Report]:
        """What is said up to a line of these kinds, but for signs of life, phases and what it could
        answer from.
        """
        seen: list[Report] = []
        while not (seen and isinstance(seen[-1], kinds)):
            if not isinstance(line := self.next(), Alive | Entered | Serves):
                seen.append(line)
        return seen

    def close(self) -> None:
        os.close(self.commands)
        os.close(self.reports)


class Running(Wire):
    """An engine process that is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.engine", *self.arguments],
            pass_fds=self.fds,
            cwd=ROOT,
        )
        self.given_away()
        assert self.next() == READY


def weights(last: Report) -> bytes:
    assert isinstance(last, Finished)
    return (last.folder / "adapter_model.safetensors").read_bytes()
