"""How an attempt's end, with its results, gets to the API."""

import logging
import shutil
import threading
import time
from pathlib import Path

from tunery import messages, traces
from tunery.errors import LeaseLost
from tunery.failpoint import failpoint
from worker.client import ApiAway, ApiRefused, Client
from worker.evaluation import send_evaluation
from worker.heart import Heart
from worker.log_sender import about_attempt
from worker.results import Made, code_of, failed
from worker.spool import Outcome

log = logging.getLogger(__name__)

FOREVER = float("inf")
LOOK_SECONDS = 0.2


class Deliveries:
    """Those under way, each in a thread of its own: the worker's next attempt runs meanwhile."""

    def __init__(self, client: Client, heart: Heart) -> None:
        self.client = client
        self.heart = heart
        self.threads: list[threading.Thread] = []

    def begin(self, outcome: Outcome, folder: Path, step: int = 0) -> None:
        """The lease is held from before this returns until the API has heard the end. `step` is
        where the attempt ended.
        """
        holds = threading.Event()

        def carry_out() -> None:
            with about_attempt(outcome.lease), self.heart.holding(outcome.lease, step):
                holds.set()
                try:
                    deliver(self.client, outcome, folder)
                except Exception:
                    # The next worker in this folder tries again, or the lease runs out.
                    log.exception("its end is not told")

        name = f"delivery of {folder.name}"
        thread = threading.Thread(target=carry_out, name=name, daemon=True)
        self.threads = [*self.under_way(), thread]
        thread.start()
        holds.wait()

    def under_way(self) -> list[threading.Thread]:
        return [thread for thread in self.threads if thread.is_alive()]

    def wait(self, seconds: float = FOREVER, *, most: int = 0) -> None:
        """Until at most so many are under way, but not longer than `seconds`, nor past the time at
        which the worker is to be gone.
        """
        until = time.monotonic() + seconds
        while len(waits := self.under_way()) > most:
            if time.monotonic() >= min(until, self.client.deadline):
                return
            waits[0].join(min(seconds, LOOK_SECONDS))


def deliver(client: Client, outcome: Outcome, folder: Path) -> None:
    """Tells the API how an attempt ended, however long that takes. What this worker has no time
    for is left to the next one in this folder.
    """
    lease = outcome.lease
    attempt = traces.attempt(lease.job_id, lease.token)
    with traces.timed("publication", within=attempt, outcome=outcome.result.outcome):
        deliver_now(client, outcome, folder)


def deliver_now(client: Client, outcome: Outcome, folder: Path) -> None:
    lease, result = outcome.lease, outcome.result
    try:
        if isinstance(result, Made):
            result = send_results(client, outcome, result)
        request = messages.FinishRequest(result=result)
        client.finish(lease, request, patience=FOREVER)
    except ApiAway as error:
        log.warning("its end is told when this worker is back: %s", error)
        return
    except LeaseLost as error:
        log.warning("the attempt is over: %s", error)
    except ApiRefused as error:
        # The lease runs out, and the janitor gives the job to whoever is there.
        log.error("its end is refused: %s", error)  # noqa: TRY400
    failpoint("agent.finished")
    shutil.rmtree(folder, ignore_errors=True)


def send_results(client: Client, outcome: Outcome, result: Made) -> Made | messages.Failed:
    """The result itself once its files are with the API; else why they cannot be."""
    try:
        for facts in result.files:
            path = outcome.folder / facts.name
            client.upload(outcome.lease, path, facts, patience=FOREVER)
        send_evaluation(client, outcome.lease, outcome.folder)
    except (ApiAway, LeaseLost):
        raise
    except Exception as error:
        # Else this worker would end, and the next one in its folder as well.
        log.exception("its results cannot be sent")
        # Without the engine's log: it may be another job's by now.
        return failed(f"The results cannot be sent: {error}", code_of(error))
    failpoint("agent.results_uploaded")
    return result
