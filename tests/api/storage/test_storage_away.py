"""Storage that is not there is waited for; only what is proven gone or damaged is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import text

from api.admin import forget_storage
from api.db.session import Database
from api.janitor import Janitor
from api.models import bases
from api.settings import Settings
from api.storage import scrub
from api.storage.folder import Folder
from api.tables import Job
from api.upkeep import leftovers
from tests.api.speaking import ADAPTER, claim, failed, finish, send, succeeded
from tests.conftest import BASE, ROOT, Served
from tests.factories import create_job, data_set, end_pauses, upload
from tunery import messages
from tunery.base_model import describe
from tunery.errors import BytesGone, StorageAway
from tunery.measured import Metrics
from tunery.states import FailureClass
from worker.client import ApiAway, Client

Away = Callable[[Path], None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No lease ends by itself."""
    return settings.model_copy(update={"lease_seconds": 600})


def gone(_: Path) -> None:
    """The mount is lost, and its mount point too."""


def unmounted(root: Path) -> None:
    """The empty folder that a lost mount leaves."""
    root.mkdir()


def another(root: Path) -> None:
    """Another installation's storage is mounted here."""
    Folder(root, "secret").require_there()


def a_file(root: Path) -> None:
    root.touch()


def move_away(root: Path, leave: Away) -> Callable[[], None]:
    """Returns what brings it back."""
    root.rename(root.with_name("elsewhere"))
    leave(root)

    def back() -> None:
        if root.is_dir():
            root.rename(root.with_name("what-was-left"))
        elif root.exists():
            root.unlink()
        root.with_name("elsewhere").rename(root)

    return back


def metric(server: Served, name: str) -> float:
    lines = server.http(server.admin_key).get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def train(server: Served, worker: Client, folder: Path) -> FineTuningJob:
    job = create_job(server.client)
    lease = claim(worker)
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER)))
    return job


@pytest.mark.parametrize("leave", [gone, unmounted, another, a_file])
def test_storage_that_is_away_is_waited_for_by_everybody_and_costs_nobody_a_job(
    server: Served,
    serve_with: Callable[..., Served],
    worker: Client,
    db: Database,
    tmp_path: Path,
    leave: Away,
) -> None:
    job = train(server, worker, tmp_path)
    file = upload(server.client)
    running, waiting = create_job(server.client), create_job(server.client, file.id)
    lease = claim(worker)
    assert lease
    assert lease.job_id == running.id
    kept = send(worker, lease, tmp_path, ADAPTER)
    sent = kept[0]
    overdue = upload(server.client)
    back = move_away(server.settings.folder, leave)
    with db.as_control() as tx:
        tx.execute(text("UPDATE file SET expires_at = now() WHERE id = :id"), {"id": overdue.id})
        tx.execute(text("UPDATE file SET status = 'uploaded' WHERE id = :id"), {"id": file.id})
    # As a server has it that runs, and one that was started when storage was away.
    for seen in (server, serve_with()):
        http = seen.http()
        parts = {"file": ("a.jsonl", data_set()), "purpose": (None, b"fine-tune")}
        for answer in (
            http.get("/readyz"),
            http.get(f"/v1/files/{file.id}/content"),
            http.post("/v1/files", files=list(parts.items())),
            http.get(f"/v1/files/{file.id}/report", params={"model": BASE}),
            http.get(f"/v1/fine_tuning/jobs/{job.id}/artifacts/adapter_config.json"),
            http.get(lease.training_file.url if lease.training_file else ""),
        ):
            said = answer.json()["error"]
            assert (answer.status_code, said["code"]) == (503, "storage_away"), said
            assert answer.headers["retry-after"]
        assert metric(seen, "ft_storage_away") == 1
        shown = seen.client.fine_tuning.jobs.retrieve(waiting.id)
        assert (shown.model_extra or {})["tunery"]["queue"]["waits_for"] == "storage"
    assert claim(worker, "w2") is None
    with pytest.raises(ApiAway, match="storage is away"):
        worker.upload(lease, tmp_path / "metrics.csv", sent, patience=0)
    with pytest.raises(ApiAway, match="storage is away"):
        finish(worker, lease, succeeded(kept))
    janitor = Janitor(server.settings)
    janitor.sweep()
    with pytest.raises(StorageAway):
        scrub.scrub(db, janitor.storage)
    janitor.db.close()
    back()
    with db.as_control() as tx:
        rows = tx.execute(text("SELECT status, deleted_at FROM file")).all()
        assert all(row.deleted_at is None and row.status != "error" for row in rows)
    assert metric(server, "ft_storage_away") == 0
    assert metric(server, "ft_storage_missing") == 0
    assert server.client.files.content(file.id).read() == data_set()
    finish(worker, lease, messages.Released())
    assert {one.job_id for one in (claim(worker), claim(worker, "w2")) if one} == {
        running.id,
        waiting.id,
    }


def test_a_storage_folder_is_made_once_and_anew_only_when_an_operator_says_so(
    settings: Settings, db: Database, tmp_path: Path
) -> None:
    first = Folder(settings.folder, "secret", db)
    first.require_there()
    Folder(settings.folder, "secret", db).require_there()
    settings.folder.rename(tmp_path / "lost")
    for storage in (first, Folder(settings.folder, "secret", db)):
        with pytest.raises(StorageAway):
            storage.require_there()
    assert not settings.folder.exists()
    forget_storage(db)
    anew = Folder(settings.folder, "secret", db)
    anew.require_there()
    with pytest.raises(BytesGone):
        anew.open("files/a")


def test_a_new_database_takes_no_storage_that_holds_something_until_an_operator_says_so(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the janitor would clear all of another installation's files: no row leads to them."""
    monkeypatch.setattr("api.storage.storage.FIRST_SECONDS", 0.1)
    theirs = settings.folder / "files" / "theirs"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of another installation, or of something else")
    os.utime(theirs, (0, 0))
    for _ in range(2):
        with pytest.raises(StorageAway):
            leftovers.clear(db, Folder(settings.folder, "secret", db))
        Folder(settings.folder, "secret").require_there()  # now with a mark
    assert theirs.exists()
    forget_storage(db)
    leftovers.clear(db, Folder(settings.folder, "secret", db))
    assert not theirs.exists()


def test_a_folder_for_what_comes_in_is_made_again(server: Served) -> None:
    upload(server.client)
    (server.settings.folder / "incoming").rmdir()
    assert upload(server.client).status == "processed"


def test_an_attempt_that_ended_because_something_was_away_costs_the_job_nothing_for_a_day(
    server: Served, worker: Client, db: Database
) -> None:
    job = create_job(server.client)

    def row() -> Job:
        with db.as_control() as tx:
            return tx.get_one(Job, job.id)

    pauses = []
    for _ in range(12):
        lease = claim(worker)
        assert lease
        finish(worker, lease, failed(FailureClass.AWAY, "storage is away"))
        now = row()
        assert (now.state, now.idle_attempts, now.infra_failures) == ("queued", 0, 0)
        (event,) = server.client.fine_tuning.jobs.list_events(job.id, limit=1).data
        pauses.append(float(event.message.rpartition(" in ")[2].split()[0]))
        end_pauses(db)
    assert pauses[0] < 10 < pauses[4] < pauses[-1] <= 360
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)
    with db.as_control() as tx:
        tx.execute(text("UPDATE attempt SET started_at = started_at - interval '25 h'"))
    lease = claim(worker)
    assert lease
    finish(worker, lease, failed(FailureClass.AWAY, "storage is away"))
    assert (row().state, row().failure_class) == ("failed", "away")


def test_bytes_that_changed_in_storage_are_not_served(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = train(server, worker, tmp_path)
    content = f"/v1/files/{upload(server.client).id}/content"
    artifact = f"/v1/fine_tuning/jobs/{job.id}/artifacts/adapter_model.safetensors"
    for path in (content, artifact):
        assert server.http().get(path).status_code == 200
    for stored in [path for path in server.settings.folder.glob("*/**/*") if path.is_file()]:
        stored.write_bytes(bytes([stored.read_bytes()[0] ^ 1]) + stored.read_bytes()[1:])
    for path in (content, artifact):
        for headers in ({}, {"range": "bytes=3-4"}):
            answer = server.http().get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "content_damaged")
            assert answer.headers["x-should-retry"] == "false"
    assert metric(server, "ft_storage_damaged") == 2


def test_the_scrub_finds_rot_before_anybody_asks_and_sees_that_it_was_undone(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    train(server, worker, tmp_path)
    create_job(server.client)
    lease = claim(worker)
    assert lease
    files = send(worker, lease, tmp_path, {"state.bin": b"state"})
    worker.add_checkpoint(
        lease,
        messages.CheckpointWritten(step=1, epoch=0, metrics=Metrics(step=1), files=files),
        patience=0,
    )
    root = server.settings.folder
    storage = Folder(root, "secret", db)
    tiny = ROOT / "models" / "tiny"
    facts = describe(tiny, id_="pushed", source="storage")
    with db.as_control() as tx:
        bases.register(tx, facts)
    (root / "bases").mkdir()
    for file in facts.files:
        shutil.copy(tiny / file.name, root / "bases" / file.sha256)
    (weights,) = (file for file in facts.files if file.name == "model.safetensors")
    pushed = root / "bases" / weights.sha256
    pushed.write_bytes(b"rotten")
    checkpoint = root / "jobs" / lease.job_id / "1" / files[0].sha256
    (adapter,) = (path for path in root.glob("jobs/*/1/*") if path.read_bytes() == b"weights")
    checkpoint.write_bytes(b"state of decay")
    adapter.unlink()
    scrub.scrub_if_due(db, storage)
    assert metric(server, "ft_storage_damaged") == 2
    assert metric(server, "ft_storage_missing") == 1
    assert metric(server, "ft_storage_scrubbed_timestamp_seconds") > 1e9
    checkpoint.write_bytes(b"state")
    adapter.write_bytes(b"weights")
    shutil.copy(tiny / weights.name, pushed)
    scrub.scrub_if_due(db, storage)
    assert metric(server, "ft_storage_damaged") == 2, "it is not due again for a day"
    scrub.scrub(db, storage)
    assert metric(server, "ft_storage_damaged") + metric(server, "ft_storage_missing") == 0
