"""The workers an operator sees, drains and takes back."""

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import text

from api.db.session import Database
from tests.api.speaking import ADAPTER, claim, directive, failed, finish, send, succeeded
from tests.conftest import Served
from tests.factories import create_job, end_pauses, upload, worker_facts
from tunery import messages
from tunery.states import FailureClass
from worker.client import Client

SPEC_OF_OLD = {
    "version", "base_model", "base_revision", "training_file", "validation_file", "seed",
    "n_epochs", "batch_size", "learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm",
    "max_length", "lora", "quantization",
}  # fmt: skip


@pytest.fixture
def admin(server: Served) -> httpx.Client:
    return server.http(server.admin_key)


def shown(admin: httpx.Client, name: str = "w1") -> dict[str, object]:
    (found,) = [
        worker for worker in admin.get("/v1/admin/workers").json()["data"] if worker["name"] == name
    ]
    return dict(found)


def test_an_operator_sees_what_each_worker_is_and_does(
    server: Served, worker: Client, admin: httpx.Client
) -> None:
    worker.heartbeat(worker_facts("w2"), [])
    job = create_job(server.client)
    claim(worker)
    busy, idle = shown(admin, "w1"), shown(admin, "w2")
    assert (busy["state"], busy["job_id"], busy["device"]) == ("active", job.id, "cpu")
    assert (busy["memory_bytes"], busy["protocol"]) == (1 << 30, messages.PROTOCOL)
    assert (idle["id"], idle["job_id"]) == ("worker-w2", None)
    assert server.http().get("/v1/admin/workers").status_code == 403
    assert admin.post("/v1/admin/workers/none/drain").status_code == 404


def test_a_drained_worker_gives_its_job_back_and_gets_no_other_until_resumed(
    server: Served, worker: Client, admin: httpx.Client
) -> None:
    create_job(server.client)
    lease = claim(worker)
    assert lease
    assert directive(worker, lease) == "run"
    drained = admin.post("/v1/admin/workers/worker-w1/drain").json()
    assert (drained["state"], drained["job_id"]) == ("draining", lease.job_id)
    assert directive(worker, lease) == "release"
    finish(worker, lease, messages.Released())
    assert claim(worker, "w1") is None
    assert admin.post("/v1/admin/workers/worker-w1/resume").json()["state"] == "active"
    assert claim(worker, "w1")


def test_a_worker_that_is_silent_for_a_minute_or_has_left_is_offline_until_it_is_back(
    worker: Client, admin: httpx.Client, db: Database
) -> None:
    worker.heartbeat(worker_facts(), [])
    assert shown(admin)["state"] == "active"
    with db.as_control() as tx:
        tx.execute(text("UPDATE worker SET seen_at = now() - interval '61 s', state = 'draining'"))
    assert shown(admin)["state"] == "offline"
    worker.heartbeat(worker_facts(), [])
    assert shown(admin)["state"] == "draining", "a drain is remembered"
    worker.heartbeat(worker_facts(), [], leaving=True)
    assert shown(admin)["state"] == "offline"


def test_a_worker_is_forgotten_but_not_while_it_is_at_a_job(
    server: Served, worker: Client, admin: httpx.Client
) -> None:
    create_job(server.client)
    lease = claim(worker)
    assert lease
    refused = admin.delete("/v1/admin/workers/worker-w1")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "worker_busy")
    finish(worker, lease, messages.Released())
    deleted = {"id": "worker-w1", "object": "worker", "deleted": True}
    assert admin.delete("/v1/admin/workers/worker-w1").json() == deleted
    assert admin.get("/v1/admin/workers").json()["data"] == []
    assert admin.delete("/v1/admin/workers/worker-w1").status_code == 404


@pytest.mark.parametrize("number", ["protocol", "memory_bytes"])
def test_a_truth_value_is_no_number_of_a_workers(number: str) -> None:
    with pytest.raises(ValidationError, match=number):
        messages.WorkerFacts.model_validate({"protocol": 4, "worker": "w", number: True})


def fail_next(worker: Client, db: Database) -> str:
    lease = claim(worker)
    assert lease
    finish(worker, lease, failed(FailureClass.INFRA))
    with db.as_control() as tx:
        later = "UPDATE job SET available_at = now() + interval '1 h' WHERE id = :id"
        tx.execute(text(later), {"id": lease.job_id})
    return lease.job_id


def test_a_worker_whose_machine_fails_two_jobs_in_a_row_is_quarantined_for_a_while(
    server: Served, worker: Client, admin: httpx.Client, db: Database
) -> None:
    for _ in range(3):
        create_job(server.client)
    fail_next(worker, db)
    assert shown(admin)["state"] == "active"
    fail_next(worker, db)
    assert shown(admin)["state"] == "quarantined"
    assert claim(worker) is None
    assert claim(worker, "w2"), "others go on"
    end_pauses(db)
    admin.post("/v1/admin/workers/worker-w1/resume")
    assert claim(worker)


@pytest.mark.parametrize(
    ("phase", "code"),
    [("base", "engine_died"), ("training_file", "engine_hung"), (None, "engine_error")],
)
def test_what_breaks_before_the_training_or_in_the_program_says_nothing_against_a_worker(
    server: Served, worker: Client, admin: httpx.Client, phase: messages.Phase | None, code: str
) -> None:
    for _ in range(3):
        create_job(server.client)
        lease = claim(worker)
        assert lease
        fault = failed(FailureClass.INFRA).model_copy(update={"phase": phase, "code": code})
        finish(worker, lease, fault)
    assert (shown(admin)["state"], shown(admin)["failures"]) == ("active", 0)


def test_a_success_and_a_job_that_fails_twice_say_nothing_against_a_worker(
    server: Served, worker: Client, admin: httpx.Client, db: Database, tmp_path: Path
) -> None:
    first = create_job(server.client)
    assert fail_next(worker, db) == first.id
    end_pauses(db)
    assert fail_next(worker, db) == first.id
    assert shown(admin)["state"] == "active"
    create_job(server.client)
    lease = claim(worker)
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    assert shown(admin)["failures"] == 0


def test_the_protocol_before_ours_is_given_the_jobs_that_were_made_for_it(
    server: Served, db: Database
) -> None:
    newer, older = create_job(server.client), create_job(server.client)
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET not_for_ollama = 'it counts'"))
        before = {"was": messages.OLDEST_PROTOCOL, "id": older.id}
        tx.execute(text("UPDATE job SET min_protocol = :was WHERE id = :id"), before)
    ask = {"protocol": messages.OLDEST_PROTOCOL, "worker": "old"}
    http = server.http(server.worker_key)
    lease = http.post("/worker/v1/claim", json=ask).json()
    assert lease["job_id"] == older.id
    assert set(lease["spec"]) == SPEC_OF_OLD, "it refuses what it does not know"
    assert set(lease["spec"]["lora"]) == {"r", "alpha", "dropout"}
    assert "not_for_ollama" not in lease["base_model"]
    assert http.post("/worker/v1/claim", json=ask).status_code == 204
    ours = {"protocol": messages.PROTOCOL, "worker": "new"}
    assert http.post("/worker/v1/claim", json=ours).json()["job_id"] == newer.id


def test_a_quarantine_does_not_hide_a_drain(
    server: Served, worker: Client, admin: httpx.Client, db: Database
) -> None:
    create_job(server.client)
    lease = claim(worker)
    assert lease
    admin.post("/v1/admin/workers/worker-w1/drain")
    with db.as_control() as tx:
        tx.execute(text("UPDATE worker SET quarantined_until = now() + interval '1 h'"))
    assert directive(worker, lease) == "release"


def test_a_file_goes_by_what_it_is(server: Served, worker: Client) -> None:
    file = upload(server.client, b"prompt,completion\n" + b"Bread is, baked.\n" * 12, "Rows.CSV")
    job = create_job(server.client, file.id)
    report = server.http().get(f"/v1/files/{file.id}/report").json()
    assert (report["container"], report["formats"]) == ("csv", {"completion": 12})
    lease = claim(worker)
    assert lease
    assert lease.training_file
    assert (lease.job_id, lease.training_file.name) == (job.id, f"{file.id}.csv")
