"""`storage move`: from a folder to a bucket and back, broken off and begun again."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api.db.session import Database
from api.files import files
from api.settings import Settings
from api.storage import moving, scrub
from api.storage.opened import open_storage
from api.storage.s3 import S3
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import ROOT, Served
from tests.factories import create_job, data_set, upload
from tunery.errors import BytesGone, InvalidRequest, StorageAway
from worker.client import Client


@pytest.fixture(autouse=True)
def _no_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "SETTLE_SECONDS", 0)


def client_of(server: Served) -> Client:
    client = Client(server.url, server.worker_key)
    server.stack.enter_context(client.http)
    return client


def nothing_there(*_: object) -> None:
    raise BytesGone("Whoever asks once more sends it once more.")


def test_an_installation_moves_to_a_bucket_and_back_and_nothing_is_lost(
    settings: Settings,
    in_bucket: Settings,
    serve_with: Callable[..., Served],
    db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = in_bucket.storage
    told: list[str] = []
    running = serve_with()
    worker = client_of(running)
    file, lost, rotten = (upload(running.client, data_set(rows)) for rows in (5, 6, 7))
    job = create_job(running.client, file.id)
    lease = claim(worker)
    assert lease
    sent = send(worker, lease, tmp_path, ADAPTER)
    with db.as_control() as tx:
        keys = [files.get(tx, one.id).key for one in (lost, rotten)]
    (settings.folder / keys[0]).unlink()
    (settings.folder / keys[1]).write_bytes(b"rot")
    (settings.folder / "files" / "left-behind").write_bytes(b"of a crash")

    # It ends in the middle of the last round.
    in_folder = settings.model_copy(update=dict(in_bucket) | {"storage": settings.storage})
    rounds, copy_all = [], moving.copy_all

    def breaks_off(*given: object) -> moving.Round:
        rounds.append(copy_all(*given))  # type: ignore[arg-type]
        if len(rounds) == 2:
            raise StorageAway("the network is cut")
        return rounds[-1]

    with monkeypatch.context() as broken:
        broken.setattr(moving, "copy_all", breaks_off)
        broken.setattr(S3, "prove", nothing_there)
        with pytest.raises(StorageAway):
            moving.move(in_folder, db, bucket, told.append)
    assert running.http().get("/readyz").status_code == 503, "nothing is stored that would be lost"
    assert rounds[1].copied == 0, "what was sent is not looked at again while all wait"
    assert rounds[1].damaged == [keys[1]]
    moving.move(in_folder, db, bucket, told.append)
    assert running.http().get("/readyz").status_code == 503, "until it is told the new place"
    assert "1 were gone before, and 1 were damaged" in told[-1]
    with pytest.raises(InvalidRequest, match="already"):
        moving.move(in_folder, db, bucket, told.append)

    shutil.move(settings.folder, tmp_path / "old")
    moved = serve_with(**dict(in_bucket))
    assert moved.client.files.content(file.id).read() == data_set(5)
    assert moved.http().get(f"/v1/files/{rotten.id}/content").status_code == 404
    finish(client_of(moved), lease, succeeded(sent))
    stored = open_storage(in_bucket, db)
    assert "files/left-behind" not in list(stored.keys(-60))

    # And back, by the command, to the folder that it came from.
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
        "TUNERY_STORAGE": str(bucket),
        "TUNERY_S3_ENDPOINT": in_bucket.s3_endpoint or "",
        "TUNERY_S3_PATH_STYLE": "true",
        "TUNERY_STORAGE_CACHE": str(tmp_path / "cache"),
        "AWS_ACCESS_KEY_ID": "AKIATUNERYTESTS",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    }
    done = subprocess.run(
        [sys.executable, "-m", "api.admin", "storage", "move", "--to", str(tmp_path / "old")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"TUNERY_STORAGE={tmp_path / 'old'}" in done.stdout
    back = serve_with(storage=tmp_path / "old")
    assert back.client.files.content(file.id).read() == data_set(5)
    path = f"/fine_tuning/jobs/{job.id}/artifacts/adapter_model.safetensors"
    assert back.client.get(path, cast_to=bytes) == b"weights"
    scrub.scrub(db, open_storage(back.settings, db))


def test_nothing_goes_to_a_place_where_another_installation_is(
    settings: Settings, in_bucket: Settings, db: Database
) -> None:
    with pytest.raises(InvalidRequest, match="Nothing has been stored"):
        moving.move(settings, db, in_bucket.storage, print)
    open_storage(settings, db).require_there()
    open_storage(in_bucket, None).require_there()
    own = in_bucket.model_copy(update={"storage": settings.storage})
    with pytest.raises(InvalidRequest, match="another installation's"):
        moving.move(own, db, in_bucket.storage, print)
    with pytest.raises(InvalidRequest, match="this installation's storage already"):
        moving.move(own, db, settings.storage, print)
    with pytest.raises(InvalidRequest, match="not the storage that the database knows"):
        moving.move(in_bucket, db, settings.folder.with_name("new"), print)
