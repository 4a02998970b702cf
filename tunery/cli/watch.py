"""A job's progress, live: what it waits for, bar, loss, time left."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from openai import APIConnectionError, InternalServerError, OpenAI, OpenAIError, Stream
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

ENDED = {"succeeded", "failed", "cancelled"}
TEND_SECONDS = 0.5
# How often it is asked how long it may still take: nothing tells of that by itself.
LOOK_SECONDS = 2.0
AWAY_SECONDS = 1.0
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C ended

Message = dict[str, Any]


class Listening(threading.Thread):
    """Hears a job's stream to its end, however often the connection breaks."""

    def __init__(self, client: OpenAI, job_id: str) -> None:
        super().__init__(name="stream", daemon=True)
        self.client = client
        self.path = f"/fine_tuning/jobs/{job_id}/stream"
        self.heard: SimpleQueue[Message | OpenAIError] = SimpleQueue()
        self.last: str | None = None
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            try:
                self.hear()
            except (APIConnectionError, InternalServerError):
                time.sleep(AWAY_SECONDS)
            except OpenAIError as error:
                self.heard.put(error)
                return

    def hear(self) -> None:
        headers = {"Last-Event-ID": self.last} if self.last else {}
        stream = self.client.get(
            self.path,
            cast_to=Message,
            stream=True,
            stream_cls=Stream[Message],
            options={"headers": headers},
        )
        self.ended = stream.response.status_code == 204
        with stream:
            for message in stream:
                self.last = message.get("id", self.last)
                self.ended = message.get("status") in ENDED
                self.heard.put(message)

    def next(self, seconds: float) -> Message | None:
        """The next message, if one comes in that time. Raises what has ended the stream."""
        try:
            message = self.heard.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(message, OpenAIError):
            raise message
        return message


@dataclass
class View:
    """What is shown of a job."""

    job: FineTuningJob
    steps: Message = field(default_factory=dict)
    warned: int = 0

    def news(self) -> list[str]:
        """The job's warnings that were not told yet."""
        found: list[str] = (extras_of(self.job).get("warnings") or [])[self.warned :]
        self.warned += len(found)
        return found

    def hear(self, message: Message) -> None:
        if message.get("type") == "metrics":
            self.steps = message["data"]

    @property
    def step(self) -> int:
        return int(self.steps.get("step", 0))

    @property
    def total(self) -> int:
        return int(self.steps.get("total_steps", 0))

    @property
    def loss(self) -> str:
        return f"loss {self.steps['train_loss']:.3f}" if "train_loss" in self.steps else ""

    @property
    def left(self) -> str:
        """Of a job that has not begun the whole range: what it takes is not known well."""
        extras, now = extras_of(self.job), time.time()
        start = (extras.get("queue") or {}).get("expected_start")
        takes = (extras.get("estimate") or {}).get("seconds")
        if self.job.status == "queued" and start and takes:
            return in_words(*(max(0, at - now) + s for at, s in zip(start, takes, strict=True)))
        finish = self.job.estimated_finish
        if finish is None or self.job.status not in {"queued", "running"}:
            return ""
        return in_words(max(0, finish - now))

    @property
    def waits(self) -> str:
        extras = extras_of(self.job)
        if fetching := extras.get("fetching"):
            whole = fetching["total_bytes"]
            tenths = 10 * fetching["bytes"] // whole if whole else 10
            return f"fetching the base model, {tenths}0 % of {whole / 10**9:.1f} GB"
        return str((extras.get("queue") or {}).get("reason", ""))

    @property
    def line(self) -> str:
        """For where no bar can be drawn; it changes ten times in a training."""
        if self.job.status == "queued":
            return f"queued: {self.waits} {self.left}".strip()
        if self.waits:
            return f"{self.job.status}: {self.waits}"
        step = f" step {self.step}/{self.total} {self.loss}" if self.total else ""
        return f"{self.job.status}{step}"

    @property
    def mark(self) -> tuple[str, str, int]:
        tenth = 10 * self.step // self.total if self.total else 0
        return self.job.status, self.waits, tenth


def in_words(*seconds: float) -> str:
    """Of one time left, or of the least and the most."""
    minutes = max(seconds) >= 600
    shown = [f"{s / 60 if minutes else s:.0f}" for s in seconds]
    return f"{' to '.join(dict.fromkeys(shown))} {'min' if minutes else 's'} left"


def follow(client: OpenAI, job_id: str, console: Console) -> FineTuningJob:
    """Shows the job until it ends. Ctrl-C ends the command, and changes nothing about the job."""
    try:
        return watch(client, job_id, console)
    except KeyboardInterrupt:
        console.print(f"The job goes on. Come back to it: tunery status {job_id}")
        sys.exit(INTERRUPTED)


def watch(
    client: OpenAI, job_id: str, console: Console, tend: Callable[[], None] = lambda: None
) -> FineTuningJob:
    """Shows the job until it ends, and returns its end. `tend` is called all the while."""
    columns = (
        TextColumn("{task.description:<17}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[loss]}"),
        TextColumn("{task.fields[left]}"),
    )
    retrieve = client.fine_tuning.jobs.retrieve
    view = View(retrieve(job_id))
    stream = Listening(client, job_id)
    stream.start()
    with Progress(*columns, console=console, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("queued", total=0, loss="", left="")
        shown: tuple[str, str, int] | None = None
        looked = time.monotonic()
        while True:
            message = stream.next(TEND_SECONDS)
            if message:
                view.hear(message)
            if (message and "status" in message) or time.monotonic() - looked > LOOK_SECONDS:
                view.job, looked = retrieve(job_id), time.monotonic()
            for warning in view.news():
                console.print(f"Warning: {warning}", soft_wrap=True, markup=False)
            progress.update(
                bar,
                description=view.job.status,
                completed=view.step,
                total=view.total,
                loss=view.loss,
                left=view.left,
            )
            if view.mark != shown:
                # In the bar a narrow terminal would cut the reason off.
                line = view.line if progress.disable else view.waits
                if line:
                    console.print(line, soft_wrap=True, markup=False)
                shown = view.mark
            if view.job.status in ENDED and stream.heard.empty():
                stream.join(AWAY_SECONDS)  # it ends with the job
                return view.job
            tend()


def extras_of(job: FineTuningJob) -> dict[str, Any]:
    return (job.model_extra or {}).get("tunery") or {}
