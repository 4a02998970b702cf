from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from api.admin import create_key
from api.db.invariants import INVARIANTS
from api.db.session import Database
from api.storage.signing import lease_secret
from api.tables import Attempt, Worker, from_now
from tests.conftest import Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload
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
        "ft_checkpoint_age_seconds_max",
    ):
        assert found[name] == {(): 0}
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
            tx.execute(
                text("""
                    INSERT INTO checkpoint
                        (project_id, job_id, step, id, epoch, token, metrics, files, created_at)
                    SELECT project_id, id, 1, id, 1, 1, '{}', '[]',
                        now() - make_interval(secs => :age) FROM job WHERE id = :job_id
                """),
                {"age": age, "job_id": job_id},
            )
        wait = "UPDATE job SET available_at = now() + make_interval(secs => :wait) WHERE id = :id"
        tx.execute(text(wait), [{"id": ready, "wait": -50}, {"id": later, "wait": 500}])
    found = scrape(server)
    counts = {state: found["ft_jobs"][state,] for state in JobState}
    assert counts == dict.fromkeys(JobState, 0) | {"queued": 2, "running": 2, "cancelled": 1}
    assert found["ft_gpu_demand"] == {("default",): 3}
    assert found["ft_queue_oldest_age_seconds"]["default",] == pytest.approx(50, abs=30)
    assert found["ft_checkpoint_age_seconds_max"][()] == pytest.approx(200, abs=30)
    assert sum(found["ft_invariant_violations"].values()) == 0


def test_attempts_and_their_device_time_are_counted_when_they_end(
    server: Served, db: Database
) -> None:
    file = upload(server.client)
    ends = [
        (AttemptEnd.SUCCEEDED, None, 1000),
        (AttemptEnd.RELEASED, None, 200),
        (AttemptEnd.LOST, None, 3000),
        (AttemptEnd.FAILED, FailureClass.OOM, 400),
    ]
    with db.as_control() as tx:
        for outcome, failure_class, seconds in ends:
            job_id = create_job(server.client, file.id).id
            run_by_hand(tx, job_id, began=seconds)
            end_by_hand(tx, job_id, outcome, failure_class)
            if outcome is AttemptEnd.LOST:
                run_by_hand(tx, job_id, token=2)
                lost = tx.get_one(Attempt, (job_id, 1))
                assert lost.ended_at
                lost.ended_at = lost.ended_at - timedelta(seconds=70)
        run_by_hand(tx, create_job(server.client, file.id).id, began=50_000)
    found = scrape(server)
    assert found["ft_attempts_total"] == {
        ("", "succeeded"): 1, ("", "released"): 1, ("", "lost"): 1, ("oom", "failed"): 1,
    }  # fmt: skip
    assert found["ft_lease_expired_total"] == {(): 1}
    assert found["ft_gpu_seconds_total"]["useful",] == pytest.approx(1200, abs=60)
    assert found["ft_gpu_seconds_total"]["lost",] == pytest.approx(3330, abs=60)
    assert found["ft_recovery_seconds_count"] == {(): 1}
    assert found["ft_recovery_seconds_sum"][()] == pytest.approx(70, abs=30)


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
