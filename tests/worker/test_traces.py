"""A job's way as a collector receives it, over OTLP/HTTP."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from api.db.session import Database
from api.janitor import Janitor
from tests.conftest import Served
from tests.factories import create_job, end_pauses, lose_workers, upload, worker_facts
from tests.worker.conftest import MakeWork
from tunery import traces
from worker.client import Client

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        told = ExportTraceServiceRequest.FromString(body)
        self.server.told += [  # type: ignore[attr-defined]
            span
            for resource in told.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def told() -> Iterator[list[Span]]:
    """What this process tells, whole after `traces.end()`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.told = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        traces.begin(f"http://127.0.0.1:{server.server_port}", "tunery-test")
        yield server.told  # type: ignore[attr-defined]
        traces.end()
        server.shutdown()


def facts(span: Span) -> dict[str, Any]:
    return {
        fact.key.removeprefix("tunery."): getattr(fact.value, fact.value.WhichOneof("value"))
        for fact in span.attributes
    }


def under(told: list[Span], parent: bytes) -> list[str]:
    return sorted(span.name for span in told if span.parent_span_id == parent)


def test_a_job_is_one_tree_from_its_request_to_the_end_of_each_attempt(
    server: Served, db: Database, worker: Client, work: MakeWork, told: list[Span]
) -> None:
    file = upload(server.client)
    sent = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    job = create_job(server.client, file.id, extra_headers=sent)
    janitor = Janitor(server.settings)
    for _ in range(2):
        janitor.wake_workers()
    janitor.db.close()
    worker.claim(worker_facts("lost"), warm_base=None)
    lose_workers(db, server.settings)
    end_pauses(db)
    work("finish").run()
    traces.end()

    assert {span.trace_id for span in told} == {told[0].trace_id}
    assert told[0].trace_id == traces.whole(job.id).trace_id.to_bytes(16, "big")
    by_id = {span.span_id: span for span in told}
    assert len(by_id) == len(told)
    (root,) = [span for span in told if not span.parent_span_id]
    assert all(span.parent_span_id in by_id for span in told if span is not root)
    assert facts(root).items() >= {"job": job.id, "state": "succeeded"}.items()
    assert under(told, root.span_id) == [
        "POST /v1/fine_tuning/jobs", "attempt", "attempt", "check of the files", "claim", "claim",
        "queue", "queue", "wake-up",
    ]  # fmt: skip

    attempts = {facts(one)["attempt"]: one for one in told if one.name == "attempt"}
    lost, good = attempts[1], attempts[2]
    assert facts(lost).items() >= {"attempt": 1, "outcome": "lost", "worker": "lost"}.items()
    assert lost.status.code == lost.status.STATUS_CODE_ERROR
    assert under(told, lost.span_id) == []
    assert facts(good).items() >= {"attempt": 2, "outcome": "succeeded"}.items()
    assert set(under(told, good.span_id)) >= {
        "download", "start of the engine", "steps", "upload of a checkpoint", "publication",
    }  # fmt: skip
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in told)

    (request,) = [span for span in told if span.name.startswith("POST")]
    assert request.kind == Span.SPAN_KIND_SERVER
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in request.links] == [(TRACE, SPAN)]


def test_a_trace_context_that_is_none_and_a_collector_that_is_away_cost_nothing(
    server: Served,
) -> None:
    traces.begin("http://127.0.0.1:9", "tunery-test")
    for header in ("nonsense", f"00-{'0' * 32}-{SPAN}-01"):
        assert traces.link_to(header) is None
        assert create_job(server.client, extra_headers={"traceparent": header}).status == "queued"
    traces.end()


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


def test_without_a_collector_nothing_of_opentelemetry_is_loaded_and_with_one_it_must_be_there() -> (
    None
):
    """FastAPI and redis load parts of it themselves, if it is there."""
    for program, parts in (("worker.build", ""), ("api.main, api.janitor", ".exporter")):
        told = run(
            f"import sys; from tunery import traces; import {program}\n"
            "traces.begin(None, 'x'); traces.tell('x', 1, 2, within=traces.whole('job'))\n"
            f"print([name for name in sys.modules if name.startswith('opentelemetry{parts}')])"
        )
        assert told.stdout == "[]\n", told.stderr
    told = run(
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from tunery import traces; traces.begin('http://127.0.0.1:4318', 'x')"
    )
    assert (told.returncode, told.stderr) == (1, f"{traces.MISSING}\n")
