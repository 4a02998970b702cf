"""What a fleet that follows the demand costs, and how long jobs wait, beside fleets of one size.
Everything is simulated but the planner's estimates and the autoscalers' arithmetic.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling import figure, work
from benchmarks.scaling.autoscalers import Autoscaler, Fixed, ScaledJob, ScaledObject
from benchmarks.scaling.figure import Point
from benchmarks.scaling.fleet import FETCH, FROM_VOLUME, Simulation, Spot

DAYS = 5
ON_DEMAND, SPOT = 2.50, 1.00


@dataclass(frozen=True)
class Row:
    name: str
    series: str
    gpu_hours: float
    busy: float
    cost: float
    median_wait: float
    late_wait: float
    late_turnaround: float
    interruptions: float
    lost_hours: float
    most: int

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            f"{self.gpu_hours:.0f}",
            f"{self.busy:.0%}",
            f"{self.cost:,.0f}",
            minutes(self.median_wait),
            minutes(self.late_wait),
            minutes(self.late_turnaround),
            f"{self.interruptions:.0f}",
            f"{self.lost_hours:.1f}",
            f"{self.most}",
        )


HEAD = (
    "fleet", "GPU hours paid", "of these training", "cost, $", "wait p50, min", "wait p95, min",
    "done p95, min", "jobs interrupted", "GPU hours repeated", "most workers",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--figure", type=Path, help="where to draw cost against waiting, as SVG")
    asked = parser.parse_args()
    jobs = work.jobs_of(asked.days)
    hours = sum(job.seconds for job in jobs) / 3600
    print(f"{asked.days} working days with {len(jobs) / asked.days:.0f} jobs each, which train for")
    print(
        f"{hours / asked.days:.0f} hours on an A100 of 80 GB. All but the waits are of one day.\n"
    )
    rows = list(table(jobs, asked.days))
    if asked.figure:
        points = [Point(row.name, row.series, row.cost, row.late_wait / 60) for row in rows]
        asked.figure.write_text(figure.svg(points))


def table(jobs: list[work.Job], days: int) -> Iterator[Row]:
    print("| " + " | ".join(HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for fleet in fleets():
        row = measured(fleet, jobs, days)
        print("| " + " | ".join(row.cells) + " |", flush=True)
        yield row


@dataclass(frozen=True)
class Fleet:
    name: str
    series: str
    autoscaler: Autoscaler
    spot: Spot | None = None
    fetch: float = FETCH


def fleets() -> Iterator[Fleet]:
    for count in (8, 10, 12, 15, 20, 30, 50):
        yield Fleet(f"{count} workers", "one size", Fixed(count))
    for always in (0, 2, 5):
        for idle in (60, 600, 1800):
            scaled = ScaledJob(always=always, idle_exit=idle)
            name = f"ScaledJob, {always} always, idle exit {idle} s"
            yield Fleet(name, f"ScaledJob, {always} always", scaled)
    for idle in (60, 600, 1800):
        name = f"ScaledJob, 0 always, idle exit {idle} s, bases on a volume"
        scaled = ScaledJob(idle_exit=idle)
        yield Fleet(name, "ScaledJob, bases on a volume", scaled, fetch=FROM_VOLUME)
    for stabilization in (300, 1800):
        name = f"ScaledObject, stabilization {stabilization} s"
        yield Fleet(name, "ScaledObject", ScaledObject(stabilization=stabilization))
    for resume, words in ((True, "goes on"), (False, "begins anew")):
        series, spot = f"spot, a job {words}", Spot(resume)
        yield Fleet(f"15 workers, {series}", series, Fixed(15), spot)
        yield Fleet(f"ScaledJob, 0 always, 600 s, {series}", series, ScaledJob(), spot)


def measured(fleet: Fleet, jobs: list[work.Job], days: int) -> Row:
    found = Simulation(
        work.again(jobs), fleet.autoscaler, days=days, spot=fleet.spot, fetch=fleet.fetch
    ).run()
    hours = found.node_seconds / 3600 / days
    waits, turnarounds = sorted(found.waits), sorted(found.turnarounds)
    return Row(
        name=fleet.name,
        series=fleet.series,
        gpu_hours=hours,
        busy=found.busy_seconds / found.node_seconds,
        cost=hours * (SPOT if fleet.spot else ON_DEMAND),
        median_wait=waits[len(waits) // 2],
        late_wait=waits[len(waits) * 95 // 100],
        late_turnaround=turnarounds[len(turnarounds) * 95 // 100],
        interruptions=found.interruptions / days,
        lost_hours=found.lost_seconds / 3600 / days,
        most=found.most_workers,
    )


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:.0f}"


if __name__ == "__main__":
    main()
