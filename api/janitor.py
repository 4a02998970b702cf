"""`python -m api.janitor`: what happens in its own time. It wakes workers, rescues jobs whose
worker is gone, ends what is over its time, checks large files, delivers webhooks, tells
trackers, clears what is left behind, and reads stored bytes again. Any number may run; each of its
steps is safe twice.

It listens for Postgres's NOTIFY, so that a new job starts at once, and sweeps every few seconds, so
that a lost notification or wake-up costs no more than that.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import Any, NoReturn

import psycopg
import redis
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.db import logins, revision
from api.db.session import REACH, WAKE_CHANNEL, Database
from api.files import files, uploads
from api.ids import new_id
from api.jobs import intake
from api.jobs.queue import leases
from api.serving import completions
from api.settings import Settings
from api.storage import scrub
from api.storage.opened import open_storage
from api.tables import NOW, File, Job
from api.trackers.mirror import Mirror
from api.upkeep import budgets, clock, leftovers, presence, retention
from api.webhooks.courier import Courier
from tunery import log_lines, privileges, traces
from tunery.errors import BytesDamaged, BytesGone, MadeByNewer, StorageAway, WrongSchema
from tunery.log_lines import about
from tunery.messages import WAKE_QUEUE, WAKE_TASK
from tunery.settings import read
from tunery.states import JobState

log = logging.getLogger("janitor")

MOST_WAKE_UPS = 16
FIRST_CLEAR_SECONDS, CLEAR_SECONDS = 60, 3600
SCRUB_LOOK_SECONDS = BUDGET_SECONDS = 60


class Janitor:
    def __init__(self, settings: Settings) -> None:
        self.id = new_id("janitor_")
        self.settings = settings
        self.db = Database(settings.database_url.get_secret_value())
        self.storage = open_storage(settings, self.db)
        self.broker = Broker(settings.redis_url.get_secret_value()) if settings.redis_url else None
        self.courier = Courier(settings, self.db)
        self.mirror = Mirror(settings, self.db)
        # By project and file.
        self.checkers: dict[tuple[str, str], threading.Thread] = {}
        # The projects whose files were checked, the last one at the end.
        self.served: dict[str, None] = {}
        self.cleaner = threading.Thread()
        self.scrubber = threading.Thread()
        self.redis_trouble: str | None = None
        # For which claims of which jobs workers were woken the last time.
        self.woken: set[tuple[str, int]] = set()
        self.tell_at = self.warn_at = 0.0
        self.clear_at = time.monotonic() + FIRST_CLEAR_SECONDS
        self.scrub_at = time.monotonic() + SCRUB_LOOK_SECONDS

    def run(self) -> NoReturn:
        """A database that goes away is waited for."""
        while True:
            try:
                revision.require_current(self.db)
                logins.warn_of_rights(self.db)
                self.listen()
            except (psycopg.OperationalError, OperationalError) as error:
                log.warning("the database is away (%s); trying again", error)
                time.sleep(1)

    def listen(self) -> None:
        url = self.settings.database_url.get_secret_value()
        with psycopg.connect(url, autocommit=True, **REACH) as connection:
            connection.execute(f"LISTEN {WAKE_CHANNEL}")
            while True:
                self.sweep()
                # One notification, or the time of the next sweep; what else came is swept with it.
                for _ in connection.notifies(timeout=self.settings.sweep_seconds, stop_after=1):
                    pass

    def sweep(self) -> None:
        self.correct_times()
        self.rescue()
        self.forget_completions()
        self.courier.look()
        self.mirror.look()
        self.tell()
        self.warn_of_budgets()
        if self.storage.is_away():
            return
        self.expire()
        self.check_files()
        self.wake_workers()
        self.clear_leftovers()
        self.scrub()

    def correct_times(self) -> None:
        with self.db.as_control() as tx:
            corrected = clock.correct(tx, self.settings)
        if corrected:
            log.warning(
                "the database's clock went back: %d rows had times in the future", corrected
            )

    def rescue(self) -> None:
        while True:
            with self.db.as_control() as tx:
                job = leases.rescue(tx, self.settings)
            if job is None:
                return
            whose = {"job": job.id, "attempt": job.token, "project": job.project_id}
            log.warning("the job was rescued from a lost worker", extra=whose)

    def tell(self) -> None:
        """That it is there, once in the time of a sweep however often it is notified."""
        if time.monotonic() < self.tell_at:
            return
        self.tell_at = time.monotonic() + self.settings.sweep_seconds
        wakes = self.broker is not None
        with self.db.as_control() as tx:
            presence.tell(tx, self.id, wakes=wakes, redis_trouble=self.redis_trouble)

    def warn_of_budgets(self) -> None:
        """Once a minute: what they come to is summed up of a month's attempts."""
        if time.monotonic() < self.warn_at:
            return
        self.warn_at = time.monotonic() + BUDGET_SECONDS
        with self.db.as_control() as tx:
            budgets.warn(tx, self.settings)

    def forget_completions(self) -> None:
        with self.db.as_control() as tx:
            completions.forget_orphans(tx)

    def expire(self) -> None:
        with self.db.as_control() as tx:
            keys = files.expire(tx) + uploads.expire(tx)
        self.storage.discard(keys)

    def check_files(self) -> None:
        """In threads of their own: a large file takes minutes. They do not hold up the end of the
        process; a file whose check is cut off comes up again.
        """
        self.checkers = {of: one for of, one in self.checkers.items() if one.is_alive()}
        with self.db.as_control() as tx:
            for _, file_id in self.checkers:
                files.keep_checking(tx, file_id)
        while len(self.checkers) < self.settings.checks_at_once:
            with self.db.as_control() as tx:
                file = self.next_unchecked(tx)
            if file is None:
                return
            checker = threading.Thread(target=self.check, args=(file,), name=file.id, daemon=True)
            self.checkers[file.project_id, file.id] = checker
            checker.start()

    def next_unchecked(self, tx: Session) -> File | None:
        """Projects take turns. None has all the threads, so that another one's file need not wait
        for the end of a long check.
        """
        waiting = files.waiting_for_check(tx)
        places = list(self.served)
        turns = sorted(
            waiting, key=lambda one: (waiting[one], places.index(one) if one in places else -1)
        )
        most = max(1, self.settings.checks_at_once - 1)
        here = Counter(project_id for project_id, _ in self.checkers)
        for project_id in turns:
            if here[project_id] < most:
                file = files.claim_unchecked(tx, project_id)
                if file:
                    self.served.pop(project_id, None)
                    self.served[project_id] = None
                    return file
        return None

    def check(self, file: File) -> None:
        with about(file=file.id, project=file.project_id):
            self.check_one(file)

    def check_one(self, file: File) -> None:
        """A check that fails of itself is one of the file's checks, too."""
        last = file.checks >= files.MOST_CHECKS
        report: dict[str, Any] | None = None
        try:
            report = self.report_on(file)
        except StorageAway:
            log.warning("the check is put off until storage is back")
            with self.db.as_control() as tx:
                files.put_off_check(tx, file.id)
            return
        except Exception:
            log.exception("the check failed%s", "" if last else "; it is tried again")
            report = files.NOT_CHECKED if last else None
        if report is None and not last:
            log.warning("the check came to no end; it will be tried again")
            return
        while True:
            try:
                with self.db.as_control() as tx:
                    found, pools = report or files.UNREADABLE, self.settings.pools
                    intake.finish_check(tx, file.id, found, file.columns, pools)
                    # The next one can begin.
                    tx.execute(select(func.pg_notify(WAKE_CHANNEL, "")))
            except OperationalError as error:
                log.warning("the check cannot be recorded yet (%s)", error)
                time.sleep(1)
            except MadeByNewer as error:
                log.warning("the check of %s is left to another janitor: %s", file.id, error)
                with self.db.as_control() as tx:
                    files.put_off_check(tx, file.id)
                return
            else:
                return

    def report_on(self, file: File) -> dict[str, Any] | None:
        """As `files.check_in_subprocess`; but nobody is told of faults that are the storage's.
        Raises `StorageAway`.
        """
        # One more than the most: each of them took this process with it.
        if file.checks > files.MOST_CHECKS:
            return files.NOT_CHECKED
        most_rows = self.settings.max_file_rows
        try:
            path = self.storage.local(file.key, file.sha256)
            report = files.check_in_subprocess(path, file.filename, most_rows, file.columns)
            if report is None or not report["ok"]:
                self.storage.prove(file.key, file.sha256)
        except (BytesGone, BytesDamaged) as error:
            scrub.note(self.db, file.key, error)
            return files.lost(error)
        return report

    def clear_leftovers(self) -> None:
        """Every hour, in a thread of its own: a large storage folder takes a while."""
        if time.monotonic() >= self.clear_at and not self.cleaner.is_alive():
            self.clear_at = time.monotonic() + CLEAR_SECONDS
            self.cleaner = threading.Thread(target=self.clear, name="cleaner", daemon=True)
            self.cleaner.start()

    def clear(self) -> None:
        try:
            retention.clear(self.db, self.storage, self.settings)
            cleared = leftovers.clear(self.db, self.storage)
        except (OSError, OperationalError, StorageAway):
            log.exception("leftovers are not cleared this time")
        else:
            log.info("%d leftover files cleared", cleared)

    def scrub(self) -> None:
        """In a thread of its own; looks every minute whether it is time."""
        if time.monotonic() >= self.scrub_at and not self.scrubber.is_alive():
            self.scrub_at = time.monotonic() + SCRUB_LOOK_SECONDS
            scrub_if_due = partial(scrub.scrub_if_due, self.db, self.storage)
            self.scrubber = threading.Thread(target=scrub_if_due, name="scrubber", daemon=True)
            self.scrubber.start()

    def wake_workers(self) -> None:
        if self.broker is None:
            return
        with self.db.as_control() as tx:
            ready = tx.scalar(
                select(func.count()).where(Job.state == JobState.QUEUED, Job.available_at <= NOW)
            )
        began = time.time_ns()
        try:
            self.broker.wake(ready or 0)
            self.redis_trouble = None
            self.tell_of_wake_ups(began)
        except (redis.RedisError, BrokerError) as error:
            self.redis_trouble = str(error)
            # Nothing is lost: the next sweep wakes again.
            log.warning("Redis is away (%s); workers are woken when it is back", error)

    def tell_of_wake_ups(self, began: int) -> None:
        """The first one since a job could start is a part of its trace."""
        if not traces.on():
            return
        with self.db.as_control() as tx:
            first = select(Job.id, Job.token).where(Job.state == JobState.QUEUED)
            ready = first.where(Job.available_at <= NOW).order_by(Job.available_at)
            woken = {(job_id, token) for job_id, token in tx.execute(ready.limit(MOST_WAKE_UPS))}
        for job_id, token in woken - self.woken:
            within = traces.whole(job_id)
            traces.tell("wake-up", began, time.time_ns(), within=within, attempt=token + 1)
        self.woken = woken


class Broker:
    """Sends wake-ups to workers. Short time-outs: a frozen Redis must not hold up a rescue."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        self.celery = Celery(broker=url)
        self.celery.conf.update(
            task_ignore_result=True,
            broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
            broker_connection_timeout=2,
            task_publish_retry=False,
        )

    def wake(self, ready: int) -> None:
        """As many wake-ups as jobs are ready, less those still unread: without a worker they do not
        pile up. Raises what says that Redis is away also when there is nobody to wake.
        """
        unread = self.redis.llen(WAKE_QUEUE)
        assert isinstance(unread, int)  # noqa: S101
        for _ in range(min(ready, MOST_WAKE_UPS) - unread):
            self.celery.send_task(WAKE_TASK, queue=WAKE_QUEUE, ignore_result=True)


def main() -> None:
    settings = read(Settings)
    log_lines.configure(settings.log, settings.log_level)
    # Whatever it is at is safe to leave: every step is one transaction. An exception would come up
    # in the middle of anything, such as an import.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    privileges.shut()
    traces.begin(settings.otel_endpoint, "tunery-janitor")
    try:
        Janitor(settings).run()
    except WrongSchema as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
