"""What goes by itself after some days."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from api.db.session import Database
from api.storage.folder import Folder
from api.upkeep import retention
from tests.api.speaking import claim, failed, finish, send
from tests.api.upkeep.test_leftovers import all_files
from tests.conftest import Served
from tests.factories import create_job, data_set, upload
from tunery import messages
from tunery.measured import Metrics
from tunery.states import FailureClass
from worker.client import Client

KEPT = ("keep_files_days", "keep_events_days", "keep_deleted_days", "keep_checkpoints_days")


def age(db: Database, days: int) -> None:
    with db.as_control() as tx:
        for table, columns in {
            "file": ("created_at", "deleted_at"),
            "job": ("finished_at",),
            "upload": ("expires_at",),
        }.items():
            for column in columns:
                older = f"UPDATE {table} SET {column} = {column} - interval '{days} days'"  # noqa: S608
                tx.execute(text(older))


def test_old_things_go_by_settings_and_what_is_in_use_or_young_stays(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    storage = Folder(server.settings.folder, "secret")
    usual = server.settings
    bounded = usual.model_copy(update=dict.fromkeys(KEPT, 10.0) | {"keep_audit_days": 30.0})
    job, other = create_job(server.client), create_job(server.client)
    for _ in range(2):
        lease = claim(worker)
        assert lease
        files = send(worker, lease, tmp_path, {"state.bin": b"state"})
        written = messages.CheckpointWritten(step=1, epoch=0, metrics=Metrics(step=1), files=files)
        worker.add_checkpoint(lease, written, patience=0)
        if lease.job_id == job.id:
            finish(worker, lease, failed(FailureClass.USER))
    deleted = upload(server.client)
    server.client.files.delete(deleted.id)
    pending = server.client.uploads.create(
        bytes=9, filename="a", mime_type="text/jsonl", purpose="fine-tune"
    )
    server.client.uploads.cancel(pending.id)
    age(db, 9)
    retention.clear(db, storage, bounded)
    assert len(all_files(usual.folder)) == 4
    age(db, 2)
    retention.clear(db, storage, usual)
    assert len(all_files(usual.folder)) == 4, "nothing goes unless that was said, or in 30 days"
    retention.clear(db, storage, bounded)
    retention.clear(db, storage, bounded)
    assert sorted(all_files(usual.folder).values()) == sorted([data_set(), b"state"])
    path = f"/v1/fine_tuning/jobs/{job.id}"
    for gone in ("events", "checkpoints"):
        assert server.http().get(f"{path}/{gone}").json()["data"] == []
    assert server.http().get(f"{path}/stream").text.count("data:") == 1, "its state"
    assert server.http().get(path).json()["status"] == "failed"
    (left,) = server.client.files.list().data
    assert left.id == other.training_file, "its job is running"
    events = server.client.fine_tuning.jobs.list_events(other.id).data
    assert len(events) > 3
    with db.as_control() as tx:
        rows = set(tx.execute(text("SELECT id FROM file")).scalars())
        assert rows == {job.training_file, other.training_file}, "jobs name these"
        assert tx.execute(text("SELECT count(*) FROM upload")).scalar_one() == 0
    assert server.http().get("/v1/project").json()["usage"]["stored_bytes"] == len(
        data_set()
    ) + len(b"state")


def test_the_audit_of_the_last_30_days_is_kept_whoever_asks(server: Served, db: Database) -> None:
    upload(server.client)
    with pytest.raises(DBAPIError, match="the last 30 days is kept"), db.as_control() as tx:
        tx.execute(text("SELECT forget_audit(interval '1 day', 10)"))
    with pytest.raises(DBAPIError, match="permission denied"), db.as_project("p") as tx:
        tx.execute(text("SELECT forget_audit(interval '40 days', 10)"))
    with db.as_control() as tx:
        old = """
            INSERT INTO audit (created_at, project_id, action, subject)
            SELECT now() - interval '41 days', id, 'a.b', 'c' FROM project
        """
        tx.execute(text(old))
        assert tx.execute(text("SELECT forget_audit(interval '40 days', 10)")).scalar_one() == 1
        assert tx.execute(text("SELECT count(*) FROM audit WHERE action = 'a.b'")).scalar_one() == 0
