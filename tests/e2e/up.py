"""A `tunery up` of its own, and jobs on it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tunery.cli.embedded import free_port
from tunery.cli.env_files import read_env


@dataclass
class Up:
    """A `tunery up` in a process of its own."""

    child: subprocess.Popen[str]
    data_dir: Path
    port: int
    said: list[str]

    @property
    def client(self) -> OpenAI:
        env = read_env(self.data_dir / "client.env")
        return OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"])

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.child.pid).children(recursive=True)

    def service(self, name: str) -> psutil.Process:
        return next(p for p in self.descendants() if name in " ".join(p.cmdline()))

    def stop(self) -> list[psutil.Process]:
        """Ctrl-C; returns what is still alive afterwards."""
        started = self.descendants()
        self.child.send_signal(signal.SIGINT)
        assert self.child.wait(180) == 0
        assert self.child.stdout
        self.child.stdout.close()
        _, alive = psutil.wait_procs(started, timeout=60)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def start(data_dir: Path) -> Up:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "tunery.cli", "up", "--data-dir", data_dir, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = []
    assert child.stdout
    try:
        for line in child.stdout:
            said.append(line.rstrip())
            if "Ctrl-C" in line:
                return Up(child, data_dir, port, said)
    except BaseException:
        child.kill()
        child.wait()
        raise
    child.wait()
    raise AssertionError("\n".join(said))


def wait_for(client: OpenAI, job: FineTuningJob, what: Callable[[FineTuningJob], bool]) -> None:
    until = time.monotonic() + 300
    while not what(now := client.fine_tuning.jobs.retrieve(job.id)):
        assert now.finished_at is None, now
        assert time.monotonic() < until, now
        time.sleep(0.2)


def succeeded(job: FineTuningJob) -> bool:
    return job.status == "succeeded"
