"""How long this process's threads wait for a database connection."""

import time

from prometheus_client import Histogram
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

waits = Histogram(
    "ft_database_wait_seconds",
    "Time until a thread had a database connection, and of those that got none",
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5),
    registry=None,
)


class TimedPool(QueuePool):
    def connect(self) -> PoolProxiedConnection:
        began = time.monotonic()
        try:
            return super().connect()
        finally:
            waits.observe(time.monotonic() - began)
