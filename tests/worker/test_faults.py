"""What goes wrong on a worker: who is blamed for it, and what it costs the job."""

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import text

from api.db.session import Database
from api.storage.folder import Folder
from api.tables import File, Job, Worker
from api.workers import workers
from tests.conftest import BASE, Served, serve
from tests.factories import another_base, create_job, end_pauses
from tests.worker.conftest import TINY, MakeWork, attempts, engine_of, retrieve, said, wait_for
from tunery.facts import FileFacts
from tunery.messages import HeartbeatReply, Lease
from worker import delivery, lacking, warm_engine
from worker.client import ApiAway, ApiRefused, Client
from worker.commands import command_of
from worker.protocol import Export, Train
from worker.usable import DeviceUnusable


def test_an_engine_that_broke_or_ended_has_no_base(server: Served, work: MakeWork) -> None:
    create_job(server.client)
    broken = work("full")
    broken.run()
    assert broken.engine.base is None
    ended = work("finish")
    create_job(server.client)
    ended.run()
    ended.engine.kill()
    assert ended.engine.base is None


def test_a_fault_of_the_data_fails_the_job_with_the_end_of_the_log(
    server: Served, work: MakeWork
) -> None:
    job = create_job(server.client)
    work("broke").run()
    failed = retrieve(server, job)
    assert failed.status == "failed"
    assert failed.error
    assert (failed.error.code, failed.error.message) == ("bad_rows", "no row is any good")
    events = server.client.fine_tuning.jobs.list_events(job.id)
    facts = [(event.model_extra or {})["tunery"] for event in events]
    assert {"log": f"training {job.id}\n"} in facts


def test_an_engine_that_dies_costs_an_attempt_and_the_next_goes_on_from_the_checkpoint(
    server: Served, work: MakeWork, db: Database
) -> None:
    job = create_job(server.client)
    worker = work("die")
    worker.run()
    assert retrieve(server, job).status == "queued"
    assert "The engine was ended by SIGABRT. Trying again" in said(server, job)[-1]
    end_pauses(db)
    worker.run()
    assert retrieve(server, job).status == "succeeded"


def test_a_worker_whose_gpu_cannot_be_used_takes_no_job(server: Served, work: MakeWork) -> None:
    job = create_job(server.client)
    worker = work("unusable")
    worker.engine.start()
    wait_for(lambda: worker.engine.look() is not None)
    with pytest.raises(DeviceUnusable, match="The driver is too old"):
        worker.run()
    assert retrieve(server, job).status == "queued"


def test_an_engine_that_may_have_lost_its_gpu_is_replaced(server: Served, work: MakeWork) -> None:
    create_job(server.client)
    worker = work("lost")
    lost = engine_of(worker)
    worker.run()
    assert engine_of(worker).pid != lost.pid


def test_an_engine_that_hangs_shows_its_stacks_and_is_replaced(
    server: Served, work: MakeWork, db: Database
) -> None:
    job = create_job(server.client)
    worker = work("deaf", hang_seconds=2)
    hung = engine_of(worker)
    wait_for(lambda: worker.engine.look() is not None)
    worker.run()
    assert hung.poll() == -signal.SIGKILL
    assert "said nothing for 2 s" in said(server, job)[-1]
    events = server.client.fine_tuning.jobs.list_events(job.id)
    logs = [((event.model_extra or {})["tunery"] or {}).get("log", "") for event in events]
    assert any("scripted_engine.py" in log and "in train" in log for log in logs)
    end_pauses(db)
    work("finish").run()
    assert retrieve(server, job).status == "succeeded"


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(
    server: Served, work: MakeWork
) -> None:
    job = create_job(server.client)
    worker = work("wait")
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        worker.draining.set()
    (newest,) = [
        path
        for path in (server.settings.folder / "jobs").rglob("*")
        if path.is_file() and path.read_bytes() == b"three"
    ]
    newest.write_bytes(b"thr")
    second = work("finish")
    second.run()
    assert retrieve(server, job).status == "succeeded"
    assert second.engine.log_tail() == f"training {job.id}\nfrom two\n"
    assert any("The checkpoint of step 3 is damaged" in message for message in said(server, job))


@pytest.mark.parametrize(
    ("spoil", "how"),
    [
        (lambda path: path.unlink(), "gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b" "), "damaged"),
    ],
)
def test_a_job_whose_bytes_are_lost_fails_at_once_and_nobody_is_blamed(
    server: Served, work: MakeWork, db: Database, spoil: Callable[[Path], None], how: str
) -> None:
    job = create_job(server.client)
    with db.as_control() as tx:
        key = tx.get_one(File, job.training_file).key
    spoil(server.settings.folder / key)
    work("finish").run()
    failed = retrieve(server, job)
    assert (failed.status, attempts(server, job)) == ("failed", 1)
    assert failed.error
    assert failed.error.code == f"training_file_{how}"
    assert job.training_file in failed.error.message
    assert (failed.model_extra or {})["tunery"]["failure_class"] == "storage"
    with db.as_control() as tx:
        assert tx.get_one(Worker, "worker-w1").failures == 0


@pytest.mark.parametrize("patience", [0.5, 900])
def test_a_job_whose_files_cannot_be_had_for_a_while_is_none_the_worse_for_it(
    server: Served, work: MakeWork, db: Database, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    job = create_job(server.client)
    worker = work("finish", hang_seconds=patience)
    root = server.settings.folder
    away = root.with_name("away")

    def lose_storage(*given: Any, **named: Any) -> Train | Export:
        root.rename(away)
        return command_of(*given, **named)

    tries: list[object] = []
    fetch = worker.client.fetch

    def count(*given: Any) -> Any:
        tries.append(given)
        return fetch(*given)

    monkeypatch.setattr("worker.agent.command_of", lose_storage)
    monkeypatch.setattr(worker.client, "fetch", count)
    with worker.running():
        wait_for(away.exists)
        wait_for(
            lambda: len(tries) > 1 if patience > 1 else retrieve(server, job).status == "queued"
        )
        away.rename(root)
    monkeypatch.setattr("worker.agent.command_of", command_of)
    end_pauses(db)
    worker.run()
    assert retrieve(server, job).status == "succeeded"
    assert attempts(server, job) == (2 if patience < 1 else 1)
    with db.as_control() as tx:
        assert tx.get_one(Job, job.id).infra_failures == 0


def test_a_checkpoint_that_the_engine_refuses_does_not_hold_up_the_job(
    server: Served, work: MakeWork
) -> None:
    job = create_job(server.client)
    worker = work("wait")
    with worker.running():
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
        worker.draining.set()
    work("refuse").run()
    assert retrieve(server, job).status == "succeeded"
    assert said(server, job).count("it has format 1 Going on without it.") == 2


def test_training_goes_on_while_the_api_is_away(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    missed: list[ApiAway] = []
    with serve(server.settings) as second:
        port = int(second.rpartition(":")[2])
        worker = work("wait")
        heartbeat = worker.client.heartbeat

        def note(*given: Any, **named: Any) -> HeartbeatReply:
            try:
                return heartbeat(*given, **named)
            except ApiAway as error:
                missed.append(error)
                raise

        monkeypatch.setattr(worker.client, "heartbeat", note)
        worker.client.http.base_url = second
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
    server.client.fine_tuning.jobs.cancel(job.id)
    wait_for(lambda: len(missed) > 1)
    assert retrieve(server, job).status == "running"
    with serve(server.settings, port):
        thread.join(300)
    assert retrieve(server, job).status == "cancelled"


def test_a_worker_that_lacks_a_base_gives_the_job_to_others_and_takes_it_when_the_files_change(
    server: Served, work: MakeWork, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lacking, "SETTLE_SECONDS", 0)
    folder = tmp_path / "base"
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET source = :folder"), {"folder": str(folder)})
    other = another_base(db)
    job, on_other = create_job(server.client), create_job(server.client, model=other)
    worker = work("lacks")
    worker.run()
    assert worker.agent.lacks.keys() == {BASE, other}
    for one in (job, on_other):
        assert retrieve(server, one).status == "queued"
        assert attempts(server, one) == 1
        assert said(server, one)[-1].endswith("another. The job waits for a worker that has it.")
    worker.run()  # a heartbeat may have told of the first alone, behind the claim that told of both
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"], len(shown["lacks"])) == ("active", 0, 2)
    assert attempts(server, job) == 1
    folder.mkdir()
    worker.run()
    assert (attempts(server, job), attempts(server, on_other)) == (2, 1)
    work("finish").run()
    assert retrieve(server, job).status == "succeeded"


def test_a_base_that_kills_the_engine_on_two_jobs_is_kept_from_this_worker_and_not_the_worker(
    server: Served, work: MakeWork, db: Database
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    worker = work("crash on base")
    worker.run()
    assert (worker.agent.lacking.now(), attempts(server, second)) == ({BASE: str(TINY)}, 1)
    end_pauses(db)
    worker.run()
    assert (attempts(server, first), attempts(server, second)) == (1, 1)
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)


@pytest.mark.parametrize("script", ["crash on data", "panic on data"])
def test_a_file_that_breaks_two_fresh_engines_is_the_users_fault(
    server: Served, work: MakeWork, db: Database, script: str
) -> None:
    jobs = [create_job(server.client) for _ in range(2)]
    worker = work(script)
    for _ in range(2):
        before = engine_of(worker)
        worker.run()
        assert before.poll() is not None
        end_pauses(db)
    for job in jobs:
        ended = retrieve(server, job)
        assert (ended.status, ended.error and ended.error.code) == ("failed", "data_unreadable")
        assert attempts(server, job) == 2
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)


def test_an_engine_that_is_killed_from_outside_costs_its_job_nothing_and_for_memory_it_does(
    server: Served, work: MakeWork, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    worker = work("deaf")

    def killed() -> str:
        with worker.running():
            count = attempts(server, job)
            wait_for(lambda: attempts(server, job) == count + 1)
            wait_for(lambda: worker.engine.phase == "training")
            os.kill(engine_of(worker).pid, signal.SIGKILL)
            worker.draining.set()
        worker.draining.clear()
        end_pauses(db)
        return said(server, job)[-1]

    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET idle_attempts = 2"))
    for _ in range(3):
        assert "The engine was ended from outside by SIGKILL. Trying again" in killed()
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)
    kills = itertools.count(1)
    monkeypatch.setattr(warm_engine, "oom_kills", lambda: next(kills))
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET idle_attempts = 0"))
    assert "The kernel ended the engine for want of memory (SIGKILL). Lower" in killed()
    assert "The kernel ended" in killed()
    assert failure_class(server, job) == "oom"


def failure_class(server: Served, job: FineTuningJob) -> str:
    return str((retrieve(server, job).model_extra or {})["tunery"]["failure_class"])


def test_an_attempt_that_the_api_refuses_holds_up_no_other_job_and_is_not_the_workers_fault(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    worker = work("finish")
    upload = worker.client.upload

    def refuse_the_first(lease: Lease, path: Path, facts: FileFacts, *, patience: float) -> None:
        if lease.job_id == first.id:
            raise ApiRefused("no")
        upload(lease, path, facts, patience=patience)

    monkeypatch.setattr(worker.client, "upload", refuse_the_first)
    blamed = []
    monkeypatch.setattr(workers, "note_failure", lambda *_, **__: blamed.append(1))
    worker.run()
    assert retrieve(server, first).status == "queued"
    assert retrieve(server, second).status == "succeeded"
    assert blamed == []


def test_an_evaluation_that_cannot_be_graded_ends_the_attempt_and_not_the_worker(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    worker = work("finish")

    def break_the_first(_: Client, lease: Lease, __: Path) -> None:
        if lease.job_id == first.id:
            raise RecursionError("too deep")

    monkeypatch.setattr(delivery, "send_evaluation", break_the_first)
    worker.run()
    assert "too deep" in said(server, first)[-1]
    assert retrieve(server, second).status == "succeeded"


def test_what_the_api_refuses_is_told_and_not_waited_for(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    monkeypatch.setattr(Folder, "download_url", lambda *_, **__: "/storage/a?until=1")
    work("finish").run()
    assert retrieve(server, job).status == "queued"
    assert "HTTP 400" in said(server, job)[-1]
