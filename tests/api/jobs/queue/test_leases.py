"""The worker's side of the API, spoken by the worker's own client over HTTP."""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import text, update

from api.db.session import Database
from api.janitor import Janitor
from api.jobs.queue import leases, turns
from api.tables import BaseModel, Job, from_now
from api.tables import Lease as LeaseRow
from tests.answering_worker import wait_until
from tests.api import speaking
from tests.api.speaking import (
    ADAPTER,
    EXAMINED,
    PLAN,
    directive,
    failed,
    finish,
    send,
    succeeded,
)
from tests.conftest import BASE, ROOT, Served
from tests.factories import (
    another_base,
    create_job,
    data_set,
    end_pauses,
    let_leases_run_out,
    lose_workers,
    upload,
    worker_facts,
)
from tunery import messages
from tunery.base_model import file_facts
from tunery.errors import LeaseLost
from tunery.facts import FileFacts
from tunery.measured import Metrics, Progress
from tunery.states import MAX_IDLE_ATTEMPTS, FailureClass
from worker.client import ApiRefused, Client


def claim(worker: Client) -> messages.Lease:
    lease = speaking.claim(worker)
    assert lease
    return lease


def metrics(step: int) -> messages.JobEvent:
    return messages.JobEvent(message=f"Step {step}", metrics=Metrics(step=step, train_loss=1.0))


def test_a_claim_hands_over_all_that_an_attempt_needs(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    file = upload(server.client, data_set(30))
    job = create_job(server.client, file.id, seed=5, hyperparameters={"n_epochs": 2})
    lease = claim(worker)
    assert (lease.job_id, lease.token) == (job.id, 1)
    assert (lease.spec.seed, lease.spec.n_epochs, lease.spec.quantization) == (5, 2, "auto")
    assert (lease.base_model.id, lease.base_model.source) == (BASE, str(ROOT / "models" / "tiny"))
    with db.as_control() as tx:
        assert lease.project_id == tx.get_one(Job, job.id).project_id
    assert lease.training_file
    worker.download(lease.training_file, tmp_path / "data", patience=0)
    assert (tmp_path / "data").read_bytes() == data_set(30)
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "running"
    assert worker.claim(worker_facts("w2")) is None


def test_jobs_are_claimed_in_the_order_they_were_queued(server: Served, worker: Client) -> None:
    made = [create_job(server.client).id for _ in range(3)]
    assert [claim(worker).job_id for _ in range(3)] == made


@pytest.mark.parametrize(
    ("seconds", "first"),
    [(turns.HEAD_START_SECONDS - 1, "on the warm base"), (turns.HEAD_START_SECONDS, "earlier")],
)
def test_a_job_on_the_warm_base_overtakes_only_what_came_shortly_before_it(
    server: Served, worker: Client, db: Database, seconds: float, first: str
) -> None:
    jobs = {
        "earlier": create_job(server.client).id,
        "on the warm base": create_job(server.client, model=another_base(db)).id,
    }
    with db.as_control() as tx:
        tx.execute(update(Job).values(available_at=from_now(-seconds)))
        warm = update(Job).where(Job.id == jobs["on the warm base"])
        tx.execute(warm.values(available_at=from_now(0)))
    lease = worker.claim(worker_facts("w1"), warm_base="another")
    assert lease
    assert lease.job_id == jobs[first]


def test_a_long_poll_answers_when_a_job_comes(server: Served, worker: Client) -> None:
    began = time.monotonic()
    assert worker.claim(worker_facts("w1"), wait=0.6) is None
    assert time.monotonic() - began >= 0.6
    create_job(server.client)
    assert worker.claim(worker_facts("w1"), wait=5)


def test_a_success_publishes_the_adapter_the_results_and_the_model(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    client = server.client
    job = create_job(client, suffix="mine & ours")
    lease = claim(worker)
    files = send(worker, lease, tmp_path, ADAPTER)
    assert (
        client.get(f"/fine_tuning/jobs/{job.id}/artifacts", cast_to=dict[str, object])["data"] == []
    )
    finish(worker, lease, succeeded(files))
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.trained_tokens, done.error) == ("succeeded", 99, None)
    assert done.fine_tuned_model == f"ft:{BASE}:default:mine-ours:{job.id[-8:]}"
    assert (done.model_extra or {})["user_provided_suffix"] == "mine & ours"
    assert done.finished_at
    assert client.models.retrieve(done.fine_tuned_model).owned_by == "default"
    results = client.files.retrieve(done.result_files[0])
    assert (results.purpose, results.status) == ("fine-tune-results", "processed")
    assert client.files.content(results.id).read() == ADAPTER["metrics.csv"]
    listed = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/artifacts").json()
    assert listed["object"] == "list"
    for item in listed["data"]:
        content = ADAPTER[item["name"]]
        assert (item["bytes"], item["sha256"]) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        path = f"/v1/fine_tuning/jobs/{job.id}/artifacts/{item['name']}"
        answer = server.http().get(path, headers={"range": "bytes=1-"})
        assert (answer.status_code, answer.content) == (206, content[1:])
        assert answer.headers["etag"] == f'"{item["sha256"]}"'
    assert {item["name"] for item in listed["data"]} == set(ADAPTER)
    client.files.delete(results.id)
    path = f"/v1/fine_tuning/jobs/{job.id}/artifacts/metrics.csv"
    assert server.http().get(path).content == ADAPTER["metrics.csv"]
    messages_ = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert messages_[:2] == [
        "The job has successfully completed",
        f"New fine-tuned model created: {done.fine_tuned_model}",
    ]


def test_saying_the_end_twice_is_saying_it_once(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    files = send(worker, lease, tmp_path, ADAPTER)
    finish(worker, lease, succeeded(files))
    before = list(server.client.fine_tuning.jobs.list_events(job.id))
    finish(worker, lease, succeeded(files))
    assert list(server.client.fine_tuning.jobs.list_events(job.id)) == before


def test_results_that_are_not_all_there_are_not_published(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    files = send(worker, lease, tmp_path, ADAPTER)
    with pytest.raises(ApiRefused, match="lack manifest"):
        finish(worker, lease, succeeded([file for file in files if file.name != "manifest.json"]))
    unsent = FileFacts(name="extra.bin", bytes=1, sha256="0" * 64)
    with pytest.raises(ApiRefused, match="has not been uploaded"):
        finish(worker, lease, succeeded([*files, unsent]))
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "running"
    assert len(server.client.files.list().data) == 1


def test_an_upload_of_other_bytes_than_announced_is_refused(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    create_job(server.client)
    lease = claim(worker)
    path = tmp_path / "a.bin"
    path.write_bytes(b"true")
    facts = file_facts(path)
    path.write_bytes(b"fals")
    with pytest.raises(ApiRefused, match="not those announced"):
        worker.upload(lease, path, facts, patience=0)
    assert not list((server.settings.folder / "jobs").rglob("*.*"))


def test_storage_takes_only_links_the_api_has_signed(server: Served, worker: Client) -> None:
    create_job(server.client)
    link = claim(worker).training_file
    assert link
    url = link.url
    assert httpx.get(server.url + url, timeout=60).status_code == 200
    other = url.replace("/storage/files/", "/storage/files/../files/x")
    last = "0" if url.endswith("1") else "1"
    for forged in (url[:-1] + last, url.replace("until=1", "until=2"), other):
        assert httpx.get(server.url + forged, timeout=60).status_code == 401
    assert httpx.put(server.url + url, content=b"x", timeout=60).status_code == 400


def test_a_lease_is_good_for_its_own_job_alone(server: Served, worker: Client) -> None:
    first, second = create_job(server.client), create_job(server.client)
    lease = claim(worker)
    assert lease.job_id == first.id
    stolen = lease.model_copy(update={"job_id": second.id})
    with pytest.raises(ApiRefused, match="is not for"):
        finish(worker, stolen, messages.Released())
    forged = lease.model_copy(update={"secret": lease.secret.replace(".1.", ".2.")})
    with pytest.raises(ApiRefused, match="signature"):
        finish(worker, forged, messages.Released())
    assert server.http(lease.secret).get("/v1/files").status_code == 401


def test_events_are_stored_once_however_often_a_batch_is_sent(
    server: Served, worker: Client
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    batch = messages.EventBatch(
        first=0,
        events=[messages.JobEvent(message="hello"), metrics(1), metrics(2)],
        progress=Progress(step=2, total_steps=9, trained_tokens=7, seconds_left=30),
    )
    worker.add_events(lease, batch)
    worker.add_events(lease, batch)
    worker.add_events(
        lease, messages.EventBatch(first=3, events=[metrics(2), metrics(3), metrics(3)])
    )
    jobs = server.client.fine_tuning.jobs
    said = [event.message for event in jobs.list_events(job.id, limit=4).data]
    assert said == ["Step 3", "Step 2", "Step 1", "hello"]
    running = jobs.retrieve(job.id)
    assert running.trained_tokens == 7
    assert running.estimated_finish
    assert (running.model_extra or {})["tunery"]["progress"]["step"] == 2


def test_a_job_shows_the_newest_plan_that_its_worker_told(server: Served, worker: Client) -> None:
    job = create_job(server.client)
    lease = claim(worker)

    def shown() -> dict[str, Any] | None:
        extras = server.client.fine_tuning.jobs.retrieve(job.id).model_extra or {}
        plan: dict[str, Any] | None = extras["tunery"]["plan"]
        return plan

    assert shown() is None
    events = [
        messages.JobEvent(message="planned", data={"plan": PLAN}),
        messages.JobEvent(message="cut", data={"plan": PLAN | {"micro_tokens": 1024}}),
        messages.JobEvent(message="hello", data={"rows": 3}),
    ]
    worker.add_events(lease, messages.EventBatch(first=0, events=events))
    assert shown() == PLAN | {"micro_tokens": 1024}


def test_a_base_model_shows_what_a_worker_found_of_its_family_last(
    server: Served, worker: Client, db: Database
) -> None:
    create_job(server.client)
    lease = claim(worker)
    events = [
        messages.JobEvent(message="planned", data={"examined": EXAMINED | changed})
        for changed in ({}, {"device": "cpu", "way": "padded"}, {"device": "no kind"})
    ]
    worker.add_events(lease, messages.EventBatch(first=0, events=events))
    shown = server.http().get(f"/v1/models/{BASE}").json()
    assert shown["examined"] == EXAMINED | {"device": "cpu", "way": "padded"}
    lose_workers(db, server.settings)
    again = claim(worker)
    assert again.base_model.examined is None, "older workers take no fact that they do not know"
    with db.as_control() as tx:
        tx.execute(update(BaseModel).values(revision="other", examined=None))
    worker.add_events(again, messages.EventBatch(first=0, events=events))
    assert "examined" not in server.http().get(f"/v1/models/{BASE}").json()


def test_a_stale_claim_is_refused_every_write(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    job = create_job(server.client)
    stale = claim(worker)
    lose_workers(db, server.settings)
    fresh = claim(worker)
    assert fresh.token == stale.token + 1
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    written = messages.CheckpointWritten(step=1, epoch=1, metrics=Metrics(step=1), files=[])
    writes = (
        partial(worker.add_events, stale, messages.EventBatch(first=0, events=[metrics(1)])),
        partial(worker.upload, stale, path, file_facts(path), patience=0),
        partial(worker.add_checkpoint, stale, written, patience=0),
        partial(finish, worker, stale, messages.Released()),
        partial(finish, worker, stale, failed(FailureClass.USER)),
    )
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    beats = [
        messages.LeaseBeat(job_id=job.id, token=lease.token, step=0) for lease in (stale, fresh)
    ]
    assert [answer.directive for answer in worker.heartbeat(worker_facts(), beats).leases] == [
        "lost",
        "run",
    ]
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "running"


def test_an_expired_lease_that_nobody_else_took_goes_on(
    server: Served, worker: Client, db: Database
) -> None:
    create_job(server.client)
    lease = claim(worker)
    with db.as_control() as tx:
        tx.execute(update(LeaseRow).values(until=text("now() - interval '1 s'")))
    assert directive(worker, lease) == "run"
    with db.as_control() as tx:
        assert leases.rescue(tx, server.settings) is None


def test_a_running_job_learns_of_its_cancel_by_heartbeat(server: Served, worker: Client) -> None:
    jobs = server.client.fine_tuning.jobs
    job = create_job(server.client)
    lease = claim(worker)
    assert jobs.cancel(job.id).status == "running"
    events = list(jobs.list_events(job.id))
    assert jobs.cancel(job.id).status == "running"
    assert list(jobs.list_events(job.id)) == events
    assert directive(worker, lease) == "cancel"
    finish(worker, lease, messages.Released())
    assert jobs.retrieve(job.id).status == "cancelled"


def test_a_job_that_has_succeeded_cannot_be_cancelled(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    with pytest.raises(openai.ConflictError, match="already succeeded") as refused:
        server.client.fine_tuning.jobs.cancel(job.id)
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_worker_that_has_hung_up_is_given_no_job(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "api.requests")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/worker/v1/claim?wait=20",
            json={"protocol": messages.PROTOCOL, "worker": "ghost"},
            headers={"authorization": f"Bearer {server.worker_key}"},
            timeout=httpx.Timeout(60, read=0.2),
        )
    job = create_job(server.client)
    wait_until(lambda: "/worker/v1/claim" in [vars(line).get("route") for line in caplog.records])
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def test_no_secret_however_odd_crashes_the_server(server: Served, worker: Client) -> None:
    create_job(server.client)
    lease = claim(worker)
    for secret in ("lease.a.1.\xe9", "lease.a.\xb2.x", f"lease.a.{'9' * 5000}.x"):
        headers = {b"authorization": f"Bearer {secret}".encode("latin-1")}
        answer = httpx.post(
            f"{server.url}/worker/v1/jobs/a/events",
            json={"first": 0, "events": []},
            headers=headers,
        )
        assert answer.status_code == 401
    odd = f"{server.url}/storage/x?until=1&sha256=0&signature=%C3%A9"
    assert httpx.get(odd, timeout=60).status_code == 401
    beat = {"job_id": "\x00", "token": 10**30, "step": lease.token}
    worker_ = worker_facts().model_dump()
    answer = server.http(server.worker_key).post(
        "/worker/v1/heartbeat", json={"worker": worker_, "leases": [beat]}
    )
    assert answer.status_code == 400
    beat = {"job_id": "\ud800", "token": 1, "step": 1}
    answer = server.http(server.worker_key).post(
        "/worker/v1/heartbeat",
        content=json.dumps({"worker": worker_, "leases": [beat]}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400


def test_a_users_fault_fails_at_once_and_a_machines_is_tried_again(
    server: Served, worker: Client
) -> None:
    jobs = server.client.fine_tuning.jobs
    first, second = create_job(server.client), create_job(server.client)
    finish(worker, claim(worker), failed(FailureClass.USER, "row 3 is \x00bad"))
    finish(worker, claim(worker), failed(FailureClass.INFRA))
    ended = jobs.retrieve(first.id)
    assert ended.status == "failed"
    assert ended.error
    assert (ended.error.code, ended.error.message) == ("broke", "row 3 is bad")
    assert (ended.model_extra or {})["tunery"]["failure_class"] == "user"
    assert jobs.retrieve(second.id).status == "queued"
    assert worker.claim(worker_facts("w1")) is None, (
        "a job that failed waits before it is tried again"
    )
    facts = [(event.model_extra or {})["tunery"] for event in jobs.list_events(first.id)]
    assert {"log": "the log"} in facts


def test_a_job_that_gets_no_further_is_given_up_after_three_attempts(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)
    for _ in range(MAX_IDLE_ATTEMPTS):
        lease = claim(worker)
        finish(worker, lease, failed(FailureClass.INFRA))
        end_pauses(db)
    ended = server.client.fine_tuning.jobs.retrieve(job.id)
    assert ended.status == "failed"
    assert (ended.model_extra or {})["tunery"]["failure_class"] == "poisoned"


def test_a_newer_checkpoint_is_progress_and_the_next_attempt_starts_from_it(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    job = create_job(server.client)
    for step in range(1, MAX_IDLE_ATTEMPTS + 2):
        lease = claim(worker)
        assert (lease.checkpoint.step if lease.checkpoint else 0) == step - 1
        if lease.checkpoint:
            (link,) = lease.checkpoint.files
            worker.download(link, tmp_path / "got", patience=0)
            assert (tmp_path / "got").read_bytes() == f"state {step - 1}".encode()
        files = send(worker, lease, tmp_path, {"state.bin": f"state {step}".encode()})
        written = messages.CheckpointWritten(
            step=step,
            epoch=step,
            metrics=Metrics(step=step, train_loss=0.5, valid_loss=0.7 + step),
            files=files,
        )
        worker.add_checkpoint(lease, written, patience=0)
        worker.add_checkpoint(lease, written, patience=0)
        lose_workers(db, server.settings)
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    listed = list(server.client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in listed] == [4, 3, 1], "the last two, the best"
    assert listed[0].fine_tuned_model_checkpoint.endswith(":ckpt-step-4")
    assert listed[0].metrics.full_valid_loss == 4.7
    stored = {
        path.read_bytes() for path in (server.settings.folder / "jobs").rglob("*") if path.is_file()
    }
    assert stored == {b"state 4", b"state 3", b"state 1"}


def test_a_worker_that_shuts_down_gives_its_job_back_unpunished(
    server: Served, worker: Client
) -> None:
    create_job(server.client)
    for _ in range(MAX_IDLE_ATTEMPTS + 1):
        finish(worker, claim(worker), messages.Released())
    assert claim(worker).token == MAX_IDLE_ATTEMPTS + 2


def test_a_worker_that_speaks_an_older_protocol_is_told_to_update(server: Served) -> None:
    http = server.http(server.worker_key)
    old = {"protocol": messages.PROTOCOL - 2, "worker": "old"}
    for route, ask in (("claim", old), ("heartbeat", {"leases": []})):
        answer = http.post(f"/worker/v1/{route}", json=ask)
        assert answer.status_code == 426
        assert "Update the worker" in answer.json()["error"]["message"]


def test_the_janitor_takes_jobs_back_from_lost_workers(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(lease_seconds=600)
    worker, janitor = Client(server.url, server.worker_key), Janitor(server.settings)
    job = create_job(server.client)
    claim(worker)
    janitor.sweep()
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "running"
    with db.as_control() as tx:
        let_leases_run_out(tx)
    janitor.sweep()
    janitor.db.close()
    worker.http.close()
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def test_a_terminal_state_never_changes_even_by_hand(server: Served, db: Database) -> None:
    job = create_job(server.client)
    server.client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(Exception, match="is final"), db.as_control() as tx:
        tx.execute(text("UPDATE job SET state = 'queued'"))


def test_a_file_of_a_running_job_stays(server: Served, worker: Client) -> None:
    job = create_job(server.client)
    claim(worker)
    with pytest.raises(openai.ConflictError):
        server.client.files.delete(job.training_file)
