"""The agent against a real API over HTTP, with an engine that follows a script."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import text

from api.db.session import Database
from api.storage.folder import Storage
from api.tables import File, Job, Worker
from api.workers import workers
from tests.conftest import BASE, ROOT, Served, serve
from tests.factories import (
    another_base,
    create_job,
    end_pauses,
    lose_workers,
    upload,
    worker_facts,
)
from tunery.facts import FileFacts
from tunery.messages import Lease, LogPart, Succeeded
from worker import __main__ as poll
from worker import lacking, log_sender, warm_engine
from worker.agent import Agent
from worker.bases.bases import Bases, Hub
from worker.client import ApiAway, ApiRefused, Client
from worker.commands import command_of
from worker.log_sender import LogSender
from worker.protocol import Export, Stop, Train
from worker.spool import Outcome
from worker.warm_engine import Child, EngineDied, WarmEngine

TINY = ROOT / "models" / "tiny"
SCRIPTED = Path(__file__).with_name("scripted_engine.py")


MakeWork = Callable[..., "Work"]


class Work:
    """An agent with a scripted engine, run in this process or in a thread."""

    def __init__(
        self,
        server: Served,
        folder: Path,
        script: str,
        *,
        bases: dict[str, Any] | None = None,
        **limits: float,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.draining = threading.Event()
        self.client = Client(server.url, server.worker_key)
        self.engine = WarmEngine(
            [sys.executable, str(SCRIPTED), script], {"PATH": os.defpath}, folder / "engine.log"
        )
        self.agent = Agent(
            facts=worker_facts("w1"),
            work_dir=folder,
            client=self.client,
            engine=self.engine,
            draining=self.draining.is_set,
            bases=Bases(
                folder / "fetched",
                api_url=server.url,
                **{"most_bytes": 1 << 30, "on": Hub(), **(bases or {})},
            ),
            **limits,
        )
        self.agent.start()
        self.folder = folder

    def run(self) -> None:
        self.agent.run_until_idle()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join(60)
            assert not thread.is_alive()

    def close(self) -> None:
        self.agent.heart.stop()
        self.engine.kill()
        self.client.http.close()


@pytest.fixture
def work(server: Served, tmp_path: Path) -> Iterator[MakeWork]:
    made: list[Work] = []

    def make(script: str, folder: str = "", **limits: Any) -> Work:
        made.append(Work(server, tmp_path / (folder or f"work{len(made)}"), script, **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def engine_of(worker: Work) -> Child:
    worker.engine.start()
    assert worker.engine.child
    return worker.engine.child


def retrieve(server: Served, job: FineTuningJob) -> FineTuningJob:
    return server.client.fine_tuning.jobs.retrieve(job.id)


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def said(server: Served, job: FineTuningJob) -> list[str]:
    events = list(server.client.fine_tuning.jobs.list_events(job.id))
    return [event.message for event in reversed(events)]


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
    worker = work("finish")
    settings = {"API_URL": server.url, "WORKER_KEY": server.worker_key, "WORK_DIR": "unused"}
    for name, value in settings.items():
        monkeypatch.setenv(f"TUNERY_{name}", value)
    monkeypatch.setattr(poll, "build_agent", lambda *_: worker.agent)
    monkeypatch.setattr(poll, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["worker", "--poll", "--idle-exit", "1"])
    poll.main()
    assert retrieve(server, job).status == "succeeded"
    (gone,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert gone["state"] == "offline", "it has said that it ends"


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
    server: Served, work: MakeWork
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    worker = work("deaf", grace_seconds=0.5)
    with worker.running():
        for job in (first, second):
            wait_for(lambda job=job: retrieve(server, job).trained_tokens == 30)  # type: ignore[misc]
            server.client.fine_tuning.jobs.pause(job.id)
            time.sleep(1)
            if job is first:
                server.client.fine_tuning.jobs.cancel(job.id)
            else:
                worker.draining.set()
    assert retrieve(server, first).status == "cancelled"
    assert str(retrieve(server, second).status) == "paused"


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
        for path in (server.settings.storage / "jobs").rglob("*")
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
    spoil(server.settings.storage / key)
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
    root = server.settings.storage
    away = root.with_name("away")

    def lose_storage(*given: Any, **named: Any) -> Train | Export:
        root.rename(away)
        return command_of(*given, **named)

    monkeypatch.setattr("worker.agent.command_of", lose_storage)
    with worker.running():
        wait_for(away.exists)
        time.sleep(1.5)
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


def attempts(server: Served, job: FineTuningJob) -> int:
    return int((retrieve(server, job).model_extra or {})["tunery"]["attempts"])


def test_training_goes_on_while_the_api_is_away(server: Served, work: MakeWork) -> None:
    job = create_job(server.client)
    with serve(server.settings) as second:
        port = int(second.rpartition(":")[2])
        worker = work("wait")
        worker.client.http.base_url = second
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        wait_for(lambda: retrieve(server, job).trained_tokens == 30)
    server.client.fine_tuning.jobs.cancel(job.id)
    time.sleep(1)
    assert retrieve(server, job).status == "running"
    with serve(server.settings, port):
        thread.join(60)
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


def test_the_log_of_one_job_is_never_another_jobs(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_job(server.client)
    worker = work("finish")
    worker.run()
    job = create_job(server.client)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.client, "download", disk_full)
    worker.run()
    assert "No space left on device" in said(server, job)[-1]
    events = server.client.fine_tuning.jobs.list_events(job.id)
    assert not any((event.model_extra or {})["tunery"] for event in events)


def test_an_engines_chatter_does_not_fill_the_disk(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_engine, "LOG_LIMIT_BYTES", 1000)
    create_job(server.client)
    worker = work("chatter")
    worker.run()
    assert worker.engine.log_file.stat().st_size <= 1000


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


def test_what_the_api_refuses_is_told_and_not_waited_for(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    monkeypatch.setattr(Storage, "download_url", lambda *_, **__: "/storage/a?until=1")
    work("finish").run()
    assert retrieve(server, job).status == "queued"
    assert "HTTP 400" in said(server, job)[-1]


def test_the_engine_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.settings import engine_environment

    for name in ("TUNERY_WORKER_KEY", "DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = engine_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "secret" not in environment.values()


def test_the_engines_log_reaches_the_api_and_an_api_without_a_place_for_it_harms_nothing(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sender, "PART_BYTES", 5_000)
    jobs = [create_job(server.client) for _ in range(2)]
    worker = work("chatter")
    sent, add_log = [], worker.client.add_log

    def once_twice(lease: Lease, part: LogPart) -> None:
        """The first part arrives, but not the answer."""
        add_log(lease, part)
        sent.append(part)
        if len(sent) == 1:
            raise ApiAway("no answer")

    monkeypatch.setattr(worker.client, "add_log", once_twice)
    worker.run()
    for job in jobs:
        log = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/logs").text
        where = f"{BASE} has config.json\n"  # and not in which folder
        assert log == f"training {job.id}\n" + where + "nothing new\n" * 1000
    assert sent[0] == sent[1]
    assert 4_900 < max(part.bytes for part in sent) <= 5_000

    def refuse(_: Lease, part: LogPart) -> None:
        sent.append(part)
        raise ApiRefused("HTTP 404: no such route")

    monkeypatch.setattr(worker.client, "add_log", refuse)
    sent.clear()
    third = create_job(server.client)
    worker.run()
    assert retrieve(server, third).status == "succeeded"
    assert len(sent) == 1


def test_the_log_seldom_waits_for_an_api_that_hangs(
    work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, tries = work("finish"), []
    monkeypatch.setattr(log_sender, "SEND_SECONDS", 0)

    def add_log(_: Lease, part: LogPart) -> None:
        tries.append(part)
        if len(tries) > 1:
            raise ApiAway("no answer")

    monkeypatch.setattr(worker.client, "add_log", add_log)
    lease: Any = None
    sender = LogSender(worker.client, lease, worker.engine)
    for line in range(5):
        with worker.engine.log_file.open("a") as file:
            file.write(f"{line}\n")
        sender.send_if_due()
    assert [part.text for part in tries] == ["0\n", "1\n"]


def test_a_log_that_is_emptied_or_grows_too_fast_goes_on_at_a_later_position(
    work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = work("finish").engine
    monkeypatch.setattr(warm_engine, "LOG_LIMIT_BYTES", 10)
    engine.log_file.write_text("another's\n")
    engine.begin_log()

    def log(words: str) -> None:
        with engine.log_file.open("a") as file:
            file.write(words)

    log("abcdef")
    assert engine.log_since(2, most=3, behind=100) == (2, b"cde")
    assert engine.log_since(0, most=9, behind=2) == (4, b"ef")
    engine.cap_log()
    log("gh")
    assert engine.log_since(5, most=9, behind=100) == (6, b"gh")
    assert engine.log_tail() == "gh"


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
        ("manifest.json", 34),
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
