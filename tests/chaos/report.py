"""What a suite prints of its outcomes: a line as it goes, and a table at the end."""

import subprocess
import sys

from tests.chaos.judge import Outcome
from tests.chaos.nursery import ROOT


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def version() -> str:
    """The commit, and whether the code has changed since."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def table(outcomes: dict[str, Outcome]) -> str:
    rows = ["| fault | times | result | measured |", "|---|---|---|---|"]
    for fault, outcome in outcomes.items():
        if outcome.count:
            cells = (fault, f"{outcome.count:,}", figures(outcome), measured(outcome))
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def figures(outcome: Outcome) -> str:
    return ", ".join(f"{number} {what}" for what, number in outcome.figures.items())


def measured(outcome: Outcome) -> str:
    counted = [f"{number} {what}" for what, number in outcome.tally.items()]
    timed = [
        f"{what} p50 {quantile(seconds, 0.5):.2f} s, p99 {quantile(seconds, 0.99):.2f} s"
        for what, seconds in outcome.seconds.items()
    ]
    return "; ".join([*counted, *timed])


def quantile(values: list[float], q: float) -> float:
    """The smallest value that at least this part of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]
