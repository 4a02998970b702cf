"""What operators watch, in Prometheus's form. Requests are counted by the server that answers them
(`api.http.counts`). All else is read from the database when Prometheus asks, and is the same
whichever server answers. Nothing is labelled by project or job: neither has a bound.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import get_args

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db import invariants
from api.http import counts, unreadable
from api.jobs.queue import demand
from api.settings import NO_POOL, Settings
from api.webhooks.deliveries import Result
from api.workers.workers import OFFLINE_SECONDS
from tunery.errors import BytesDamaged, BytesGone
from tunery.states import JobState


class OfDatabase:
    """Everything that is read in one transaction; needs the control role."""

    def __init__(self, tx: Session, settings: Settings) -> None:
        self.tx = tx
        self.settings = settings

    def collect(self) -> Iterator[Metric]:
        yield from self.jobs()
        yield from self.workers()
        yield from self.base_models()
        yield from self.attempts()
        yield from self.recoveries()
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
        must never fall.
        """
        attempts = CounterMetricFamily(
            "ft_attempts", "Attempts that ended", labels=["outcome", "class"]
        )
        seconds = {"useful": 0.0, "lost": 0.0}
        expired = 0
        rows = self.tx.execute(
            text("""
                SELECT outcome, coalesce(failure_class, '') AS class, count(*) AS attempts,
                    sum(extract(epoch FROM ended_at - started_at)) AS seconds
                FROM attempt WHERE ended_at IS NOT NULL GROUP BY 1, 2
            """)
        )
        for outcome, failure_class, count, took in rows:
            attempts.add_metric([outcome, failure_class], count)
            seconds["lost" if outcome in {"lost", "failed"} else "useful"] += float(took)
            expired += count if outcome == "lost" else 0
        yield attempts
        yield CounterMetricFamily(
            "ft_lease_expired", "Attempts whose worker was not heard of in time", value=expired
        )
        gpu = CounterMetricFamily(
            "ft_gpu_seconds", "Device time of attempts that ended", labels=["kind"]
        )
        for kind, total in seconds.items():
            gpu.add_metric([kind], total)
        yield gpu

    def recoveries(self) -> Iterator[Metric]:
        """From the end of a lost worker's lease to the next claim of its job."""
        row = self.tx.execute(
            text("""
                SELECT count(*) AS recoveries,
                    sum(extract(epoch FROM next.started_at - lost.ended_at)) AS seconds
                FROM attempt AS lost JOIN attempt AS next
                    ON next.job_id = lost.job_id AND next.token = lost.token + 1
                WHERE lost.outcome = 'lost'
            """)
        ).one()
        yield SummaryMetricFamily(
            "ft_recovery_seconds",
            "From the end of a lost worker's lease to the next claim of its job",
            count_value=row.recoveries,
            sum_value=float(row.seconds or 0),
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
