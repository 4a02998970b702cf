"""What nothing leads to is cleared after a day; everything else stays."""

import os
import time
from pathlib import Path

from api.db.session import Database
from api.storage.folder import Folder
from api.storage.storage import MARK
from api.upkeep import leftovers
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import BASE, ROOT, Served
from tests.factories import create_job, data_set
from tunery import messages
from tunery.measured import Metrics
from worker.client import Client


def all_files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != MARK
    }


def test_leftovers_are_cleared_after_a_day_and_what_is_in_use_stays(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    done, running = create_job(server.client), create_job(server.client)
    lease = claim(worker)
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    exports = f"/v1/fine_tuning/jobs/{done.id}/exports"
    server.http().post(exports, json={"format": "gguf"})
    lease = claim(worker)
    assert lease
    assert lease.job_id == running.id
    export = claim(worker, "w2")
    assert export
    made = messages.Exported(files=send(worker, export, tmp_path, {"a.gguf": b"adapter"}))
    worker.finish(export, messages.FinishRequest(result=made), patience=0)
    files = send(worker, lease, tmp_path, {"state.bin": b"state"})
    written = messages.CheckpointWritten(step=1, epoch=0, metrics=Metrics(step=1), files=files)
    worker.add_checkpoint(lease, written, patience=0)
    pending = server.client.uploads.create(
        bytes=9, filename="a", mime_type="text/jsonl", purpose="fine-tune"
    )
    server.client.uploads.parts.create(pending.id, data=b"half")
    name = "tokenizer_config.json"
    content = (ROOT / "models" / "tiny" / name).read_bytes()
    admin = server.http(server.admin_key)
    put = admin.put(f"/v1/admin/models/{name}", params={"model": BASE}, content=content)
    assert put.status_code == 204
    root = server.settings.folder
    assert len(all_files(root)) == 10, (
        "data sets, adapter (two files alike), result, export, checkpoint, a part, a base"
    )
    for not_ours in ("notes", "lost+found/#1"):
        (root / not_ours).parent.mkdir(exist_ok=True)
        (root / not_ours).write_bytes(b"somebody else's")
    kept = all_files(root)
    strays = ("incoming/a", "files/a", "tokenizers/a/tokenizer.json", f"jobs/{done.id}/9/a")
    for left in (*strays, f"jobs/{running.id}/1/b"):
        path = root / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left behind")
    fresh = all_files(root)
    storage = Folder(root, "secret")
    assert leftovers.clear(db, storage) == 0
    assert all_files(root) == fresh, "they may be on their way"
    for name in fresh:
        os.utime(root / name, (time.time() - 90_000,) * 2)
    assert leftovers.clear(db, storage) == 3
    may_be_results = f"jobs/{running.id}/1/b"
    assert all_files(root) == kept | {may_be_results: b"left behind"}
    server.client.fine_tuning.jobs.cancel(running.id)
    finish(worker, lease, messages.Released())
    assert leftovers.clear(db, storage) == 1
    assert all_files(root) == kept
    assert data_set() in kept.values()
    assert (root / MARK).exists()
