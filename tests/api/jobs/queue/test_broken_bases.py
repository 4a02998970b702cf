"""A base model that cannot be loaded, on one worker or on any: its jobs wait, and nobody else."""

import shutil
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError
from openai.types.fine_tuning import FineTuningJob

from api.db.session import Database
from api.models import bases
from tests.api.speaking import claim, failed, finish
from tests.conftest import BASE, ROOT, Served
from tests.factories import another_base, create_job, worker_facts
from tunery import messages
from tunery.base_model import describe
from tunery.states import FailureClass
from worker.client import Client


def fault_of_base(code: str) -> messages.Failed:
    update = {"code": code, "phase": "base"}
    return failed(FailureClass.BASE, "model.safetensors is bad.").model_copy(update=update)


def queue_of(server: Served, job: FineTuningJob) -> dict[str, object]:
    shown = server.client.fine_tuning.jobs.retrieve(job.id)
    return dict((shown.model_extra or {})["tunery"]["queue"])


def metric(admin: httpx.Client, name: str) -> float:
    lines = admin.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.fixture
def admin(server: Served) -> httpx.Client:
    return server.http(server.admin_key)


def test_a_worker_that_lacks_a_base_is_given_other_jobs_and_the_job_another_worker(
    server: Served, worker: Client, db: Database, admin: httpx.Client
) -> None:
    job, other = create_job(server.client), create_job(server.client, model=another_base(db))
    for _ in range(4):  # it costs the job nothing
        lease = claim(worker)
        assert lease
        finish(worker, lease, fault_of_base(messages.BASE_DIFFERS))
    source = str(ROOT / "models" / "tiny")
    lacking = worker_facts("w1").model_copy(update={"lacks": {BASE: source}})
    worker.heartbeat(lacking, [])
    assert queue_of(server, job)["waits_for"] == "no_worker_fits"
    assert f"cannot load the base model {BASE}" in str(queue_of(server, job)["reason"])
    elsewhere = worker.claim(lacking)
    assert elsewhere
    assert elsewhere.job_id == other.id
    assert worker.claim(lacking) is None
    (shown,) = admin.get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"], list(shown["lacks"])) == ("active", 0, [BASE])
    assert metric(admin, "ft_base_models_lacking") == 1
    moved = worker_facts("w1").model_copy(update={"lacks": {BASE: "/another/folder"}})
    assert worker.claim(moved), "it is registered in another folder since"


def test_a_base_that_one_build_refuses_is_tried_by_workers_of_another(
    server: Served, worker: Client
) -> None:
    """One that came later, or was there before."""
    job = create_job(server.client)
    old, new = (
        worker_facts(build).model_copy(update={"build": build})
        for build in ("1.0 (transformers 5.0.0)", "1.0 (transformers 6.0.0)")
    )
    lease = worker.claim(old)
    assert lease
    finish(worker, lease, fault_of_base(messages.BASE_BROKEN))
    assert worker.claim(old) is None
    assert queue_of(server, job)["waits_for"] == "base_model_broken"
    worker.heartbeat(new, [])
    assert queue_of(server, job)["waits_for"] == "starting"
    second = create_job(server.client)
    assert worker.claim(old.model_copy(update={"worker": "w3", "id": "w3"})) is None
    leases = [worker.claim(new), worker.claim(new)]
    assert [lease and lease.job_id for lease in leases] == [job.id, second.id]
    assert leases[0]
    finish(worker, leases[0], fault_of_base(messages.BASE_BROKEN))
    assert worker.claim(new) is None
    with pytest.raises(BadRequestError, match="cannot be trained"):
        create_job(server.client)


def test_a_base_that_is_as_registered_and_cannot_be_loaded_stops_its_jobs_until_it_is_repaired(
    server: Served, worker: Client, db: Database, admin: httpx.Client, tmp_path: Path
) -> None:
    first, second = create_job(server.client), create_job(server.client)
    lease = claim(worker)
    assert lease
    finish(worker, lease, fault_of_base(messages.BASE_BROKEN))
    assert claim(worker) is None
    assert claim(worker, "w2") is None
    assert queue_of(server, first)["waits_for"] == "base_model_broken"
    with pytest.raises(
        BadRequestError, match="or upgrades the workers, and runs `tunery models add"
    ):
        create_job(server.client)
    (shown,) = (one for one in server.http().get("/v1/models").json()["data"] if one["id"] == BASE)
    assert shown["broken"] == "model.safetensors is bad."
    assert metric(admin, "ft_base_models_broken") == 1
    workers = admin.get("/v1/admin/workers").json()["data"]
    assert {one["failures"] for one in workers} == {0}

    same = describe(ROOT / "models" / "tiny", id_=BASE, licence="Apache-2.0")
    assert admin.post("/v1/admin/models", json=same.model_dump()).status_code == 200
    lease = claim(worker)
    assert lease
    assert lease.job_id == first.id
    finish(worker, lease, fault_of_base(messages.BASE_BROKEN))

    folder = shutil.copytree(ROOT / "models" / "tiny", tmp_path / "repaired")
    (folder / "generation_config.json").write_text('{"a": 1}')
    with db.as_control() as tx:
        bases.register(tx, describe(folder, id_=BASE))
    assert claim(worker) is None
    assert claim(worker) is None
    for job in (first, second):
        ended = server.client.fine_tuning.jobs.retrieve(job.id)
        assert ended.error
        assert (ended.status, ended.error.code) == ("failed", "base_model_replaced")
        assert "Create the job again" in ended.error.message
    again = create_job(server.client)
    lease = claim(worker)
    assert lease
    assert lease.job_id == again.id
