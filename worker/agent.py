"""One worker's work: claim a job, have the engine train it, tell the API, publish. No torch here,
and no database: what the agent knows comes from the lease, and what it says carries the lease.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tunery import messages
from tunery.base_model import file_facts
from tunery.errors import LeaseLost
from tunery.states import FailureClass
from worker import protocol
from worker.client import ApiAway, ApiRefused, Client
from worker.warm_engine import WarmEngine

log = logging.getLogger(__name__)

# How long results wait for an API that is away before the attempt is given up.
PATIENCE_SECONDS = 600.0
AWAY_SECONDS = 1.0
FLUSH_SECONDS = 0.5
MOST_EVENTS = 100
STOP_SECONDS = 20.0

Directive = Literal["run", "cancel", "lost"]


class Agent:
    """Runs one job at a time. `draining` tells that the worker is to end: a running job is given
    back unpunished.
    """

    def __init__(
        self,
        *,
        name: str,
        work_dir: Path,
        client: Client,
        engine: WarmEngine,
        draining: Callable[[], bool],
    ) -> None:
        self.name = name
        self.client = client
        self.engine = engine
        self.draining = draining
        self.attempts = work_dir / "attempts"
        shutil.rmtree(self.attempts, ignore_errors=True)
        self.attempts.mkdir(parents=True)
        self.known_bases: set[tuple[str, str]] = set()

    def run_until_idle(self, *, wait: float = 0) -> None:
        """Attempts job after job until none is ready, or this worker is draining."""
        while not self.draining():
            try:
                lease = self.client.claim(self.name, wait=wait)
            except ApiAway as error:
                log.warning("no claim: %s", error)
                time.sleep(AWAY_SECONDS)
                return
            if lease is None:
                return
            self.attempt(lease)

    def attempt(self, lease: messages.Lease) -> None:
        """One claim of one job, to its end. Whatever happens here ends in one word to the API, or
        in silence when the job is no longer ours.
        """
        log.info("job %s: attempt %d", lease.job_id, lease.token)
        folder = self.attempts / f"{lease.job_id}-{lease.token}"
        self.engine.begin_log()
        try:
            with Heart(self.client, lease) as heart:
                result = self.result_of(lease, folder, heart)
                log.info("job %s: %s", lease.job_id, result.outcome)
                self.client.finish(
                    lease, messages.FinishRequest(result=result), patience=PATIENCE_SECONDS
                )
        except LeaseLost as error:
            log.warning("job %s: %s", lease.job_id, error)
            self.engine.kill()
        except (ApiAway, ApiRefused) as error:
            # The lease runs out, and the janitor gives the job to whoever is there.
            log.error("job %s: its results cannot be delivered: %s", lease.job_id, error)  # noqa: TRY400
            self.engine.kill()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def result_of(
        self, lease: messages.Lease, folder: Path, heart: "Heart"
    ) -> messages.Succeeded | messages.Failed | messages.Cancelled | messages.Released:
        """How the attempt ended. Whatever else goes wrong is the machine's fault, and is told."""
        try:
            folder.mkdir()
            self.require_base(lease.base_model)
            return self.train(lease, folder, heart)
        except (LeaseLost, ApiAway):
            raise
        except Exception as error:
            log.exception("job %s: the attempt failed", lease.job_id)
            # It may still be training this job, and the next one must not wait behind it.
            self.engine.kill()
            return messages.Failed(
                failure_class=FailureClass.INFRA,
                code="worker_failed",
                message=str(error) or type(error).__name__,
                log_tail=self.engine.log_tail(),
            )

    def require_base(self, base: messages.BaseModelFacts) -> None:
        """The base model's folder holds what was registered. Read once in this worker's life."""
        if (base.source, base.revision) in self.known_bases:
            return
        for file in base.files:
            path = Path(base.source) / file.name
            if not path.is_file() or file_facts(path) != file:
                raise BadBase(
                    f"{path} is not the file that was registered for {base.id} at revision "
                    f"{base.revision}. Every worker needs that folder at that path, unchanged."
                )
        self.known_bases.add((base.source, base.revision))

    def train(
        self, lease: messages.Lease, folder: Path, heart: "Heart"
    ) -> messages.Succeeded | messages.Failed | messages.Cancelled | messages.Released:
        self.engine.train(self.command(lease, folder))
        outbox = Outbox(self.client, lease)
        stop_by: float | None = None
        while True:
            report = self.engine.read(lease.job_id, lease.token, seconds=0.1)
            heart.step = outbox.step
            if heart.directive == "lost":
                raise LeaseLost("another claim has taken the job over")
            if stop_by is None and (heart.directive == "cancel" or self.draining()):
                self.engine.write(
                    protocol.Stop(job_id=lease.job_id, token=lease.token, checkpoint=False)
                )
                stop_by = time.monotonic() + STOP_SECONDS
            if stop_by and time.monotonic() > stop_by:
                self.engine.kill()
                report = protocol.Stopped(job_id=lease.job_id, token=lease.token)
            outbox.flush_if_due()
            match report:
                case protocol.Started():
                    outbox.progress = report.progress
                case protocol.Noted():
                    outbox.add(level=report.level, message=report.message, data=report.data)
                case protocol.Stepped():
                    outbox.add_step(report)
                case protocol.Checkpointed():
                    outbox.flush(patience=PATIENCE_SECONDS)
                    self.upload_checkpoint(lease, report)
                case protocol.Finished():
                    outbox.flush(patience=PATIENCE_SECONDS)
                    return self.upload_results(lease, report)
                case protocol.Stopped():
                    outbox.flush(patience=PATIENCE_SECONDS)
                    cancelled = heart.directive == "cancel"
                    return messages.Cancelled() if cancelled else messages.Released()
                case protocol.Broke():
                    outbox.flush(patience=PATIENCE_SECONDS)
                    return messages.Failed(
                        failure_class=report.failure_class,
                        code=report.code,
                        message=report.message,
                        log_tail=self.engine.log_tail(),
                    )

    def command(self, lease: messages.Lease, folder: Path) -> protocol.Train:
        """The attempt as the engine is told it, its files fetched."""

        def fetch(link: messages.FileLink, into: Path) -> Path:
            path = into / link.name
            self.client.download(link, path, patience=PATIENCE_SECONDS)
            return path

        checkpoint = None
        if lease.checkpoint:
            checkpoint = folder / "checkpoint"
            checkpoint.mkdir()
            for link in lease.checkpoint.files:
                fetch(link, checkpoint)
        validation = lease.validation_file
        work = folder / "work"
        work.mkdir()
        return protocol.Train(
            job_id=lease.job_id,
            token=lease.token,
            spec=lease.spec,
            base_folder=Path(lease.base_model.source),
            training_file=fetch(lease.training_file, folder),
            validation_file=fetch(validation, folder) if validation else None,
            checkpoint=checkpoint,
            checkpoint_seconds=300,
            folder=work,
        )

    def upload_checkpoint(self, lease: messages.Lease, written: protocol.Checkpointed) -> None:
        files = self.upload_folder(lease, written.folder)
        self.client.add_checkpoint(
            lease,
            messages.CheckpointWritten(
                step=written.metrics.step, epoch=written.epoch, metrics=written.metrics, files=files
            ),
            patience=PATIENCE_SECONDS,
        )
        shutil.rmtree(written.folder)

    def upload_results(
        self, lease: messages.Lease, finished: protocol.Finished
    ) -> messages.Succeeded:
        return messages.Succeeded(
            trained_tokens=finished.trained_tokens,
            files=self.upload_folder(lease, finished.folder),
            metrics_csv=finished.metrics_csv.name,
        )

    def upload_folder(self, lease: messages.Lease, folder: Path) -> list[messages.FileFacts]:
        files = []
        for path in sorted(folder.iterdir()):
            facts = file_facts(path)
            self.client.upload(lease, path, facts, patience=PATIENCE_SECONDS)
            files.append(facts)
        return files


class BadBase(Exception):
    """The machine does not have the base model that was registered."""


class Heart:
    """Renews a lease beside the work, and keeps what the API last said of it. An API that is away
    changes nothing: a lease is lost only when the API says so.
    """

    def __init__(self, client: Client, lease: messages.Lease) -> None:
        self.client = client
        self.lease = lease
        self.directive: Directive = "run"
        self.step = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.beat, name="heart", daemon=True)

    def beat(self) -> None:
        while not self.ended.wait(min(5.0, self.lease.lease_seconds / 6)):
            beat = messages.LeaseBeat(
                job_id=self.lease.job_id, token=self.lease.token, step=self.step
            )
            try:
                (answer,) = self.client.heartbeat([beat])
            except Exception:
                # Whatever it was, the next beat may come through, and a heart that stops loses the
                # job while it still runs.
                log.exception("no heartbeat")
            else:
                self.directive = answer.directive

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.ended.set()
        self.thread.join()


class Outbox:
    """Events on their way to the API, in batches. While the API is away they wait here, and the
    training goes on.
    """

    def __init__(self, client: Client, lease: messages.Lease) -> None:
        self.client = client
        self.lease = lease
        self.events: list[messages.JobEvent] = []
        self.sent = 0
        self.progress: messages.Progress | None = None
        self.step = 0
        self.due = 0.0

    def add(
        self, *, level: Literal["info", "warn"], message: str, data: dict[str, object] | None
    ) -> None:
        self.events.append(messages.JobEvent(level=level, message=message, data=data))

    def add_step(self, stepped: protocol.Stepped) -> None:
        self.progress, self.step = stepped.progress, stepped.progress.step
        metrics, total = stepped.metrics, stepped.progress.total_steps
        message = f"Step {metrics.step}/{total}: training loss={metrics.train_loss:.2f}"
        if metrics.valid_loss is not None:
            message += f", validation loss={metrics.valid_loss:.2f}"
        self.events.append(
            messages.JobEvent(message=message, metrics=metrics, data={"total_steps": total})
        )

    def flush_if_due(self) -> None:
        if (self.events or self.progress) and time.monotonic() >= self.due:
            try:
                self.flush(patience=0)
            except ApiAway as error:
                log.warning("%d events wait for the API: %s", len(self.events), error)
            self.due = time.monotonic() + FLUSH_SECONDS

    def flush(self, *, patience: float) -> None:
        while self.events or self.progress:
            events = self.events[:MOST_EVENTS]
            batch = messages.EventBatch(first=self.sent, events=events, progress=self.progress)
            self.client.add_events(self.lease, batch, patience=patience)
            self.sent += len(events)
            del self.events[:MOST_EVENTS]
            if not self.events:
                self.progress = None
