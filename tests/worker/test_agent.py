"""The agent against a real API over HTTP, with an engine that follows a script."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import text

from api.db.session import Database
from tests.conftest import BASE, Served
from tests.factories import another_base, create_job, end_pauses, lose_workers, upload, worker_facts
from tests.worker.conftest import MakeWork, attempts, engine_of, poll, retrieve, said, wait_for
from tunery.facts import FileFacts
from tunery.messages import Succeeded
from worker.client import ApiAway, Client
from worker.protocol import Stop, Train
from worker.spool import Outcome
from worker.warm_engine import EngineDied


def test_an_agent_runs_all_ready_jobs_on_one_engine_and_cleans_up(
    server: Served, work: MakeWork
) -> None:
    jobs = [create_job(server.client) for _ in range(2)]
    worker = work("finish")
    worker.run()
    for job in jobs:
        assert retrieve(server, job).status == "succeeded"
        heard = said(server, job)[3:]
        # It is sent beside the training.
        assert heard.index("Checkpoint created at step 2") > 2
        heard.remove("Checkpoint created at step 2")
        assert heard == [
            "Fine-tuning job started on worker w1",
            "Step 1/4: training loss=1.00",
            "Step 2/4: training loss=0.50",
            "Step 3/4: training loss=0.33",
            "Step 4/4: training loss=0.25",
            f"New fine-tuned model created: {retrieve(server, job).fine_tuned_model}",
            "The job has successfully completed",
        ]
    log = worker.engine.log_file.read_text()
    assert [line.split()[1] for line in log.splitlines()] == [job.id for job in jobs]
    assert list((worker.folder / "attempts").iterdir()) == []


def test_an_agent_stays_with_the_base_that_its_engine_has_loaded(
    server: Served, work: MakeWork, db: Database
) -> None:
    other = another_base(db)
    jobs = [create_job(server.client, model=model) for model in (BASE, other, BASE)]
    worker = work("finish")
    worker.run()
    began = [line.split()[1] for line in worker.engine.log_file.read_text().splitlines()]
    assert began == [jobs[0].id, jobs[2].id, jobs[1].id]
    assert worker.engine.base == other


def test_a_polling_worker_ends_when_there_has_been_no_work_for_so_long(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    poll(server, work("finish"), monkeypatch, "--idle-exit", "1")
    assert retrieve(server, job).status == "succeeded"
    (gone,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert gone["state"] == "offline", "it has said that it ends"


def test_a_cancel_reaches_the_engine_with_a_heartbeat(server: Served, work: MakeWork) -> None:
    job = create_job(server.client)
    with work("wait").running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        server.client.fine_tuning.jobs.cancel(job.id)
        wait_for(lambda: retrieve(server, job).status == "cancelled")


def test_a_worker_that_drains_gives_its_job_back_with_its_last_step(
    server: Served, work: MakeWork
) -> None:
    job = create_job(server.client)
    worker = work("wait")
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        worker.draining.set()
    assert retrieve(server, job).status == "queued"
    second = work("finish")
    second.run()
    assert retrieve(server, job).status == "succeeded"
    assert second.engine.log_tail() == f"training {job.id}\nfrom three\n"


def test_the_last_words_of_an_engine_that_has_gone_before_it_was_told_are_heard(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    worker = work("wait")
    write = worker.engine.write

    def too_late(command: Train | Stop) -> None:
        write(command)
        if isinstance(command, Stop):
            raise EngineDied("The engine ended with exit code 0.")

    monkeypatch.setattr(worker.engine, "write", too_late)
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        worker.draining.set()
    assert said(server, job)[-1] == "The worker gave the job back; it is queued again"
    assert "Checkpoint created at step 3" in said(server, job)


def test_a_pause_frees_the_worker_and_keeps_the_last_step(server: Served, work: MakeWork) -> None:
    job = create_job(server.client)
    worker = work("wait")
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        server.client.fine_tuning.jobs.pause(job.id)
    paused = retrieve(server, job)
    assert (str(paused.status), paused.finished_at) == ("paused", None)
    server.client.fine_tuning.jobs.resume(job.id)
    worker.run()
    assert retrieve(server, job).status == "succeeded"
    assert worker.engine.log_tail() == f"training {job.id}\nfrom three\n"


def test_a_worker_that_is_to_go_while_it_fetches_files_goes_at_once(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    worker = work("finish")

    def away(*_: object) -> httpx.Response:
        worker.draining.set()
        raise httpx.ConnectError("storage is away")

    monkeypatch.setattr(worker.client, "fetch", away)
    worker.run()
    assert retrieve(server, job).status == "queued"
    assert said(server, job)[-1] == "The worker gave the job back; it is queued again"


def test_results_that_cannot_be_delivered_are_delivered_by_the_next_worker_in_the_folder(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    first = work("finish", "node")

    def away(*_: object, **__: object) -> None:
        raise ApiAway("cut off")

    monkeypatch.setattr(first.client, "upload", away)
    first.run()
    first.close()
    assert retrieve(server, job).status == "running"
    work("finish", "node")
    wait_for(lambda: retrieve(server, job).status == "succeeded")
    wait_for(lambda: not list((first.folder / "attempts").iterdir()))
    assert attempts(server, job) == 1


def test_a_late_delivery_that_fails_shows_nobody_elses_log(
    server: Served, work: MakeWork, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = worker.claim(worker_facts("w1"))
    assert lease
    folder = tmp_path / "node" / "attempts" / f"{job.id}-1"
    folder.mkdir(parents=True)
    gone = FileFacts(name="metrics.csv", bytes=1, sha256="0" * 64)
    result = Succeeded(trained_tokens=1, files=[gone], metrics_csv=gone.name)
    Outcome(lease=lease, result=result, folder=folder / "gone").keep(folder)
    (tmp_path / "node" / "engine.log").write_text("another job's words")
    work("finish", "node")
    wait_for(lambda: retrieve(server, job).status == "queued")
    events = server.client.fine_tuning.jobs.list_events(job.id)
    assert not any((event.model_extra or {})["tunery"] for event in events)


def test_a_worker_without_time_for_its_checkpoint_still_gives_the_job_back(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    worker = work("wait", grace_seconds=4)
    hanging = threading.Event()
    monkeypatch.setattr(worker.client, "upload", lambda *_, **__: hanging.wait(60))
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        worker.draining.set()
        worker.client.deadline = time.monotonic() + 3
        wait_for(lambda: retrieve(server, job).status == "queued")
        hanging.set()


def test_a_pause_that_an_engine_does_not_heed_gives_way_to_a_cancel_and_to_the_workers_end(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    worker = work("deaf", grace_seconds=0.5)
    told: list[str] = []
    write = worker.engine.write

    def tell(command: Train | Stop) -> None:
        write(command)
        if isinstance(command, Stop):
            told.append(command.job_id)

    monkeypatch.setattr(worker.engine, "write", tell)
    with worker.running():
        for job in (first, second):
            wait_for(lambda job=job: retrieve(server, job).trained_tokens == 30)  # type: ignore[misc]
            server.client.fine_tuning.jobs.pause(job.id)
            wait_for(lambda job=job: job.id in told)  # type: ignore[misc]
            if job is first:
                server.client.fine_tuning.jobs.cancel(job.id)
            else:
                worker.draining.set()
    assert retrieve(server, first).status == "cancelled"
    assert str(retrieve(server, second).status) == "paused"


def test_an_engine_that_does_not_stop_is_killed(server: Served, work: MakeWork) -> None:
    job = create_job(server.client)
    worker = work("deaf", grace_seconds=0.5)
    deaf = engine_of(worker)
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        server.client.fine_tuning.jobs.cancel(job.id)
    assert retrieve(server, job).status == "cancelled"
    assert deaf.poll() == -signal.SIGKILL


def test_a_worker_that_has_lost_its_lease_drops_the_results(
    server: Served, work: MakeWork, db: Database
) -> None:
    job = create_job(server.client)
    worker = work("deaf", grace_seconds=1)
    first = engine_of(worker)
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        lose_workers(db, server.settings)
        wait_for(lambda: attempts(server, job) == 2)
        assert first.poll() == -signal.SIGKILL
        worker.draining.set()
    assert retrieve(server, job).status == "queued"


def test_the_engine_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.settings import engine_environment

    for name in ("TUNERY_WORKER_KEY", "DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may add up otherwise
    monkeypatch.setenv("TRITON_CACHE_DIR", "triton")
    environment = engine_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert environment["TRITON_CACHE_DIR"] == "triton"  # or the image's home, read-only
    assert "secret" not in environment.values()


def export(
    server: Served, job: FineTuningJob, format_: str = "gguf", **options: str
) -> Callable[[], Any]:
    """Begins one; what comes looks at it."""
    client, path = server.http(), f"/v1/fine_tuning/jobs/{job.id}/exports"
    made = client.post(path, json={"format": format_, **options}).json()["id"]
    return lambda: client.get(f"{path}/{made}").json()


def test_an_export_goes_through_the_same_agent_and_engine(
    server: Served, work: MakeWork, db: Database
) -> None:
    file = upload(server.client).id
    plain, job = (
        create_job(server.client, file),
        create_job(server.client, file, validation_file=file),
    )
    worker = work("finish")
    worker.run()
    first = export(server, job)
    work("die").run()
    assert first()["status"] == "queued"
    end_pauses(db)
    worker.run()
    seen = first()
    assert (seen["status"], seen["tunery"]["attempts"]) == ("succeeded", 2)
    assert [(one["name"], one["bytes"]) for one in seen["files"]] == [
        ("gguf.bin", 7),
        ("manifest.json", 56),
    ]
    assert seen["tunery"]["facts"]["adapter"] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert list((worker.folder / "attempts").iterdir()) == []
    merged = [export(server, one, "merged") for one in (job, plain)]
    worker.run()
    server.client.files.delete(file)
    merged.append(export(server, job, "merged", dtype="fp32"))
    worker.run()
    given = [look()["tunery"]["facts"]["given"] for look in (first, *merged)]
    assert [(one["training_file"], one["validation_file"]) for one in given] == [
        (False, False),
        (False, True),
        (True, False),
        (False, False),
    ]


def test_an_export_is_cancelled_given_back_and_refused(
    server: Served, work: MakeWork, db: Database
) -> None:
    job = create_job(server.client)
    finishes = work("finish")
    finishes.run()
    waits, look = work("wait"), export(server, job)
    path = f"/v1/fine_tuning/jobs/{job.id}/exports/{look()['id']}"

    def messages() -> list[str]:
        events = server.http().get(f"{path}/events").json()["data"]
        return [event["message"] for event in reversed(events)]

    with waits.running():
        wait_for(lambda: "Waiting" in messages())
        waits.draining.set()
    assert look()["status"] == "queued"
    waits.draining.clear()
    with waits.running():
        wait_for(lambda: look()["status"] == "running")
        server.http().post(f"{path}/cancel")
    assert look()["status"] == "cancelled"
    assert messages()[2:4] == [
        "Waiting",
        "The worker gave the export back; it is queued again",
    ]
    look = export(server, job)
    work("broke").run()
    assert (look()["status"], look()["error"]["code"]) == ("failed", "export_refused")
    look = export(server, job)
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET plan = '{\"a\": 1}' WHERE exported_job_id IS NULL"))
    finishes.run()
    assert (look()["status"], look()["error"]["code"]) == ("failed", "unreadable_spec")
