"""A job's way as OpenTelemetry spans, for a collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names.
Without it nothing of OpenTelemetry is imported.

Each job is one trace. Its id is worked out from the job's, and the ids of the spans of the job and
of each attempt are too: whichever process knows the job adds to its trace, nothing is handed on,
and what a worker that died has told hangs where it belongs. A client's own trace cannot be the
job's, which may outlive it by days: the job's request links to it.

Spans are told when they are over. A collector that is away costs spans and nothing else.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Link, SpanContext

MISSING = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed here: install "
    "tunery[otel], or unset it."
)
# What is not sent yet when a process is killed is lost.
SEND_MILLISECONDS = 1_000
LAST_MILLISECONDS = 2_000
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

Moment = datetime | int


class Collector:
    """Where this process's spans go; `service` is the process's name."""

    def __init__(self, endpoint: str, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        self.resource = Resource.create(
            {"service.name": service, "service.version": version("tunery")}
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self.processor = BatchSpanProcessor(exporter, schedule_delay_millis=SEND_MILLISECONDS)


_collector: Collector | None = None


def begin(endpoint: str | None, service: str) -> None:
    """From here on this process tells its spans, if there is an endpoint. Ends the process, in
    words, if OpenTelemetry is not installed.
    """
    global _collector  # noqa: PLW0603
    if endpoint is None:
        return
    end()
    try:
        _collector = Collector(endpoint, service)
    except ModuleNotFoundError:
        sys.exit(MISSING)


def end() -> None:
    """Sends what is left, in some seconds at most."""
    global _collector
    collector, _collector = _collector, None
    if collector:
        collector.processor.force_flush(LAST_MILLISECONDS)
        collector.processor.shutdown()  # type: ignore[no-untyped-call]


def on() -> bool:
    return _collector is not None


@dataclass(frozen=True)
class Place:
    """Where a span is in a job's trace: `of` names one whose id others know, None any other."""

    job_id: str
    of: str | None = None

    @property
    def trace_id(self) -> int:
        return number(f"trace {self.job_id}", 16)

    def context(self) -> "SpanContext":
        from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

        named = self.of or f"{time.time_ns()} {id(self)}"
        span_id = number(f"{named} {self.job_id}", 8)
        return SpanContext(self.trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1))


def number(text: str, size: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:size], "big")


def whole(job_id: str) -> Place:
    return Place(job_id, "job")


def attempt(job_id: str, token: int) -> Place:
    return Place(job_id, f"attempt {token}")


def tell(
    name: str,
    began: Moment,
    ended: Moment,
    *,
    within: Place | None,
    at: Place | None = None,
    failed: str | None = None,
    links: tuple["Link | None", ...] = (),
    server: bool = False,
    **facts: object,
) -> None:
    """A span that is over, `within` another one's place; `at` a place of its own, if others know
    it. Facts that are None are left out. Without a collector nothing happens.
    """
    if _collector is None:
        return
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

    place = at or within
    if place is None:
        raise ValueError("a span is within another one, or has a place of its own")
    start = nanoseconds(began)
    span = ReadableSpan(
        name,
        context=(at or Place(place.job_id)).context(),
        parent=within.context() if within else None,
        resource=_collector.resource,
        attributes=attributes(facts | {"job": place.job_id}),
        links=[link for link in links if link],
        kind=SpanKind.SERVER if server else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, failed) if failed else Status(StatusCode.OK),
        instrumentation_scope=InstrumentationScope("tunery", version("tunery")),
        start_time=start,
        # A clock that went back must not make it negative.
        end_time=max(start, nanoseconds(ended)),
    )
    _collector.processor.on_end(span)


@contextmanager
def timed(name: str, *, within: Place, **facts: Any) -> Iterator[None]:  # noqa: ANN401
    """Tells how long the block took, and what it raised."""
    began, failed = time.time_ns(), None
    try:
        yield
    except BaseException as error:
        failed = str(error) or type(error).__name__
        raise
    finally:
        tell(name, began, time.time_ns(), within=within, failed=failed, **facts)


def attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"tunery.{name}": value for name, value in facts.items() if value is not None}


def nanoseconds(moment: Moment) -> int:
    if isinstance(moment, int):
        return moment
    # Not through a float, which has no room for them.
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000


def link_to(traceparent: str | None) -> "Link | None":
    """To the span that a client names in W3C's header; None if there is none that can be read."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    if not on() or not found or not (int(found[1], 16) and int(found[2], 16)):
        return None
    from opentelemetry.trace import Link, SpanContext, TraceFlags  # noqa: PLC0415

    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[:3])
    return Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)))


def link_to_job(job_id: str | None) -> "Link | None":
    if job_id is None or not on():
        return None
    from opentelemetry.trace import Link  # noqa: PLC0415

    return Link(whole(job_id).context())
