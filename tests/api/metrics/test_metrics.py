import re
import time
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from api.admin import create_key
from api.db.invariants import INVARIANTS
from api.db.session import Database
from api.janitor import Janitor
from api.jobs import state
from api.metrics import exposition
from api.settings import Settings
from api.storage.signing import lease_secret
from api.tables import Attempt, Checkpoint, Event, Job, Project, Worker, from_now
from api.tenants import projects
from tests.conftest import ROOT, Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload
from tunery.cli.embedded import free_port
from tunery.states import AttemptEnd, FailureClass, JobState

Values = dict[tuple[str, ...], float]


def scrape(server: Served) -> dict[str, Values]:
    """{name: {the values of its labels: value}}"""
    answer = server.http(server.admin_key).get("/metrics")
    assert answer.status_code == 200
    found: dict[str, Values] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def add_checkpoint(tx: Session, job_id: str, *, age: float = 0, size: int = 0) -> None:
    tx.add(
        Checkpoint(
            project_id=tx.get_one(Job, job_id).project_id,
            job_id=job_id,
            step=1,
            id=job_id,
            epoch=1,
            token=1,
            metrics={},
            files=[],
            bytes=size,
            created_at=from_now(-age),
        )
    )
    tx.flush()


def test_an_idle_service_shows_every_figure_at_zero(server: Served) -> None:
    found = scrape(server)
    assert found["ft_jobs"] == {(state,): 0 for state in JobState}
    assert found["ft_gpu_seconds_total"] == {("lost",): 0, ("useful",): 0}
    assert found["ft_invariant_violations"] == {(name,): 0 for name in INVARIANTS}
    assert found["ft_build_info"] == {(version("tunery"),): 1}
    for name in (
        "ft_gpu_demand_unmet",
        "ft_worker_heartbeat_age_seconds_max",
        "ft_lease_expired_total",
        "ft_cancel_seconds_count",
        "ft_checkpoint_bytes",
        "ft_redis_away",
        "ft_checkpoint_age_seconds_max",
    ):
        assert found[name] == {(): 0}
    assert found["ft_queue_wait_seconds_count"] == {("default",): 0}
    assert found["ft_gpu_demand"] == {("default",): 0}
    assert found["ft_queue_oldest_age_seconds"] == {("default",): 0, ("none",): 0}
    assert not any(name.endswith("_created") for name in found)


def test_jobs_are_counted_by_state_and_demand_is_what_is_ready_or_runs(
    server: Served, db: Database
) -> None:
    file = upload(server.client)
    ready, later, running, resumed, cancelled = (
        create_job(server.client, file.id).id for _ in range(5)
    )
    server.client.fine_tuning.jobs.cancel(cancelled)
    with db.as_control() as tx:
        run_by_hand(tx, running, began=100)
        run_by_hand(tx, resumed, began=300)
        for job_id, age in ((running, 500), (resumed, 200)):
            add_checkpoint(tx, job_id, age=age)
        wait = "UPDATE job SET available_at = now() + make_interval(secs => :wait) WHERE id = :id"
        tx.execute(text(wait), [{"id": ready, "wait": -50}, {"id": later, "wait": 500}])
    found = scrape(server)
    counts = {state: found["ft_jobs"][state,] for state in JobState}
    assert counts == dict.fromkeys(JobState, 0) | {"queued": 2, "running": 2, "cancelled": 1}
    assert found["ft_gpu_demand"] == {("default",): 3}
    assert found["ft_queue_oldest_age_seconds"]["default",] == pytest.approx(50, abs=30)
    assert found["ft_checkpoint_age_seconds_max"][()] == pytest.approx(200, abs=30)
    assert sum(found["ft_invariant_violations"].values()) == 0


def test_of_running_jobs_alone_the_last_step_is_shown(server: Served, db: Database) -> None:
    running, ended = (create_job(server.client).id for _ in range(2))
    with db.as_control() as tx:
        for job_id in (running, ended):
            run_by_hand(tx, job_id)
            job = tx.get_one(Job, job_id)
            job.progress = {"step": 2, "total_steps": 40}
            for step, loss in ((1, 2.5), (2, None if job_id == ended else 1.5)):
                data = {"step": step, "train_loss": loss, "tokens_per_second": 900.0}
                state.record(tx, job, f"Step {step}", type="metrics", step=step, data=data)
        end_by_hand(tx, ended, AttemptEnd.CANCELLED)
    found = scrape(server)
    assert found["ft_job_step"] == {(running, "default"): 2}
    assert found["ft_job_steps"] == {(running, "default"): 40}
    assert found["ft_job_train_loss"] == {(running, "default"): 1.5}
    assert "ft_job_grad_norm" not in found


def test_attempts_their_device_time_and_the_work_they_lost_are_counted_when_they_end(
    server: Served, db: Database
) -> None:
    """Each had its devices from its beginning to its end, or until its worker only sent results."""
    file = upload(server.client)
    ends = [
        (AttemptEnd.SUCCEEDED, None, 1000),
        (AttemptEnd.RELEASED, None, 200),
        (AttemptEnd.LOST, None, 3000),
        (AttemptEnd.FAILED, FailureClass.OOM, 400),
    ]
    for outcome, failure_class, seconds in ends:
        job_id = create_job(server.client, file.id).id
        with db.as_control() as tx:
            run_by_hand(tx, job_id, began=seconds)
            if outcome is AttemptEnd.LOST:
                add_checkpoint(tx, job_id, age=900)
            if outcome is AttemptEnd.FAILED:
                tx.get_one(Attempt, (job_id, 1)).gpus = 2
            if outcome is AttemptEnd.SUCCEEDED:
                attempt = tx.get_one(Attempt, (job_id, 1))
                attempt.gpus, attempt.freed_at = 2, attempt.started_at + timedelta(seconds=300)
        with db.as_control() as tx:
            end_by_hand(tx, job_id, outcome, failure_class)
        if outcome is AttemptEnd.LOST:
            with db.as_control() as tx:
                tx.get_one(Attempt, (job_id, 1)).ended_at = tx.scalar(select(from_now(-70)))
                run_by_hand(tx, job_id, token=2)
    with db.as_control() as tx:
        run_by_hand(tx, create_job(server.client, file.id).id, began=50_000)
    found = scrape(server)
    assert found["ft_attempts_total"] == {
        ("", "succeeded"): 1, ("", "released"): 1, ("", "lost"): 1, ("oom", "failed"): 1,
    }  # fmt: skip
    assert found["ft_lease_expired_total"] == {(): 1}
    assert found["ft_gpu_seconds_total"]["useful",] == pytest.approx(800, abs=60)
    assert found["ft_gpu_seconds_total"]["lost",] == pytest.approx(3800, abs=90)
    assert found["ft_lost_work_seconds_total"]["lost",] == pytest.approx(900, abs=60)
    assert found["ft_lost_work_seconds_total"]["failed",] == pytest.approx(800, abs=60)
    assert found["ft_project_gpu_seconds_total"] == {
        ("default", "default"): pytest.approx(4600, abs=90)
    }
    assert found["ft_recovery_seconds_count"] == {(): 1}
    assert found["ft_recovery_seconds_sum"][()] == pytest.approx(70, abs=30)
    assert found["ft_recovery_seconds_bucket"]["60.0",] == 0
    assert found["ft_recovery_seconds_bucket"]["300.0",] == 1


def test_a_job_is_timed_from_the_queue_to_its_claim_and_from_a_cancel_to_its_end(
    server: Served, db: Database
) -> None:
    job_id = create_job(server.client).id
    with db.as_control() as tx:
        tx.get_one(Job, job_id).available_at = tx.scalars(select(from_now(-120))).one()
        run_by_hand(tx, job_id, pool="a100")
    server.client.fine_tuning.jobs.cancel(job_id)
    with db.as_control() as tx:
        tx.execute(update(Event).where(Event.data.is_not(None)).values(created_at=from_now(-40)))
        end_by_hand(tx, job_id, AttemptEnd.CANCELLED)
    found = scrape(server)
    waits = found["ft_queue_wait_seconds_sum"]
    assert waits == {("a100",): pytest.approx(120, abs=30), ("default",): 0}
    buckets = found["ft_queue_wait_seconds_bucket"]
    assert (buckets["60.0", "a100"], buckets["300.0", "a100"]) == (0, 1)
    assert found["ft_cancel_seconds_sum"][()] == pytest.approx(40, abs=30)
    assert found["ft_cancel_seconds_count"] == {(): 1}


def test_bytes_are_shown_by_project_and_only_so_many_projects_are_named(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "NAMED_PROJECTS", 1)
    job_id = create_job(server.client).id
    with db.as_control() as tx:
        own = tx.get_one(Job, job_id).project_id
        add_checkpoint(tx, job_id, size=700)
        for number in range(2):
            projects.create(tx, f"later-{number}").stored_bytes = 50
    with db.as_control() as tx:
        stored = tx.get_one(Project, own).stored_bytes
    found = scrape(server)
    assert found["ft_checkpoint_bytes"] == {(): 700}
    assert stored > 700
    assert found["ft_project_stored_bytes"] == {("default",): stored, ("other projects",): 100}


def test_a_janitor_tells_that_it_is_there_and_whether_it_reaches_redis(
    server: Served, settings: Settings
) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{free_port()}")})
    before = scrape(server)["ft_janitor_silence_seconds"][()]
    janitor = Janitor(away)
    janitor.sweep()
    time.sleep(settings.sweep_seconds)
    janitor.sweep()
    found = scrape(server)
    assert before > found["ft_janitor_silence_seconds"][()] < 60
    assert found["ft_redis_away"] == {(): 1}
    janitor.db.close()


def test_each_figure_is_explained_on_the_page_and_there_is_none_else(server: Served) -> None:
    told = server.http(server.admin_key).get("/metrics").text
    page = (ROOT / "docs" / "monitoring.md").read_text()
    there = set(re.findall(r"^# TYPE (\w+) ", told, re.MULTILINE))
    assert set(re.findall(r"^\| `(ft_\w+)", page, re.MULTILINE)) == there


def test_workers_are_counted_by_state_and_build_while_they_are_heard_of(
    server: Served, db: Database
) -> None:
    hour = 3600
    workers: list[dict[str, Any]] = [
        {"build": "b1", "state": "active", "seen_at": -10, "quarantined_until": -5},
        {"build": "b1", "state": "active", "seen_at": -70},
        {"build": "b1", "state": "active", "seen_at": -20},
        {"build": "b2", "state": "draining", "seen_at": -2 * hour},
        {"build": "b2", "state": "draining", "seen_at": -3, "pool": "a100"},
        {"build": "b2", "state": "active", "seen_at": -500, "left_at": -500},
        {"build": None, "state": "active", "seen_at": -5, "quarantined_until": 600},
        {"build": "b0", "state": "active", "seen_at": -25 * hour},
    ]
    with db.as_control() as tx:
        for number, facts in enumerate(workers):
            times = {name: from_now(s) for name, s in facts.items() if isinstance(s, int)}
            tx.add(Worker(id=f"w-{number}", name="w", protocol=1, **{**facts, **times}))
    found = scrape(server)
    assert found["ft_workers"] == {
        ("b1", "default", "active"): 2, ("b1", "default", "offline"): 1,
        ("b2", "a100", "draining"): 1, ("b2", "default", "offline"): 2,
        ("", "default", "quarantined"): 1,
    }  # fmt: skip
    assert found["ft_worker_heartbeat_age_seconds_max"][()] == pytest.approx(70, abs=30)


def test_requests_are_timed_by_route_method_and_code(server: Served) -> None:
    def counted() -> Values:
        return scrape(server)["ft_http_request_seconds_count"]

    asked = {
        ("GET", "/v1/files/nobody-has-this"): ("404", "GET", "/v1/files/{file_id}"),
        ("GET", "/no/such/place"): ("404", "GET", "unknown"),
        ("PUT", "/v1/files"): ("405", "PUT", "/v1/files"),
        ("BREW", "/healthz"): ("405", "other", "/healthz"),
        ("GET", "/healthz"): ("200", "GET", "/healthz"),
    }
    before = counted()
    for method, path in asked:
        server.http().request(method, path)
    after = counted()
    for labels in asked.values():
        assert after[labels] - before.get(labels, 0) == 1


def test_a_write_under_a_claim_that_is_over_is_counted(server: Served) -> None:
    job = create_job(server.client)
    lost = server.http(lease_secret(server.settings.secret.get_secret_value(), job.id, 7))
    before = scrape(server).get("ft_fenced_writes_total", {}).get(("events",), 0)
    answer = lost.post(f"/worker/v1/jobs/{job.id}/events", json={"first": 1, "events": []})
    assert answer.status_code == 409
    assert scrape(server)["ft_fenced_writes_total"]["events",] == before + 1


def test_metrics_are_for_admins(server: Served, db: Database) -> None:
    others = create_key(db, "default", ["read", "write", "worker"])
    assert server.http(others).get("/metrics").status_code == 403
