"""`python -m worker --poll`: the same agent without Celery, asking the API for work. For a GPU
outside the trust zone, or where there is no Redis.
"""

import argparse
import math
import signal
import sys
import threading

from tunery import log_lines, privileges, traces
from tunery.settings import read
from worker import check
from worker.build import build_agent
from worker.client import ApiRefused
from worker.settings import Settings
from worker.usable import DeviceUnusable

# How long one question for work stays open; also the most that a shutdown waits for it.
WAIT_SECONDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--poll", action="store_true", help="ask for work over HTTP")
    what.add_argument("--check", action="store_true", help="say what is wrong here, and end")
    parser.add_argument(
        "--idle-exit",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="end when there has been no work for so long",
    )
    asked = parser.parse_args()
    settings = read(Settings)
    log_lines.configure(settings.log, settings.log_level, worker=settings.worker_name)
    privileges.shut()
    if asked.check:
        check.run(settings)
        return
    draining = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: draining.set())
    agent = build_agent(settings, draining.is_set)
    try:
        while not draining.is_set() and agent.idle_seconds() < asked.idle_exit:
            agent.run_until_idle(wait=WAIT_SECONDS)
    except ApiRefused as error:
        sys.exit(f"The API refuses this worker; is TUNERY_WORKER_KEY right? {error}")
    except DeviceUnusable as error:
        agent.leave()
        sys.exit(str(error))
    finally:
        # A lease that is still good is not left to run out.
        agent.deliveries.wait()
    agent.leave()
    traces.end()


if __name__ == "__main__":
    main()
