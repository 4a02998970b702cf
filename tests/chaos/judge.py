"""Whether the service kept its word: every accepted job ended once, as it would undisturbed."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from api.db.invariants import INVARIANTS
from tests.chaos.cluster import Cluster

# What a job leaves behind that depends on its spec and data alone. The manifest and the card also
# name the data set's id.
REPEATABLE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "metrics.csv",
    "events.out.tfevents.0.tunery",
)
DONE = {"The job has successfully completed", "The export has successfully completed"}
BEGUN = ("Fine-tuning job started on worker", "Export started on worker")
STUCK_SECONDS = 120.0

# By a job's seed: the sha256 of each repeatable artifact of an undisturbed run.
References = Mapping[int, Mapping[str, str]]


@dataclass
class Outcome:
    """What came of `count` faults. `figures` count broken words and should all be 0, `misses` says
    of each what happened; `tally` counts what took place, `seconds` are measured times by name.
    `late` says which of those missed their aim, which says something on a quiet machine alone.
    """

    count: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def miss(self, what: str, why: str) -> None:
        self.figures[what] += 1
        self.misses.append(f"{what}: {why}")

    def expect_none(self, *whats: str) -> None:
        """These figures are shown even when they are 0."""
        for what in whats:
            self.figures[what] += 0

    def add(self, other: "Outcome") -> None:
        self.count += other.count
        self.expect_none(*other.figures)
        self.figures.update(other.figures)
        self.tally.update(other.tally)
        for what, seconds in other.seconds.items():
            self.seconds.setdefault(what, []).extend(seconds)
        self.misses += other.misses
        self.late += other.late

    def took(self, what: str, seconds: float, *, at_most: float) -> None:
        self.seconds.setdefault(what, []).append(round(seconds, 3))
        if seconds > at_most:
            self.late.append(f"{what}: {seconds:.1f} s, the aim is {at_most:g} s")


def settle(cluster: Cluster) -> None:
    """Waits until every job has ended, or none has moved for `STUCK_SECONDS`."""
    seen: object = None
    moved = time.monotonic()
    while True:
        now = cluster.rows(
            "SELECT count(*) FILTER (WHERE finished_at IS NULL AND state <> 'paused') AS open, "
            "sum(event_count) AS events FROM job"
        )[0]
        if not now.open:
            return
        if now != seen:
            seen, moved = now, time.monotonic()
        if time.monotonic() - moved > STUCK_SECONDS:
            return
        time.sleep(0.05)


def judge(
    cluster: Cluster,
    outcome: Outcome,
    references: References,
    *,
    may_be_cancelled: Callable[[str], bool] = lambda _: False,
) -> None:
    """Adds to the outcome every way in which the service did not keep its word."""
    outcome.expect_none("lost", "stuck", "published twice", "not bit-equal", "inconsistent")
    settle(cluster)
    check_rules(cluster, outcome)
    jobs = cluster.rows("SELECT * FROM job ORDER BY sequence")
    if different := {job.id for job in jobs if not job.exported_job_id} ^ cluster.accepted:
        outcome.miss("inconsistent", f"{different} were accepted or made, not both")
    exports = Counter(job.exported_job_id for job in jobs)
    for job in jobs:
        outcome.tally["exports" if job.exported_job_id else "jobs"] += 1
        if job.finished_at is None:
            outcome.miss("stuck", f"{job.id} is {job.state}: {last_words(cluster, job.id)}")
            continue
        events = cluster.rows("SELECT * FROM event WHERE job_id = %s ORDER BY number", job.id)
        if foreign := stale_writes(events):
            outcome.miss("inconsistent", f"{job.id} took a write of a stale claim: {foreign}")
        done = sum(event.message in DONE for event in events)
        if done > 1:
            outcome.miss("published twice", f"{job.id} {done} times")
        if job.state == "succeeded":
            if done != 1:
                outcome.miss("inconsistent", f"{job.id} succeeded with {done} such events")
            if exports[job.id] != len(job.request.get("exports", ())):
                outcome.miss("published twice", f"{job.id} has {exports[job.id]} exports")
            judge_artifacts(cluster, outcome, job, references.get(job.seed, {}))
        elif not (job.state == "cancelled" and may_be_cancelled(job.id)):
            outcome.miss("lost", f"{job.id} {job.state}: {last_words(cluster, job.id)}")


def check_rules(cluster: Cluster, outcome: Outcome) -> None:
    """What must be true of the rows at every moment."""
    for name, rule in INVARIANTS.items():
        (row,) = cluster.rows(rule)
        if row[0]:
            outcome.miss("inconsistent", f"{name}: {row[0]}")


def judge_artifacts(
    cluster: Cluster, outcome: Outcome, job: Any, reference: Mapping[str, str]
) -> None:
    rows = cluster.rows("SELECT * FROM artifact WHERE job_id = %s", job.id)
    digests = {row.name: row.sha256 for row in rows}
    files = f"{job.id}/artifacts"
    if job.exported_job_id:
        files, reference = f"{job.exported_job_id}/exports/{job.id}/files", {}
    for row in rows:
        if not row.key.startswith(f"jobs/{job.id}/{job.token}/"):
            outcome.miss("inconsistent", f"{job.id}: {row.key} is not of claim {job.token}")
        answer = cluster.request("GET", f"/v1/fine_tuning/jobs/{files}/{row.name}")
        if answer.is_error or sha256(answer.content).hexdigest() != row.sha256:
            outcome.miss("inconsistent", f"{job.id}: {row.name} is not as it was published")
    for name in reference:
        if digests.get(name) != reference[name]:
            outcome.miss("not bit-equal", f"{job.id}, seed {job.seed}: {name}")


def stale_writes(events: list[Any]) -> list[str]:
    """The events of a claim that were taken after the next claim had begun."""
    token, foreign = 0, []
    for event in events:
        message, origin = event.message, event.origin
        if message.startswith(BEGUN):
            token += 1
        if origin and int(origin.partition("/")[0]) != token:
            foreign.append(f"{origin} {message}")
    return foreign


def last_words(cluster: Cluster, job_id: str) -> str:
    rows = cluster.rows(
        "SELECT message FROM event WHERE job_id = %s ORDER BY number DESC LIMIT 4", job_id
    )
    return " < ".join(row.message for row in rows)


def repeatable_of(cluster: Cluster, job_id: str) -> dict[str, str]:
    rows = cluster.rows("SELECT name, sha256 FROM artifact WHERE job_id = %s", job_id)
    return {row.name: row.sha256 for row in rows if row.name in REPEATABLE}
