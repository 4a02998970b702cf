"""Tells trackers what is new, each telling in a process of its own and outside of any transaction.
However long a tracker hangs, it holds up nothing but tellings.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import orjson
from sqlalchemy.exc import OperationalError

from api.db import sealing
from api.db.session import Database
from api.settings import Settings
from api.tables import TrackedRun
from api.trackers import runs
from api.trackers.keys import ROUTE, WANDB
from api.trackers.runs import Outcome, Telling
from tunery.errors import Conflict

log = logging.getLogger(__name__)

# Each is a process of some hundred megabytes.
MOST_AT_ONCE = 2
TELLING_SECONDS = 120
LONGEST_URL = 2_000
NO_ANSWER = "it did not answer in time"


def tell(settings: Settings, told: Telling) -> Outcome:
    """One telling. The child gets no environment but a folder of its own, the key comes to it
    through a pipe, and of what it says only an address and a kind of failure are believed.
    """
    if told.sealed is None:
        return Outcome(error=f"the project has no key for it (send one with PUT {ROUTE})")
    try:
        key = sealing.unseal(
            settings.secret.get_secret_value(),
            told.sealed,
            project_id=told.project_id,
            name=WANDB,
        )
    except Conflict:
        return Outcome(
            error=f"the project's key does not open any more (send it again with PUT {ROUTE})"
        )
    said = {
        "api_key": key,
        "base_url": settings.wandb_url,
        "seconds": TELLING_SECONDS,
        "run": told.run,
        "config": told.config,
        "steps": told.steps,
        "exit_code": told.exit_code,
    }
    with tempfile.TemporaryDirectory(prefix="tunery-wandb-", ignore_cleanup_errors=True) as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "api.trackers.wandb_run"],
                env={
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "HOME": folder,
                    "TMPDIR": folder,
                },
                cwd=folder,
                input=orjson.dumps(said),
                # Into nothing: a library's words may repeat a secret, and a process that it leaves
                # behind would keep a pipe open.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TELLING_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(error=NO_ANSWER)
        if ended.returncode == -signal.SIGALRM:
            return Outcome(error=NO_ANSWER)
        return outcome_of(Path(folder) / "answer.json", key)


def outcome_of(answer: Path, key: str) -> Outcome:
    try:
        said = orjson.loads(answer.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return Outcome(error="the telling was broken off")
    if said.get("missing"):
        return Outcome(error="the server lacks the package wandb (install `tunery[wandb]`)")
    if kind := said.get("error"):
        return Outcome(error=f"it failed with {kind}")
    url = str(said.get("url") or "")
    shown = url.startswith(("https://", "http://")) and len(url) <= LONGEST_URL and key not in url
    return Outcome(url=url if shown else None)


class Mirror:
    """Any number may be at it, in any number of processes."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.db = db
        self.free = threading.BoundedSemaphore(MOST_AT_ONCE)

    def look(self) -> None:
        """Starts a thread for each run that is due, as long as there are some to start, and waits
        for none. They do not hold up the end of the process.
        """
        while self.free.acquire(blocking=False):
            claimed = None
            try:
                claimed = self.claim()
            finally:
                if claimed is None:
                    self.free.release()
            if claimed is None:
                return
            threading.Thread(target=self.carry, args=claimed, daemon=True).start()

    def claim(self) -> tuple[TrackedRun, Telling] | None:
        with self.db.as_control() as tx:
            return runs.claim(tx)

    def carry(self, run: TrackedRun, told: Telling) -> None:
        try:
            self.tell(run, told)
        except OperationalError as error:
            log.warning("the database is away (%s); what was told may be told again", error)
        finally:
            self.free.release()

    def tell(self, run: TrackedRun, told: Telling) -> None:
        outcome = tell(self.settings, told)
        with self.db.as_control() as tx:
            runs.record(tx, run, told, outcome)
        said = outcome.error or f"{len(told.steps)} steps"
        log.info("W&B was told: %s", said, extra={"job": run.job_id, "project": run.project_id})
