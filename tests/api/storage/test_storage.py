"""What every kind of storage does: in a folder, and in a bucket of a real S3 server."""

import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from openai import NotFoundError
from sqlalchemy import text

from api.admin import forget_storage
from api.db.session import Database
from api.janitor import Janitor
from api.settings import Settings
from api.storage import parts, scrub
from api.storage.opened import open_storage
from api.storage.storage import Storage
from api.upkeep import leftovers
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import BASE, Served
from tests.factories import create_job, data_set, join_checks, upload
from tunery import messages
from tunery.errors import BytesDamaged, BytesGone, StorageAway, TooLarge
from tunery.measured import Metrics
from worker.client import Client


@pytest.fixture
def storage(of_each_kind: Settings, db: Database) -> Storage:
    return open_storage(of_each_kind, db)


@pytest.fixture
def served(of_each_kind: Settings, serve_with: Callable[..., Served]) -> Served:
    return serve_with(**dict(of_each_kind))


@pytest.fixture
def worker(served: Served) -> Iterator[Client]:
    client = Client(served.url, served.worker_key)
    yield client
    client.http.close()


def store(storage: Storage, key: str, content: bytes) -> str:
    with storage.receive(limit=1 << 30) as incoming:
        incoming.write(content)
        incoming.keep(key)
        return incoming.digest


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_what_is_kept_is_read_proven_copied_listed_and_deleted(storage: Storage) -> None:
    content = b"some bytes" * 1000
    digest = store(storage, "files/a", content)
    assert digest == sha256(content).hexdigest()
    assert storage.has("files/a", len(content))
    assert not storage.has("files/a", 1)
    assert not storage.has("files/b", len(content))
    assert b"".join(storage.read("files/a")) == content
    storage.prove("files/a", digest)
    storage.read_again("files/a", digest)
    assert storage.local("files/a", digest).read_bytes() == content
    for _ in range(2):
        storage.copy("files/a", "tokenizers/t/a.json")
    storage.prove("tokenizers/t/a.json", digest)
    assert sorted(storage.keys(-60)) == ["files/a", "tokenizers/t/a.json"]
    assert list(storage.keys(3600)) == []
    for _ in range(2):
        storage.delete("files/a")
    storage.discard(["tokenizers/t/a.json", "none/there"])
    assert list(storage.keys(-60)) == []
    for ask in (storage.prove, storage.read_again):
        with pytest.raises(BytesGone):
            ask("files/a", digest)
    with pytest.raises(BytesGone):
        list(storage.read("files/a"))


def test_a_file_comes_in_whole_or_not_at_all(storage: Storage) -> None:
    with pytest.raises(TooLarge), storage.receive(limit=3) as incoming:
        incoming.write(b"four")
    with storage.receive(limit=3) as incoming:
        incoming.write(b"abc")
    assert list(storage.keys(-60)) == []
    assert names(storage.incoming) == []


def test_bytes_that_were_changed_are_damaged(storage: Storage) -> None:
    store(storage, "files/a", b"other")
    with pytest.raises(BytesDamaged):
        storage.prove("files/a", sha256(b"right").hexdigest())


def test_a_large_file_goes_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "AT_ONCE_BYTES", 5 << 20)
    content = bytes(range(256)) * (12 << 12)
    digest = store(storage, "files/large", content)
    storage.prove("files/large", digest)
    assert b"".join(storage.read("files/large")) == content


def test_storage_of_another_installation_and_none_at_all_are_away(
    storage: Storage, of_each_kind: Settings, db: Database
) -> None:
    digest = store(storage, "files/a", b"a")
    storage.rename_mark(".tunery-storage", ".elsewhere")
    time.sleep(0.01)
    for seen in (storage, open_storage(of_each_kind, db)):
        forget_what_was_seen(seen)
        assert seen.is_away()
        with pytest.raises(StorageAway):
            store(seen, "files/b", b"b")
        with pytest.raises(StorageAway):
            list(seen.read("files/none"))
    storage.rename_mark(".elsewhere", ".tunery-storage")
    forget_what_was_seen(storage)
    assert not storage.is_away()
    storage.prove("files/a", digest)
    storage.rename_mark(".tunery-storage", ".elsewhere")
    forget_storage(db)
    anew = open_storage(of_each_kind, db)
    anew.require_there()
    with pytest.raises(BytesGone):
        list(anew.read("files/none"))


def forget_what_was_seen(storage: Storage) -> None:
    """A bucket is asked every few seconds only."""
    vars(storage).update(look_at=0.0)


def test_a_job_from_its_upload_to_its_download(
    served: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    file = upload(served.client)
    assert file.status == "processed"
    assert served.client.files.content(file.id).read() == data_set()
    ranged = served.http().get(
        f"/v1/files/{file.id}/content", headers={"range": "bytes=3-9"}, follow_redirects=True
    )
    assert (ranged.status_code, ranged.content) == (206, data_set()[3:10])
    counted = served.http().get(f"/v1/files/{file.id}/report", params={"model": BASE}).json()
    assert counted["error"]["code"] == "tokenizer_missing"
    job = create_job(served.client, file.id)
    lease = claim(worker)
    assert lease
    assert lease.training_file
    worker.download(lease.training_file, tmp_path / "data", patience=0)
    assert (tmp_path / "data").read_bytes() == data_set()
    state = send(worker, lease, tmp_path, {"state.bin": b"state"})
    written = messages.CheckpointWritten(step=1, epoch=0, metrics=Metrics(step=1), files=state)
    worker.add_checkpoint(lease, written, patience=0)
    sent = send(worker, lease, tmp_path, ADAPTER)
    for _ in range(2):
        finish(worker, lease, succeeded(sent))
    ended = served.client.fine_tuning.jobs.retrieve(job.id)
    assert (ended.status, len(ended.result_files)) == ("succeeded", 1)
    results = served.client.files.content(ended.result_files[0]).read()
    assert results == ADAPTER["metrics.csv"]
    path = f"/fine_tuning/jobs/{job.id}/artifacts/adapter_model.safetensors"
    assert served.client.get(path, cast_to=bytes) == b"weights"
    scrub.scrub(db, open_storage(served.settings, db))
    assert leftovers.clear(db, open_storage(served.settings, db)) == 0
    served.client.files.delete(file.id)
    with pytest.raises(NotFoundError):
        served.client.files.content(file.id)


def test_an_upload_in_parts_and_a_check_in_the_background(served: Served) -> None:
    client = served.client
    content = data_set(40)
    begun = client.uploads.create(
        bytes=len(content), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    halves = (content[:500], content[500:])
    sent = [client.uploads.parts.create(begun.id, data=half).id for half in halves]
    done = client.uploads.complete(begun.id, part_ids=sent)
    assert done.file
    assert client.files.content(done.file.id).read() == content
    late = served.settings.model_copy(update={"check_at_once_bytes": 0})
    janitor = Janitor(late)
    with janitor.db.as_control() as tx:
        tx.execute(text("UPDATE file SET status = 'uploaded', report = NULL"))
    janitor.check_files()
    join_checks(janitor)
    assert client.files.retrieve(done.file.id).status == "processed"
    janitor.db.close()
