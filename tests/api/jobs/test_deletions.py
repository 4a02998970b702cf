"""Jobs and exports that their user deletes."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import text

from api.admin import create_key
from api.db import invariants
from api.db.session import Database
from tests.api.speaking import ADAPTER, claim, failed, finish, send, succeeded
from tests.api.upkeep.test_leftovers import all_files
from tests.conftest import Served
from tests.factories import create_job, data_set, upload
from tunery import messages
from tunery.measured import Metrics
from tunery.states import FailureClass
from worker.client import Client


def used(server: Served) -> dict[str, Any]:
    usage: dict[str, Any] = server.http().get("/v1/project").json()["usage"]
    return usage


def train(worker: Client, folder: Path) -> messages.Lease:
    """A job that keeps a checkpoint and has not ended yet."""
    lease = claim(worker)
    assert lease
    files = send(worker, lease, folder, {"state.bin": b"state"})
    metrics = Metrics(step=1)
    written = messages.CheckpointWritten(step=1, epoch=0, metrics=metrics, files=files)
    worker.add_checkpoint(lease, written, patience=0)
    return lease


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_a_deleted_job_is_gone_with_all_that_came_of_it_but_its_result_file(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    http = server.http()
    file = upload(server.client)
    job = create_job(server.client, file.id, metadata={"team": "a"}, suffix="mine")
    path = f"/v1/fine_tuning/jobs/{job.id}"
    assert refusal(http.delete(path)) == (
        409,
        f"Job {job.id} is queued. Cancel it and wait for its end before you delete it.",
    )
    lease = train(worker, tmp_path)
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    results = sum(map(len, ADAPTER.values())) + len(b"state") + len(ADAPTER["metrics.csv"])
    assert used(server)["stored_bytes"] == len(data_set()) + results
    export = http.post(f"{path}/exports", json={"format": "gguf"}).json()["id"]
    assert f"export {export} is being made of it" in refusal(http.delete(path))[1]
    assert refusal(http.delete(f"{path}/exports/{export}"))[0] == 409
    taken = claim(worker)
    assert taken
    made = messages.Exported(files=send(worker, taken, tmp_path, {"a.gguf": b"adapter"}))
    worker.finish(taken, messages.FinishRequest(result=made), patience=0)
    assert used(server)["stored_bytes"] == len(data_set()) + results + len(b"adapter")

    deleted = http.delete(f"{path}/exports/{export}")
    assert deleted.json() == {"id": export, "object": "fine_tuning.job.export", "deleted": True}
    assert http.get(f"{path}/exports/{export}").status_code == 404
    assert http.get(f"{path}/exports").json()["data"] == []
    assert http.post(f"{path}/exports", json={"format": "gguf"}).json()["id"] != export
    last = http.get(f"{path}/exports").json()["data"][0]["id"]
    http.post(f"{path}/exports/{last}/cancel")

    name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    other = create_key(db, "other", ["read"])
    project = server.http(other).get("/v1/project").json()["id"]
    permissions = server.client_for(server.admin_key).fine_tuning.checkpoints.permissions
    (shared,) = permissions.create(name, project_ids=[project]).data
    assert "is shared with another project" in refusal(http.delete(path))[1]
    permissions.delete(shared.id, fine_tuned_model_checkpoint=name)

    assert http.delete(path).json() == {
        "id": job.id, "object": "fine_tuning.job", "deleted": True,
    }  # fmt: skip
    for gone in (path, f"{path}/events", f"{path}/exports", f"/v1/models/{name}"):
        assert http.get(gone).status_code == 404, gone
    assert http.delete(path).status_code == 404
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
    kept = [one.id for one in server.client.files.list()]
    assert len(kept) == 2
    (result,) = set(kept) - {file.id}
    assert server.client.files.content(result).content == ADAPTER["metrics.csv"]
    assert used(server)["stored_bytes"] == len(data_set()) + len(ADAPTER["metrics.csv"])
    assert len(all_files(server.settings.folder)) == 2
    with db.as_control() as tx:
        assert not any(invariants.violations(tx).values())
        left = tx.execute(text("SELECT request, suffix FROM job WHERE exported_job_id IS NULL"))
        assert left.all() == [({}, None)]
        assert tx.execute(text("SELECT count(*) FROM attempt")).scalar_one() == 2
    for thing in (file.id, result):
        server.client.files.delete(thing)
    assert used(server) | {"device_hours": 0} == dict.fromkeys(used(server), 0)


def test_a_failed_job_and_the_export_of_its_checkpoint_can_be_deleted(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client)
    lease = train(worker, tmp_path)
    finish(worker, lease, failed(FailureClass.USER))
    path = f"/v1/fine_tuning/jobs/{job.id}"
    asked = {"format": "peft", "checkpoint": 1}
    export = server.http().post(f"{path}/exports", json=asked).json()["id"]
    server.http().post(f"{path}/exports/{export}/cancel")
    assert server.http().delete(f"{path}/exports/{export}").status_code == 200
    assert server.http().delete(path).status_code == 200
    with pytest.raises(openai.NotFoundError):
        server.client.fine_tuning.jobs.retrieve(job.id)
    assert used(server)["stored_bytes"] == len(data_set())
