"""`make chaos`: makes every fault a number of times, and prints a table of what came of it.

With `--full` it makes the full numbers in slices and keeps what it has done in .chaos/, so that it
can be interrupted and goes on where it was. It starts from anew on another version of the code.
"""

import argparse
import json
import logging
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.bench import Bench, start_bench
from tests.chaos.judge import Outcome
from tests.chaos.nursery import ROOT
from tests.chaos.report import figures, say, table, version
from tests.chaos.scenarios import SCENARIOS, Scenario

PROGRESS = ROOT / ".chaos" / "progress.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the full numbers, in slices")
    parser.add_argument("--seed", type=int, help="of every random choice; else a new one")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=str(names))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    chosen = [one for one in SCENARIOS if asked.only is None or one.name in asked.only]
    progress = Progress(version(), asked.seed, keep=asked.full)
    say(f"seed {progress.seed}, {progress.version}")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with start_bench(folder) as bench:
        for scenario in chosen:
            attack(bench, scenario, progress, full=asked.full)
    outcomes = {one.fault: progress.outcome(one.name) for one in chosen}
    command = "make chaos FULL=1" if asked.full else "make chaos"
    if asked.only:
        command = " ".join(["python -m tests.chaos", *sys.argv[1:]])
    say(f"\n{table(outcomes)}\n")
    of_what = " for the last slices" if asked.full else ""
    say(
        f"`{command}`, seed {progress.seed}, {progress.version}, {os.cpu_count()} cores, "
        f"{(time.monotonic() - began) / 60:.0f} minutes{of_what}"
    )
    misses = [miss for one in outcomes.values() for miss in (*one.misses, *one.late)]
    if misses:
        say("\n".join([f"\n{len(misses)} misses; the logs are in {folder}", *misses]))
        return 1
    shutil.rmtree(folder)
    return 0


def attack(bench: Bench, scenario: Scenario, progress: "Progress", *, full: bool) -> None:
    """One slice after another, until the scenario's number is reached."""
    wanted = scenario.full if full else scenario.usual
    while (done := progress.outcome(scenario.name).count) < wanted:
        number = min(scenario.slice, wanted - done)
        rng = random.Random(f"{progress.seed} {scenario.name} {done}")
        began = time.monotonic()
        try:
            outcome = scenario.run(bench, rng, number)
        except Exception:  # noqa: BLE001 - a scenario that breaks is a finding; the others go on
            outcome = Outcome(count=number)
            outcome.miss("broken off", traceback.format_exc())
        progress.add(scenario.name, outcome)
        done = progress.outcome(scenario.name).count
        took = time.monotonic() - began
        words = f"{scenario.name}: {done}/{wanted} in {took:.0f} s: {figures(outcome)}"
        say("\n  ".join([words, *outcome.misses, *outcome.late]))


class Progress:
    """The outcomes so far; kept on disk where `keep`."""

    def __init__(self, version: str, seed: int | None, *, keep: bool) -> None:
        self.version = version
        self.keep = keep
        kept: dict[str, Any] = {}
        if keep and PROGRESS.exists():
            kept = json.loads(PROGRESS.read_text())
        if kept.get("version") != version or seed not in {None, kept.get("seed")}:
            kept = {}
        self.seed: int = kept.get("seed") or seed or secrets.randbelow(2**31)
        self.slices: dict[str, list[dict[str, Any]]] = kept.get("slices", {})

    def add(self, name: str, outcome: Outcome) -> None:
        self.slices.setdefault(name, []).append(dict(vars(outcome)))
        if self.keep:
            PROGRESS.parent.mkdir(exist_ok=True)
            kept = {"version": self.version, "seed": self.seed, "slices": self.slices}
            PROGRESS.write_text(json.dumps(kept))

    def outcome(self, name: str) -> Outcome:
        whole = Outcome()
        for one in self.slices.get(name, []):
            tallies = {key: Counter(one[key]) for key in ("figures", "tally")}
            whole.add(Outcome(**one | tallies))
        return whole


if __name__ == "__main__":
    sys.exit(main())
