"""What operators watch, in Prometheus's form. Requests are counted by the server that answers them
(`api.http.counts`). All else is read from the database when Prometheus asks, and is the same
whichever server answers. Only so many projects and running jobs are named: neither has a bound.
What is read does not grow with the jobs that ever were, but for their number by state.
"""

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import get_args

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db import invariants
from api.http import counts, unreadable
from api.jobs.queue import demand
from api.metrics import durations
from api.settings import NO_POOL, Settings
from api.webhooks.deliveries import Result
from api.workers.workers import OFFLINE_SECONDS
from tunery.errors import BytesDamaged, BytesGone
from tunery.states import AttemptEnd, JobState

NAMED_JOBS = 200
# By what the events of its steps call it.
OF_JOB = {
    "step": "Steps that a running job has taken",
    "steps": "Steps that it takes in all",
    "train_loss": "Loss of its last step",
    "learning_rate": "Learning rate of its last step",
    "grad_norm": "Norm of its last step's gradient before clipping",
    "tokens_per_second": "Its pace: tokens of its rows, without padding",
    "memory_bytes": "The most that PyTorch has had allocated on its device",
}
NAMED_PROJECTS = 200
OTHERS = "other projects"


class OfDatabase:
    """Everything that is read in one transaction; needs the control role."""

    def __init__(self, tx: Session, settings: Settings) -> None:
        self.tx = tx
        self.settings = settings

    def collect(self) -> Iterator[Metric]:
        yield from self.jobs()
        yield from self.running_jobs()
        yield from self.workers()
        yield from self.base_models()
        yield from self.attempts()
        yield from self.projects()
        yield from durations.counted(self.tx, self.settings)
        yield from self.janitors()
        yield from self.webhooks()
        yield from self.endpoints()
        yield from self.storage()
        broken = GaugeMetricFamily(
            "ft_invariant_violations", "Rows that break a rule; must be 0", labels=["invariant"]
        )
        for name, count in invariants.violations(self.tx).items():
            broken.add_metric([name], count)
        yield broken
        unread = CounterMetricFamily(
            "ft_unreadable_rows", "Rows that could not be shown as they are", labels=["kind"]
        )
        for kind, times in unreadable.found.items():
            unread.add_metric([kind], times)
        yield unread
        build = GaugeMetricFamily("ft_build_info", "This server's version", labels=["version"])
        build.add_metric([version("tunery")], 1)
        yield build

    def endpoints(self) -> Iterator[Metric]:
        rows = self.tx.execute(
            text("SELECT trouble IS NULL AS up, count(*) AS n FROM answering_endpoint GROUP BY 1")
        )
        there = {row.up: row.n for row in rows}
        servers = GaugeMetricFamily(
            "ft_endpoints", "Servers that answer for models, and whether they can", labels=["state"]
        )
        servers.add_metric(["up"], there.get(True, 0))
        servers.add_metric(["away"], there.get(False, 0))
        yield servers
        rows = self.tx.execute(
            text("SELECT state, count(*) AS models FROM served_model GROUP BY state")
        )
        found = {row.state: row.models for row in rows}
        models = GaugeMetricFamily(
            "ft_served_models",
            "Tuned models at such servers, by what these were found to answer with",
            labels=["state"],
        )
        for state in ("verified", "answers_as_base", "answers_as_other", "unverified"):
            models.add_metric([state], found.get(state, 0))
        yield models

    def storage(self) -> Iterator[Metric]:
        rows = self.tx.execute(
            text("SELECT fault, count(*) AS files FROM storage_fault GROUP BY fault")
        )
        faults = {row.fault: row.files for row in rows}
        yield GaugeMetricFamily(
            "ft_storage_missing",
            "Stored files that are gone; must be 0",
            value=faults.get(BytesGone.code, 0),
        )
        yield GaugeMetricFamily(
            "ft_storage_damaged",
            "Stored files whose bytes are not those that were stored; must be 0",
            value=faults.get(BytesDamaged.code, 0),
        )
        yield GaugeMetricFamily(
            "ft_storage_scrubbed_timestamp_seconds",
            "When all stored bytes had last been read again; 0 for never",
            value=self.number("SELECT extract(epoch FROM max(scrubbed_at)) FROM storage_folder"),
        )

    def jobs(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("ft_jobs", "Jobs by state", labels=["state"])
        rows = self.tx.execute(text("SELECT state, count(*) AS jobs FROM job GROUP BY state"))
        counts = {row.state: row.jobs for row in rows}
        for state in JobState:
            states.add_metric([state], counts.get(state, 0))
        yield states
        yield from self.demand()
        yield GaugeMetricFamily(
            "ft_checkpoint_age_seconds_max",
            "The most work that would be lost if every worker died now",
            value=self.number("""
                SELECT extract(epoch FROM now() - min(greatest(started_at, saved)))
                FROM job JOIN attempt ON attempt.job_id = job.id AND attempt.token = job.token
                CROSS JOIN LATERAL (SELECT max(created_at) AS saved FROM checkpoint
                    WHERE checkpoint.job_id = job.id) AS checkpoints
                WHERE job.state = 'running'
            """),
        )

    def demand(self) -> Iterator[Metric]:
        """By the pools of `TUNERY_POOLS`, which are few."""
        found = demand.by_pool(self.tx, self.settings)
        workers = GaugeMetricFamily(
            "ft_gpu_demand",
            "Workers that would be busy now if there were enough: jobs that run there, and ready "
            "jobs that this pool is the first to fit",
            labels=["pool"],
        )
        oldest = GaugeMetricFamily(
            "ft_queue_oldest_age_seconds",
            "How long the first job that could start there has waited; pool none: it fits no pool",
            labels=["pool"],
        )
        for name, of_pool in found.items():
            oldest.add_metric([name], of_pool.oldest_seconds)
            if name != NO_POOL:
                workers.add_metric([name], of_pool.workers)
        yield workers
        yield GaugeMetricFamily(
            "ft_gpu_demand_unmet",
            "Ready jobs that fit no pool: they wait until one is listed that they fit",
            value=found[NO_POOL].ready,
        )
        yield oldest

    def running_jobs(self) -> Iterator[Metric]:
        """Of trainings that have taken a step; a job is gone from here when it has ended."""
        rows = self.tx.execute(
            text("""
                SELECT job.id, project.name AS project, newest.data
                    || jsonb_build_object('steps', progress->'total_steps') AS data
                FROM job JOIN project ON project.id = job.project_id
                JOIN LATERAL (SELECT data FROM event
                    WHERE event.job_id = job.id AND step IS NOT NULL
                    ORDER BY step DESC LIMIT 1) AS newest ON true
                WHERE state = 'running' AND exported_job_id IS NULL
                ORDER BY job.sequence LIMIT :most
            """),
            {"most": NAMED_JOBS},
        ).all()
        for figure, words in OF_JOB.items():
            family = GaugeMetricFamily(f"ft_job_{figure}", words, labels=["job", "project"])
            for job_id, project, data in rows:
                if isinstance(value := data.get(figure), int | float):
                    family.add_metric([job_id, project], value)
            yield family

    def workers(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily(
            "ft_workers",
            "Workers heard of within a day; offline: not heard of for a minute, or ended",
            labels=["state", "build", "pool"],
        )
        rows = self.tx.execute(
            text("""
                SELECT CASE
                    WHEN left_at IS NOT NULL THEN 'offline'
                    WHEN seen_at < now() - make_interval(secs => :offline) THEN 'offline'
                    WHEN quarantined_until > now() THEN 'quarantined'
                    ELSE state END AS now, coalesce(build, '') AS build, pool, count(*) AS workers
                FROM worker WHERE seen_at > now() - interval '1 day' GROUP BY 1, 2, 3
            """),
            {"offline": OFFLINE_SECONDS},
        )
        for row in rows:
            workers.add_metric([row.now, row.build, row.pool], row.workers)
        yield workers
        yield GaugeMetricFamily(
            "ft_worker_heartbeat_age_seconds_max",
            "The longest silence of a worker heard of within the hour that did not say it ends",
            value=self.number("""
                SELECT extract(epoch FROM now() - min(seen_at))
                FROM worker WHERE seen_at > now() - interval '1 hour' AND left_at IS NULL
            """),
        )

    def base_models(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ft_base_models_broken",
            "Base models that no job starts from until an operator has repaired them",
            value=self.number("SELECT count(*) FROM base_model WHERE broken IS NOT NULL"),
        )
        yield GaugeMetricFamily(
            "ft_base_models_lacking",
            "Pairs of a worker heard of within the hour and a base model that it cannot load",
            value=self.number("""
                SELECT sum((SELECT count(*) FROM jsonb_object_keys(lacks)))
                FROM worker WHERE seen_at > now() - interval '1 hour'
            """),
        )

    def attempts(self) -> Iterator[Metric]:
        """Of attempts that have ended: what a running one comes to is not known yet, and a counter
        must never fall. The database adds each one to its sums when it ends.
        """
        attempts = CounterMetricFamily(
            "ft_attempts", "Attempts that ended", labels=["outcome", "class"]
        )
        lost_work = CounterMetricFamily(
            "ft_lost_work_seconds",
            "Device time between the last checkpoint and the end of attempts that were lost or "
            "failed",
            labels=["outcome"],
        )
        seconds = {"useful": 0.0, "lost": 0.0}
        lost = dict.fromkeys((AttemptEnd.LOST, AttemptEnd.FAILED), 0.0)
        expired = 0
        rows = self.tx.execute(
            text("""
                SELECT outcome, failure_class, sum(attempts) AS attempts, sum(seconds) AS seconds,
                    sum(lost_seconds) AS lost_seconds
                FROM attempt_tally GROUP BY 1, 2 ORDER BY 1, 2
            """)
        )
        for outcome, failure_class, count, took, lost_seconds in rows:
            attempts.add_metric([outcome, failure_class], count)
            if outcome in lost:
                lost[outcome] += lost_seconds
            seconds["lost" if outcome in lost else "useful"] += took
            expired += count if outcome == AttemptEnd.LOST else 0
        yield attempts
        for outcome, total in lost.items():
            lost_work.add_metric([outcome], total)
        yield lost_work
        yield CounterMetricFamily(
            "ft_lease_expired", "Attempts whose worker was not heard of in time", value=expired
        )
        gpu = CounterMetricFamily(
            "ft_gpu_seconds", "Device time of attempts that ended", labels=["kind"]
        )
        for kind, total in seconds.items():
            gpu.add_metric([kind], total)
        yield gpu

    def projects(self) -> Iterator[Metric]:
        """By name for the oldest `NAMED_PROJECTS`; which those are never changes, so that no
        counter falls. All later ones are counted together, under what no project can be called.
        """
        rows = self.tx.execute(
            text("SELECT id, name, stored_bytes FROM project ORDER BY created_at, id")
        ).all()
        names = {row.id: row.name for row in rows[:NAMED_PROJECTS]}
        stored: Counter[str] = Counter()
        for row in rows:
            stored[names.get(row.id, OTHERS)] += row.stored_bytes
        bytes_ = GaugeMetricFamily(
            "ft_project_stored_bytes",
            "Bytes of a project's files, checkpoints, artifacts and exports",
            labels=["project"],
        )
        for project, size in stored.items():
            bytes_.add_metric([project], size)
        yield bytes_
        taken: Counter[tuple[str, str]] = Counter()
        for project_id, pool, seconds in self.tx.execute(
            text("SELECT project_id, pool, sum(seconds) FROM attempt_tally GROUP BY 1, 2")
        ):
            taken[names.get(project_id, OTHERS), pool] += seconds
        gpu = CounterMetricFamily(
            "ft_project_gpu_seconds",
            "Device time of a project's attempts that ended",
            labels=["project", "pool"],
        )
        for labels, seconds in taken.items():
            gpu.add_metric(labels, seconds)
        yield gpu
        yield GaugeMetricFamily(
            "ft_checkpoint_bytes",
            "Bytes of all checkpoints that are kept",
            value=self.number("SELECT sum(checkpoint_bytes) FROM project"),
        )

    def janitors(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ft_janitor_silence_seconds",
            "How long no janitor has been heard of; if none ever was, since the first project",
            value=self.number("""
                SELECT extract(epoch FROM now() - coalesce(
                    (SELECT max(seen_at) FROM janitor), (SELECT min(created_at) FROM project)))
            """),
        )
        yield GaugeMetricFamily(
            "ft_redis_away",
            "Janitors heard of within a minute that cannot reach Redis to wake workers",
            value=self.number("""
                SELECT count(*) FROM janitor
                WHERE seen_at > now() - interval '1 minute' AND redis_trouble IS NOT NULL
            """),
        )

    def webhooks(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ft_outbox_lag_seconds",
            "How long the webhook due first has waited at an endpoint that nobody is at",
            value=self.number("""
                SELECT extract(epoch FROM now() - min(greatest(next_at, free_at)))
                FROM webhook_delivery JOIN webhook_endpoint ON webhook_endpoint.id = endpoint_id
                WHERE state = 'pending' AND next_at <= now() AND free_at <= now()
            """),
        )
        attempts = CounterMetricFamily(
            "ft_webhook_deliveries", "Attempts to deliver a webhook", labels=["result"]
        )
        rows = self.tx.execute(text("SELECT result, attempts FROM webhook_tally"))
        counts = {row.result: row.attempts for row in rows}
        for result in get_args(Result):
            attempts.add_metric([result], counts.get(result, 0))
        yield attempts

    def number(self, query: str) -> float:
        """The one value; 0 where there is nothing to measure."""
        return float(self.tx.execute(text(query)).scalar_one() or 0)


def exposition(tx: Session, settings: Settings) -> bytes:
    return generate_latest(counts.OF_PROCESS) + generate_latest(OfDatabase(tx, settings))
