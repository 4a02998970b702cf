"""One worker's work: claim a job, have the engine do it, tell the API, publish. No torch here,
and no database: what the agent knows comes from the lease, and what it says carries the lease.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

from tunery import messages, traces
from tunery.errors import LeaseLost
from tunery.facts import FileLink
from tunery.failpoint import failpoint
from tunery.states import FailureClass
from worker import protocol
from worker.answerer import Answerer
from worker.bases.bases import Bases, NotFetched
from worker.client import ApiAway, ApiRefused, Client, Garbled, StopAsked
from worker.commands import BytesLost, command_of, whole_checkpoints
from worker.delivery import FOREVER, Deliveries, deliver
from worker.heart import Heart, Held
from worker.lacking import Lacking
from worker.log_sender import LogSender, about_attempt
from worker.outbox import Outbox
from worker.results import (
    WORKER_FAILED,
    Made,
    Result,
    beside_answers,
    code_of,
    failed,
    of_death,
    results_of,
)
from worker.spool import Outcome
from worker.stages import Stages
from worker.uploads import CheckpointUploads
from worker.usable import may_be_lost, require_usable
from worker.warm_engine import EngineDied, WarmEngine

log = logging.getLogger(__name__)

AWAY_SECONDS = 1.0
SENDING_SECONDS = 0.5
AWAY = "service_away"

Wish = Literal["run", "pause", "release", "cancel"]


class Agent:
    """Runs one job at a time; the results of the one before are delivered meanwhile. `draining`
    tells that the worker is to end: a running job is given back unpunished, with a checkpoint of
    its last step.

    `checkpoint_seconds` is the most that a training loses when its machine dies. An engine that
    says nothing for `hang_seconds` is killed, and one that is to stop within half of
    `grace_seconds`, because the worker is to end, too.
    """

    def __init__(
        self,
        *,
        facts: messages.WorkerFacts,
        work_dir: Path,
        client: Client,
        engine: WarmEngine,
        draining: Callable[[], bool],
        bases: Bases,
        checkpoint_seconds: float = 300,
        grace_seconds: float = 30,
        hang_seconds: float = 900,
        answer_room: int = 0,
    ) -> None:
        self.facts = facts
        self.client = client
        self.engine = engine
        self.draining = draining
        self.bases = bases
        self.checkpoint_seconds = checkpoint_seconds
        self.grace_seconds = grace_seconds
        self.hang_seconds = hang_seconds
        self.heart = Heart(client, self.facts_now)
        self.deliveries = Deliveries(client, self.heart)
        self.attempts = work_dir / "attempts"
        self.attempts.mkdir(exist_ok=True)
        self.cache = work_dir / "bases"
        self.cache.mkdir(exist_ok=True)
        self.idle_since = time.monotonic()
        self.at_work = False
        self.lacking = Lacking()
        self.lacks: dict[str, str] = {}
        # Jobs that the engine is to train without answering beside it.
        self.alone = set[str]()
        self.answerer = Answerer(self, work_dir, room=answer_room)

    def start(self) -> None:
        """Shows itself to the API, and delivers what an earlier worker in this folder could not."""
        self.heart.start()
        self.answerer.start()
        for folder in self.attempts.iterdir():
            outcome = Outcome.of(folder)
            if outcome is None:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.deliveries.begin(outcome, folder)

    def facts_now(self) -> messages.WorkerFacts:
        if ready := self.engine.look():
            seen = {"device": ready.device, "memory_bytes": ready.memory_bytes}
            self.facts = self.facts.model_copy(update=seen)
        return self.facts.model_copy(update={"lacks": self.lacks, "holds": self.bases.held()})

    def run_until_idle(self, *, wait: float = 0) -> None:
        """Attempts job after job until none is ready, or this worker is draining. Raises
        `DeviceUnusable`.
        """
        while not self.draining():
            require_usable(self.engine.look(), self.facts.gpus)
            sending = self.deliveries.under_way()
            try:
                warm_base, self.lacks = self.engine.base, self.lacking.now()
                lease = self.client.claim(self.facts_now(), warm_base=warm_base, wait=wait)
            except ApiAway as error:
                log.warning("no claim: %s", error)
                time.sleep(AWAY_SECONDS)
                self.idle_since = time.monotonic()
                return
            if lease is None:
                if not sending:
                    return
                # What is delivered may make room for its project's next job.
                self.deliveries.wait(SENDING_SECONDS)
                self.idle_since = time.monotonic()
                continue
            self.at_work = True
            try:
                with about_attempt(lease):
                    self.attempt(lease)
            finally:
                self.at_work, self.idle_since = False, time.monotonic()
            # If that cost the engine, the next one is warm when the next job comes.
            self.engine.start()

    def idle_seconds(self) -> float:
        """For how long the API has had no work for this worker."""
        if self.heart.held or self.answerer.open:
            return 0.0
        return time.monotonic() - max(self.idle_since, self.answerer.last_at)

    def leave(self) -> None:
        """Tells the API that this worker ends, unless it still holds a job."""
        self.answerer.stop()
        self.deliveries.wait()
        self.heart.stop()
        if self.heart.held:
            return
        try:
            self.client.heartbeat(self.facts_now(), [], leaving=True)
        except (ApiAway, ApiRefused) as error:
            log.warning("the API was not told that this worker ends: %s", error)

    def attempt(self, lease: messages.Lease) -> None:
        """One claim of one job, to its end. Whatever happens here ends in one word to the API, or
        in silence when the job is no longer ours.
        """
        log.info("the attempt begins")
        folder = self.attempts / f"{lease.job_id}-{lease.token}"
        self.engine.begin_log()
        self.log = LogSender(self.client, lease, self.engine)
        self.results = folder
        with self.heart.holding(lease) as held:
            try:
                result = self.result_of(lease, folder, held)
                self.log.send_rest()
            except LeaseLost as error:
                log.warning("the attempt is over: %s", error)
                shutil.rmtree(folder, ignore_errors=True)
                return
            log.info("the attempt ended: %s", result.outcome)
            self.lacking.learn(lease, result, self.engine.phase, self.bases)
            outcome = Outcome(lease=lease, result=result, folder=self.results)
            try:
                outcome.keep(folder)
            except OSError:
                log.exception("its end cannot be kept on disk")
            failpoint("agent.spooled")
            if isinstance(result, Made):
                self.deliveries.begin(outcome, folder, held.step)
                # A disk has to hold the files of two attempts at most.
                self.deliveries.wait(most=1)
            else:
                deliver(self.client, outcome, folder)

    def result_of(self, lease: messages.Lease, folder: Path, held: Held) -> Result:
        """How the attempt ended. Whatever else goes wrong is the machine's fault, and is told."""
        try:
            folder.mkdir()
            outbox = Outbox(self.client, lease)
            stop_if_asked = partial(self.stop_if_asked, held)
            base = self.bases.ready(lease, outbox, stop_if_asked)
            fetch = partial(self.fetch, held=held)
            checkpoints = whole_checkpoints(lease, folder, fetch, outbox)
            command = command_of(
                lease,
                folder,
                fetch,
                next(checkpoints, None),
                base=base,
                checkpoint_seconds=self.checkpoint_seconds,
                cache=self.cache,
            )
            with CheckpointUploads(self.client, lease, outbox) as uploads:
                result = self.carry_out(command, checkpoints, held, outbox, uploads)
                return self.send_last(result, outbox, uploads)
        except StopAsked:
            return messages.Released()
        except LeaseLost:
            raise
        except NotFetched as error:
            return failed(str(error), messages.BASE_NOT_FETCHED, failure_class=FailureClass.BASE)
        except BytesLost as error:
            return failed(str(error), error.code, failure_class=FailureClass.STORAGE)
        except (ApiAway, Garbled) as error:
            log.warning("the attempt failed: %s", error)
            return failed(str(error), AWAY, failure_class=FailureClass.AWAY)
        except Exception as error:
            log.exception("the attempt failed")
            return self.failed(str(error) or type(error).__name__, code_of(error))

    def failed(
        self, message: str, code: str = WORKER_FAILED, phase: messages.Phase | None = None
    ) -> messages.Failed:
        return failed(message, code, self.engine.log_tail(), phase)

    def wish(self, held: Held) -> Wish:
        """What is to become of the attempt. Raises `LeaseLost`."""
        if held.directive == "lost":
            raise LeaseLost("another claim has taken the job over, or it has ended")
        if held.directive == "run" and self.draining():
            return "release"
        return held.directive

    def fetch(self, link: FileLink, into: Path, held: Held) -> Path:
        path, stop = into / link.name, partial(self.stop_if_asked, held)
        with traces.timed("download", within=held.attempt, file=link.name):
            # Not for ever: another worker may reach what this one cannot.
            self.client.download(link, path, patience=self.hang_seconds, stop_if_asked=stop)
        return path

    def stop_if_asked(self, held: Held) -> None:
        """Raises `StopAsked` when the attempt is no longer wanted."""
        if self.wish(held) != "run":
            raise StopAsked

    def carry_out(
        self,
        command: protocol.Train | protocol.Export,
        checkpoints: Iterator[Path],
        held: Held,
        outbox: Outbox,
        uploads: CheckpointUploads,
    ) -> Result:
        """Has the engine do it. An engine that was left in the middle is ended: the next job must
        not wait behind it.
        """
        self.answerer.paused = command.job_id in self.alone
        try:
            with Stages(command) as self.stages:
                return self.follow(command, checkpoints, held, outbox, uploads)
        except EngineDied as error:
            return self.after_death(error)
        except BaseException:
            self.engine.kill()
            raise
        finally:
            self.answerer.paused = False
            self.engine.rest()

    def after_fault(self, broke: protocol.Broke) -> messages.Failed:
        failed = self.failed(broke.message, broke.code, broke.phase)
        failed = failed.model_copy(update={"failure_class": broke.failure_class})
        if self.engine.phase == "training":
            failed = self.blamed(failed)
        if broke.phase in messages.DATA_PHASES or may_be_lost(self.engine.look(), broke):
            # The next attempt has all of the engine's memory, and nothing of this one.
            self.engine.kill()
        return failed

    def after_death(self, died: EngineDied) -> messages.Failed:
        failed = self.failed(str(died), "engine_died", self.engine.phase)
        return self.blamed(of_death(died, failed))

    def blamed(self, failed: messages.Failed) -> messages.Failed:
        """For a failure that may be the doing of what the engine answered nobody is, and the job's
        next attempt here has the engine for itself.
        """
        whose = failed.failure_class in {FailureClass.INFRA, FailureClass.OOM}
        if whose and self.engine.answered_lately:
            self.alone.add(self.log.lease.job_id)
            return beside_answers(failed)
        return failed

    def follow(
        self,
        command: protocol.Train | protocol.Export,
        checkpoints: Iterator[Path],
        held: Held,
        outbox: Outbox,
        uploads: CheckpointUploads,
    ) -> Result:
        """Passes on what the engine reports until it has ended. A checkpoint that it refuses is
        replaced by the next of the `checkpoints`.
        """
        if isinstance(command, protocol.Export):
            self.engine.export(command)
        else:
            self.engine.train(command)
        heard = time.monotonic()
        stop_by, told = FOREVER, False
        while True:
            report = self.engine.read(command.job_id, command.token, seconds=0.1)
            self.stages.hear(report)
            now = time.monotonic()
            held.step = outbox.step
            uploads.require_well()
            if report:
                heard = now
            elif now - heard > self.hang_seconds:
                return self.end_hung_engine(now - heard)
            wish = self.wish(held)
            if wish != "run":
                if not told:
                    self.tell_to_stop(command, keep=wish != "cancel")
                    told = True
                # A wish may become more urgent: a cancel, or the worker's own end.
                stop_by = min(stop_by, now + self.patience_with(wish))
            if now > stop_by:
                self.engine.kill()
                return messages.Released()
            outbox.flush_if_due()
            self.log.send_if_due()
            self.engine.cap_log()
            match report:
                case protocol.Started():
                    outbox.progress = report.progress
                case protocol.Noted():
                    outbox.add(level=report.level, message=report.message, data=report.data)
                case protocol.Stepped():
                    outbox.add_step(report)
                case protocol.Checkpointed():
                    uploads.add(report)
                case protocol.Finished():
                    self.results = report.folder
                    return results_of(report)
                case protocol.Stopped():
                    return messages.Released()
                case protocol.Broke() if told:
                    return messages.Released()
                case protocol.Broke(code=protocol.CHECKPOINT_REFUSED) if (
                    isinstance(command, protocol.Train) and command.checkpoint
                ):
                    outbox.add(level="warn", message=f"{report.message} Going on without it.")
                    earlier = next(checkpoints, None)
                    command = command.model_copy(update={"checkpoint": earlier})
                    self.engine.train(command)
                    heard = time.monotonic()
                case protocol.Broke():
                    return self.after_fault(report)

    def tell_to_stop(self, command: protocol.Attempt, *, keep: bool) -> None:
        stop = protocol.Stop(job_id=command.job_id, token=command.token, checkpoint=keep)
        # One that was signalled itself may have gone by now; its last words are still to be read.
        with suppress(EngineDied):
            self.engine.write(stop)

    def patience_with(self, wish: Wish) -> float:
        """Seconds that an engine has to stop. One that still writes a checkpoint gets all it needs,
        unless this worker is to end; one that hangs is noticed all the same.
        """
        if self.draining():
            return self.grace_seconds / 2
        return self.grace_seconds if wish == "cancel" else FOREVER

    def send_last(self, result: Result, outbox: Outbox, uploads: CheckpointUploads) -> Result:
        """However the attempt ended, its last checkpoint and events are worth having."""
        try:
            uploads.wait_sent()
            outbox.flush()
        except ApiAway as error:
            log.warning("no time for the last events: %s", error)
        except (ApiRefused, OSError):
            if not isinstance(result, Made):
                raise
            log.exception("the last checkpoint cannot be sent; the results make up for it")
        return result

    def end_hung_engine(self, seconds: float) -> messages.Failed:
        """Its stacks go to its log before it goes."""
        self.engine.dump_stacks()
        failed = self.failed(
            f"The engine said nothing for {seconds:.0f} s and was ended. Its log has its stacks.",
            code="engine_hung",
            phase=self.engine.phase,
        )
        self.engine.kill()
        return failed
