"""`python -m worker.engine.ranks.rank`: one of the processes that train a job, as torchrun starts
them. The first has the agent's pipes; the others hear from it what the order is.
"""

import argparse
import faulthandler
import logging
import os
import shutil
import signal

from tunery import privileges
from worker.engine.__main__ import die_with_parent

log = logging.getLogger("worker.engine")


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    die_with_parent()
    # The agent tells the first one to stop, and that one the others. Of torchrun it means that
    # another has failed: then the first one is the one to say how.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m worker.engine.ranks.rank")
    parser.add_argument("--commands", type=int, required=True, help="the launcher's descriptor")
    parser.add_argument("--reports", type=int, required=True, help="the launcher's descriptor")
    parser.add_argument("--scratch", required=True, help="a folder that nobody needs")
    parser.add_argument("--kernels", required=True, help="what a GPU computes with")
    asked = parser.parse_args()
    first = os.environ["RANK"] == "0"  # noqa: TID251 - torchrun says it there alone
    if first:
        commands, reports = opened(asked.commands, os.O_RDONLY), opened(asked.reports, os.O_WRONLY)
    privileges.give_up()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO if first else logging.WARNING)

    from worker.engine.kernels import chosen  # noqa: PLC0415 (seconds, after what must be at once)
    from worker.engine.ranks import together  # noqa: PLC0415

    chosen.choose(asked.kernels)
    together.join()
    if first:
        shutil.rmtree(asked.scratch, ignore_errors=True)
        from worker.engine.child import Engine  # noqa: PLC0415

        Engine(commands, reports, answer_share=0, alone=True).run()
    else:
        from worker.engine.ranks.follower import follow  # noqa: PLC0415

        follow()


def opened(descriptor: int, how: int) -> int:
    """What torchrun closes of its children's inheritance is still open in itself."""
    return os.open(f"/proc/{os.getppid()}/fd/{descriptor}", how)


if __name__ == "__main__":
    main()
