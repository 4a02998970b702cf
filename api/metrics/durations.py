"""How long things took, as histograms. The database counts them as they end."""

import math
from collections.abc import Iterator

from prometheus_client.metrics_core import HistogramMetricFamily
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.settings import Settings
from tunery.messages import DEFAULT_POOL

# Upper limits in seconds; the database counts by the same ones, in the migration `waits_by_pool`.
BUCKETS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, math.inf)
DURATIONS = {
    "queue": (
        "ft_queue_wait_seconds",
        "From when a job could start to its claim, by the pool of the worker",
    ),
    "recovery": (
        "ft_recovery_seconds",
        "From the end of a lost worker's lease to the next claim of its job",
    ),
    "cancel": (
        "ft_cancel_seconds",
        "From a user's request to cancel a running job to the end of its attempt",
    ),
}

# A bucket's upper limit, how often something ended in it, and the seconds of all those together.
Counted = list[tuple[float, int, float]]


def counted(tx: Session, settings: Settings) -> Iterator[HistogramMetricFamily]:
    """Waits in the queue are by pool, of listed pools also where there was none."""
    found: dict[str, dict[str, Counted]] = {what: {} for what in DURATIONS}
    rows = tx.execute(text("SELECT what, pool, up_to, times, seconds FROM duration_tally"))
    for what, pool, *row in rows:
        found[what].setdefault(pool, []).append(tuple(row))
    for what, (name, words) in DURATIONS.items():
        if what == "queue":
            family = HistogramMetricFamily(name, words, labels=["pool"])
            listed = [pool.name for pool in settings.pools] or [DEFAULT_POOL]
            for pool in sorted({*listed, *found[what]}):
                family.add_metric([pool], *histogram(found[what].get(pool, [])))
        else:
            family = HistogramMetricFamily(name, words)
            family.add_metric([], *histogram(found[what].get("", [])))
        yield family


def histogram(counted: Counted) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus has them, each with all below it, and the sum of seconds."""
    buckets = [
        (
            str(most).replace("inf", "+Inf"),
            float(sum(times for up_to, times, _ in counted if up_to <= most)),
        )
        for most in BUCKETS
    ]
    return buckets, sum(seconds for *_, seconds in counted)
