"""Pause and resume, as OpenAI's SDK asks for them."""

from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from api.db.session import Database
from api.jobs import intake
from tests.api.speaking import claim, directive, finish, send
from tests.conftest import Served
from tests.factories import create_job, lose_workers, upload
from tunery import messages
from tunery.data.check import Report
from tunery.measured import Metrics
from worker.client import Client


def status(server: Served, job: FineTuningJob) -> str:
    """OpenAI's own type does not list `paused`."""
    return server.client.fine_tuning.jobs.retrieve(job.id).status


def test_a_queued_job_pauses_at_once_and_is_claimed_only_when_resumed(
    server: Served, worker: Client
) -> None:
    job = create_job(server.client)
    for _ in range(2):
        server.client.fine_tuning.jobs.pause(job.id)
        assert status(server, job) == "paused"
    assert claim(worker) is None
    for _ in range(2):
        assert server.client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert claim(worker)
    said = [event.message for event in server.client.fine_tuning.jobs.list_events(job.id)]
    assert said[1:3] == ["The job was resumed, moving it to queued state", "The job was paused"]


def test_a_running_job_pauses_with_its_checkpoint_and_goes_on_from_it(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    assert lease
    assert server.client.fine_tuning.jobs.pause(job.id).status == "running"
    assert directive(worker, lease) == "pause"
    files = send(worker, lease, tmp_path, {"state.bin": b"state 3"})
    written = messages.CheckpointWritten(step=3, epoch=0, metrics=Metrics(step=3), files=files)
    worker.add_checkpoint(lease, written, patience=0)
    finish(worker, lease, messages.Released())
    assert status(server, job) == "paused"
    assert directive(worker, lease) == "lost"
    server.client.fine_tuning.jobs.resume(job.id)
    again = claim(worker)
    assert again
    assert again.checkpoint
    assert again.checkpoint.step == 3


def test_a_pause_taken_back_in_time_only_queues_the_job_again(
    server: Served, worker: Client
) -> None:
    job = create_job(server.client)
    lease = claim(worker)
    assert lease
    server.client.fine_tuning.jobs.pause(job.id)
    server.client.fine_tuning.jobs.resume(job.id)
    finish(worker, lease, messages.Released())
    assert status(server, job) == "queued"


def test_a_job_to_be_paused_pauses_even_if_its_worker_is_lost(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)
    claim(worker)
    server.client.fine_tuning.jobs.pause(job.id)
    lose_workers(db, server.settings)
    assert status(server, job) == "paused"


def test_a_pause_before_the_files_are_checked_holds_after(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(check_at_once_bytes=0)
    client = server.client
    file = upload(client)
    job = create_job(client, file.id)
    assert client.fine_tuning.jobs.pause(job.id).status == "validating_files"
    with db.as_control() as tx:
        intake.finish_check(tx, file.id, Report(rows=12, formats={"chat": 12}).as_dict())
    assert status(server, job) == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"


def test_a_paused_job_can_be_cancelled_and_an_ended_one_not_paused(server: Served) -> None:
    jobs_ = server.client.fine_tuning.jobs
    job = create_job(server.client)
    jobs_.pause(job.id)
    assert jobs_.cancel(job.id).status == "cancelled"
    for ask in (jobs_.pause, jobs_.resume):
        with pytest.raises(openai.ConflictError, match="already cancelled"):
            ask(job.id)


def test_a_job_being_cancelled_is_not_paused(server: Served, worker: Client) -> None:
    job = create_job(server.client)
    claim(worker)
    server.client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.ConflictError, match="is being cancelled"):
        server.client.fine_tuning.jobs.pause(job.id)
