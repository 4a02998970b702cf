"""`make attack`: a hostile tenant, a hostile client and a sick machine against a running service,
and a table of what came of it.

An attack is a function in one of this folder's modules. It gets the town and how often, builds a
house (a whole service with two tenants), attacks it as an outsider can, and returns an `Outcome`:
`expect_none` names the words that must not be broken, `miss` counts one that was, `tally` and
`seconds` say what was measured. It stands in `attacks.ATTACKS`.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.attack.attacks import ATTACKS
from tests.attack.town import found
from tests.chaos.judge import Outcome
from tests.chaos.report import figures, measured, say, table, version


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    names = [attack.name for attack in ATTACKS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=str(names))
    parser.add_argument("--few", action="store_true", help="the numbers of the short round")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    outcomes: dict[str, Outcome] = {}
    with found(folder) as town:
        for attack in ATTACKS:
            number = attack.few if asked.few else attack.usual
            if not number or (asked.only and attack.name not in asked.only):
                continue
            at = time.monotonic()
            try:
                outcome = attack.run(town, number)
            except Exception:  # noqa: BLE001 - an attack that breaks off is a finding
                outcome = Outcome(count=number)
                outcome.miss("broken off", traceback.format_exc())
            outcomes[attack.what] = outcome
            words = f"{attack.name}: {number} in {time.monotonic() - at:.0f} s: {figures(outcome)}"
            say("\n  ".join([words, measured(outcome), *outcome.misses, *outcome.late]))
    took = f"{os.cpu_count()} cores, {(time.monotonic() - began) / 60:.0f} minutes"
    say(f"\n{table(outcomes)}\n\n`make attack`, {version()}, {took}")
    misses = [miss for one in outcomes.values() for miss in (*one.misses, *one.late)]
    if misses:
        say("\n".join([f"\n{len(misses)} misses; the logs are in {folder}", *misses]))
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
