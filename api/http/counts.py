"""What this process counts for `/metrics`."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from starlette.types import Scope

from api.db.waits import waits

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OF_PROCESS = CollectorRegistry()
# Else each series is doubled by its time of birth.
disable_created_metrics()  # type: ignore[no-untyped-call]

requests = Histogram(
    "ft_http_request_seconds",
    "Time from a request's head to its answer's end",
    ["route", "method", "code"],
    # A worker's claim may wait for 30 s.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=OF_PROCESS,
)
fenced_writes = Counter(
    "ft_fenced_writes",
    "Writes refused because the worker's claim was over",
    ["op"],
    registry=OF_PROCESS,
)

storage_away = Gauge(
    "ft_storage_away", "1 while this server cannot reach the storage folder", registry=OF_PROCESS
)
storage_free = Gauge(
    "ft_storage_free_bytes",
    "Room on the disk of the storage folder, as this server sees it; NaN while it is away",
    registry=OF_PROCESS,
)
OF_PROCESS.register(waits)
connections = Gauge(
    "ft_database_connections", "Database connections in use by this server", registry=OF_PROCESS
)

completions = Counter(
    "ft_completions",
    "Completions by how they ended: answered; refused; released by workers, or lost with them; "
    "abandoned by the client; timed out, because no worker was free",
    ["end"],
    registry=OF_PROCESS,
)
completions_open = Gauge(
    "ft_completions_open", "Completions that clients wait for", registry=OF_PROCESS
)
completion_tokens = Counter(
    "ft_completion_tokens",
    "Tokens of completions: of their prompts, and of their answers",
    ["kind"],
    registry=OF_PROCESS,
)
first_part = Histogram(
    "ft_completion_first_part_seconds",
    "Time from a completion's request to the first part of its answer",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=OF_PROCESS,
)
for end in ("answered", "refused", "released", "abandoned", "timed_out"):
    completions.labels(end)


def route_of(scope: Scope) -> str:
    """The route's template, such as /v1/files/{file_id}: addresses themselves have no bound."""
    route = scope.get("route")
    return route.path if route else "unknown"


def method_of(scope: Scope) -> str:
    """Any word may be sent as one."""
    return scope["method"] if scope["method"] in METHODS else "other"


def answered(scope: Scope, code: int, seconds: float) -> None:
    requests.labels(route_of(scope), method_of(scope), code).observe(seconds)


def fenced(op: str) -> None:
    fenced_writes.labels(op).inc()
