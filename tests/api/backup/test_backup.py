"""A backup, made while the service runs, and another service made of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, inspect, text

from api.backup.backing_up import back_up
from api.backup.manifest import Manifest, part_of, read_stored
from api.backup.postgres import NOT_TAKEN
from api.backup.restoring import restore
from api.db.migrating import without_limits
from api.db.session import Database
from api.storage.folder import Folder
from api.storage.held import hold_deletions
from api.tables import Table
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import NUMBERS, ROOT, Served, make_database, serve
from tests.factories import create_job, data_set, upload
from tests.stores import Stores
from tunery import messages
from tunery.errors import Conflict, InvalidRequest
from tunery.measured import Metrics
from worker.client import Client

NOT_COMPARED = {*NOT_TAKEN, "completion"}


class Source:
    """A service with a tuned model, a running job with a checkpoint, and half an upload."""

    def __init__(self, server: Served, worker: Client, db: Database, folder: Path) -> None:
        self.server = server
        self.db = db
        self.secret = server.settings.secret.get_secret_value()
        self.storage = Folder(server.settings.folder, self.secret, db)
        self.folder = folder / "backup"
        self.file = upload(server.client, data_set(20))
        self.job = create_job(server.client, self.file.id)
        lease = claim(worker)
        assert lease
        finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER)))
        self.running = create_job(server.client, self.file.id)
        lease = claim(worker)
        assert lease
        files = send(worker, lease, folder, {"state.bin": b"state 1", "same.bin": b"state 1"})
        worker.add_checkpoint(
            lease,
            messages.CheckpointWritten(step=1, epoch=1, metrics=Metrics(step=1), files=files),
            patience=0,
        )
        half = server.client.uploads.create(
            bytes=9, filename="a.jsonl", mime_type="application/jsonl", purpose="fine-tune"
        )
        server.client.uploads.parts.create(half.id, data=b"half")

    def back_up(self) -> Manifest:
        return back_up(self.db, self.storage, self.secret, self.folder)


@pytest.fixture
def source(server: Served, worker: Client, db: Database, tmp_path: Path) -> Source:
    return Source(server, worker, db, tmp_path)


@pytest.fixture
def empty(stores: Stores) -> Iterator[Database]:
    name = f"restored_{next(NUMBERS)}"
    db = Database(make_database(stores.postgres_url, name))
    yield db
    db.close()
    with psycopg.connect(stores.postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def rows(db: Database) -> dict[str, list[str]]:
    found = {}
    with db.engine.connect() as owner:
        for table in Table.metadata.tables.keys() - NOT_COMPARED:
            query = text(f"SELECT to_json(one)::text FROM {table} AS one ORDER BY 1")  # noqa: S608
            found[table] = list(owner.scalars(query))
    return found


def test_a_service_is_made_anew_of_its_backup_row_for_row_and_byte_for_byte(
    source: Source, empty: Database, tmp_path: Path
) -> None:
    made = source.back_up()
    before = rows(source.db)
    # What happens to the service after that is nothing to the backup.
    source.server.client.files.delete(source.server.client.files.list().data[0].id)
    settings = source.server.settings.model_copy(
        update={"storage": tmp_path / "restored", "database_url": url_of(empty)}
    )
    storage = Folder(settings.folder, source.secret)
    assert restore(empty, storage, source.secret, source.folder) == made
    assert rows(empty) == before
    listed = list(read_stored(source.folder / made.stored.name))
    for one in listed:
        storage.prove(one.key, one.sha256 or "")
    assert (made.lost, made.files) == ([], len({one.key for one in listed}))
    assert sorted(storage.keys(-60)) == sorted(one.key for one in listed)
    with serve(settings) as url:
        other = Served(settings, source.server, url, source.server.stack)  # type: ignore[arg-type]
        assert other.client.files.content(source.file.id).read() == data_set(20)
        adapter = f"/v1/fine_tuning/jobs/{source.job.id}/artifacts/adapter_model.safetensors"
        assert other.http().get(adapter, follow_redirects=True).content == b"weights"
        assert other.http().get("/readyz").status_code == 200


def url_of(db: Database) -> SecretStr:
    url = db.engine.url.set(drivername="postgresql")
    return SecretStr(url.render_as_string(hide_password=False))


def test_a_second_backup_copies_what_is_new_and_drops_what_is_gone(source: Source) -> None:
    first = source.back_up()
    kept = source.folder / "storage"
    inodes = {path: path.stat().st_ino for path in kept.rglob("*") if path.is_file()}
    (gone,) = [one for one in kept.glob("files/*") if one.read_bytes() == data_set(20)]
    new = upload(source.server.client, data_set(5))
    source.server.client.fine_tuning.jobs.cancel(source.running.id)
    second = source.back_up()
    now = {path: path.stat().st_ino for path in kept.rglob("*") if path.is_file()}
    assert {path.read_bytes() for path in now.keys() - inodes.keys()} == {data_set(5)}
    assert inodes.items() <= now.items()
    assert not (source.folder / first.database.name).exists()
    source.server.client.files.delete(new.id)
    source.back_up()
    assert second.files == first.files + 1
    assert not [one for one in kept.rglob("*") if one.is_file() and one not in inodes]
    assert gone.exists()


def test_nothing_is_deleted_while_it_is_copied_and_what_stayed_is_left_over(
    source: Source,
) -> None:
    path = source.server.settings.folder / "files"
    before = sorted(path.iterdir())
    with without_limits(source.db) as connection:
        hold_deletions(connection)
        new = upload(source.server.client, data_set(5))
        source.server.client.files.delete(new.id)
    (stayed,) = set(path.iterdir()) - set(before)
    source.storage.discard([f"files/{stayed.name}"])
    assert sorted(path.iterdir()) == before


def test_what_storage_has_lost_or_rotted_is_named_and_the_rest_is_there(source: Source) -> None:
    listed = list(read_stored(source.folder / source.back_up().stored.name))
    gone, rotten, *_ = [one for one in listed if one.key.startswith("jobs/")]
    for one in (gone, rotten):
        (source.folder / "storage" / one.key).unlink()
    source.storage.path(gone.key).unlink()
    source.storage.path(rotten.key).write_bytes(b"x" * rotten.bytes)
    made = source.back_up()
    assert sorted(made.lost) == sorted([gone.key, rotten.key])
    assert made.files == len(listed) - 2


def break_byte(folder: Path) -> None:
    path = next(one for one in (folder / "storage").rglob("*") if one.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def break_dump(folder: Path) -> None:
    (dumped,) = folder.glob("database-*")
    dumped.write_bytes(dumped.read_bytes()[:-1])


def test_a_backup_says_whether_it_is_whole_without_a_database(
    source: Source, tmp_path: Path
) -> None:
    source.back_up()

    def check() -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "api.admin", "check-backup", str(source.folder)]
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    whole = check()
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "is whole" in whole.stdout
    listed = sorted(path for path in (source.folder / "storage").rglob("*") if path.is_file())
    listed[0].write_bytes(b"?" * listed[0].stat().st_size)
    listed[1].unlink()
    damaged = check()
    assert damaged.returncode == 1
    for path in listed[:2]:
        assert f"{path} is missing or damaged" in damaged.stderr
    assert str(listed[2]) not in damaged.stderr
    listed[0].unlink()
    source.back_up()
    assert check().returncode == 0


def lead_astray(folder: Path) -> None:
    """The list names a file elsewhere, and the manifest has that list's SHA-256."""
    (listed,) = folder.glob("stored-*")
    found = listed.read_text().replace('"key":"files/', '"key":"../files/')
    manifest = folder / "manifest.json"
    before = part_of(listed).sha256
    size = listed.stat().st_size
    listed.write_text(found)
    now = manifest.read_text().replace(before, part_of(listed).sha256)
    manifest.write_text(now.replace(f'"bytes": {size}', f'"bytes": {len(found)}'))


def age(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"revision": "', '"revision": "x'))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (break_byte, "storage/.* is missing or damaged"),
        (break_dump, "dump is missing or damaged"),
        (lead_astray, "is not a storage key"),
        (age, "does not know"),
        (lambda folder: (folder / "manifest.json").unlink(), "it is no backup"),
    ],
)
def test_a_damaged_or_foreign_backup_is_not_restored(
    source: Source, empty: Database, tmp_path: Path, break_it: Callable[[Path], None], words: str
) -> None:
    source.back_up()
    break_it(source.folder)
    with pytest.raises(InvalidRequest, match=words):
        restore(empty, Folder(tmp_path / "new", source.secret), source.secret, source.folder)
    with empty.engine.connect() as owner:
        assert not inspect(owner).get_table_names()


def test_a_restore_mixes_nothing_and_asks_for_the_same_secret(
    source: Source, empty: Database, tmp_path: Path
) -> None:
    source.back_up()
    storage = Folder(tmp_path / "new", source.secret)
    other = "another secret of thirty-two letters"
    with pytest.raises(Conflict, match="database is not empty"):
        restore(source.db, storage, source.secret, source.folder)
    with pytest.raises(InvalidRequest, match="--other-secret"):
        restore(empty, storage, other, source.folder)
    with storage.receive(limit=9) as incoming:
        incoming.write(b"strange")
        incoming.keep("files/strange")
    with pytest.raises(Conflict, match="files/strange is there"):
        restore(empty, storage, source.secret, source.folder)
    storage.delete("files/strange")
    restore(empty, storage, other, source.folder, other_secret=True)


def test_a_user_from_whom_rows_are_hidden_makes_no_backup(source: Source, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(text("CREATE ROLE blind LOGIN PASSWORD 'x' IN ROLE tunery_control"))
    blind = Database(
        owner.url.set(username="blind", password="x").render_as_string(hide_password=False)
    )
    with pytest.raises(InvalidRequest, match='ALTER ROLE "blind" BYPASSRLS'):
        back_up(blind, source.storage, source.secret, source.folder)
    blind.close()
    with owner.begin() as connection:
        connection.execute(text("DROP ROLE blind"))


def test_the_folder_of_something_else_is_left_alone(source: Source) -> None:
    source.folder.mkdir()
    (source.folder / "letters").touch()
    with pytest.raises(InvalidRequest, match="letters"):
        source.back_up()
