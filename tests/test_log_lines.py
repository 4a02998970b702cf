"""What the processes write into their logs."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx

from api.admin import create_key
from api.db.session import Database
from api.settings import Settings
from api.storage.signing import lease_secret
from tests.conftest import ROOT
from tests.stores import Stores
from tunery import log_lines
from tunery.cli.embedded import free_port


@contextmanager
def process(log: Path, env: dict[str, str], *argv: str) -> Iterator[None]:
    with log.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", *argv],
            env={"PATH": os.defpath, "TUNERY_LOG": "json", **env},
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def lines_with(log: Path, *words: str) -> list[dict[str, Any]]:
    """Every line of it, once each of the words is there."""
    until = time.monotonic() + 120
    while not all(word in log.read_text() for word in words):
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_each_request_is_one_line_of_json_refused_ones_too_and_no_secret_is_in_it(
    settings: Settings, db: Database, tmp_path: Path
) -> None:
    port = free_port()
    env = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
        "TUNERY_STORAGE": str(settings.folder),
    }
    key, wrong = create_key(db, "default", ["read"]), "sk-tunery-" + "x" * 43
    api = ("uvicorn", "--factory", "api.main:create_app", "--no-access-log", "--port", str(port))
    lease = lease_secret(settings.secret.get_secret_value(), "ftjob-1", 3)
    log = tmp_path / "api.log"
    with process(log, env, *api):
        lines_with(log, "Uvicorn running on")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            answers = [
                http.request(method, path, headers={"authorization": f"Bearer {bearer}"})
                for method, path, bearer in (
                    ("GET", "/healthz", key),
                    ("GET", "/v1/fine_tuning/jobs?limit=3", key),
                    ("HEAD", "/v1/files", key),
                    ("GET", "/v1/files/file-%0Aforged", wrong),
                    ("POST", "/v1/fine_tuning/jobs/ftjob-1/cancel", key),
                    ("POST", "/worker/v1/jobs/ftjob-1/events", lease),
                    ("GET", "/storage/a/b?signature=signed", wrong),
                )
            ]
        ids = [answer.headers["x-request-id"] for answer in answers]
        lines = lines_with(log, *ids[1:])
    ((read, _),) = [
        (line["key"], line["project"]) for line in lines if line.get("request") == ids[1]
    ]
    told = {line["request"]: line for line in lines if line["message"] == "request"}
    assert list(told) == ids[1:]
    assert {name: told[ids[1]][name] for name in ("method", "route", "status", "address")} == {
        "method": "GET", "route": "/v1/fine_tuning/jobs", "status": 200, "address": "127.0.0.1",
    }  # fmt: skip
    assert [told[id_]["status"] for id_ in ids[2:5]] == [200, 401, 403]
    assert told[ids[3]]["code"] == "invalid_api_key"
    assert told[ids[4]].items() >= {
        "key": read, "code": "insufficient_scope", "job": "ftjob-1",
        "route": "/v1/fine_tuning/jobs/{job_id}/cancel",
    }.items()  # fmt: skip
    assert told[ids[5]].items() >= {"job": "ftjob-1", "attempt": 3}.items()
    for secret in (key, lease, wrong, "signed", settings.secret.get_secret_value(), "forged"):
        assert secret not in log.read_text()


def test_what_a_block_learns_is_on_its_further_lines_in_whatever_thread() -> None:
    def line() -> dict[str, Any]:
        record = logging.makeLogRecord({"msg": "said", "levelname": "INFO", "status": 200})
        told: dict[str, Any] = json.loads(log_lines.Json().format(record))
        return told

    log_lines.learn(job="of no block")
    with log_lines.about(request="req_1"):
        thread = threading.Thread(
            target=copy_context().run, args=(lambda: log_lines.learn(job="ftjob-1", attempt=None),)
        )
        thread.start()
        thread.join()
        assert line().items() >= {"request": "req_1", "job": "ftjob-1", "status": 200}.items()
        assert "attempt" not in line()
    assert "job" not in line()


def test_celerys_own_lines_have_the_same_shape(stores: Stores, tmp_path: Path) -> None:
    env = {
        "REDIS_URL": stores.redis_url,
        "TUNERY_API_URL": f"http://127.0.0.1:{free_port()}",
        "TUNERY_WORKER_KEY": "none",
        "TUNERY_WORK_DIR": str(tmp_path / "work"),
    }
    celery = ("celery", "-q", "-A", "worker.app", "worker", "--concurrency", "1", "-P", "solo")
    log = tmp_path / "worker.log"
    with process(log, env, *celery):
        lines = lines_with(log, " ready.")
    assert any(line["logger"].startswith("celery") for line in lines)
    assert stores.redis_url not in log.read_text()


def test_a_line_of_text_is_one_line_and_says_what_it_is_about() -> None:
    record = logging.makeLogRecord(
        {"msg": "of %s", "args": ("a\x1b[31m\nINFO forged",), "levelname": "INFO", "job": "x"}
    )
    with log_lines.about(job="ftjob-1", attempt=2):
        _, line = log_lines.Text().format(record).split(" INFO ", 1)
        assert line == "of a\\x1b[31m\n  INFO forged job=x attempt=2"
    record.args = ("b",)
    record.name, record.key = "two words", 'a "b"\n'
    assert log_lines.Text().format(record).endswith(' INFO of b job=x key="a \\"b\\"\\n"')
