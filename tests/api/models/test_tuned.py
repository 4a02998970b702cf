"""Tuned models and checkpoints: as the model of a next job, shared with other projects, deleted."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from api.admin import create_key
from api.db import invariants
from api.db.session import Database
from api.jobs import intake
from api.tenants import projects
from tests.api.speaking import ADAPTER, MODEL, claim, finish, send, succeeded
from tests.conftest import BASE, ROOT, Served
from tests.factories import another_base, create_job, upload
from tunery import messages
from tunery.data.check import Report
from tunery.measured import Metrics, RowLoss, Sample, Samples
from tunery.plan.memory import Plan
from worker.client import ApiRefused, Client

CONFIG = "adapter_config.json"
SAMPLES = Samples(
    answers=[Sample(line=1, prompt="p", expected="e", base="b", tuned="t")],
    best=[RowLoss(line=2, text="good", base_loss=1.5, loss=0.5)],
    worst=[],
)
LORA = {"lora": {"r": 4, "alpha": 12}}
KEPT = {"adapter_model.safetensors": b"kept", "adapter_config.json": b"{}", "optimizer.st": b"o"}

TINY = ROOT / "models" / "tiny"


def train(
    worker: Client, folder: Path, *, steps: tuple[int, ...] = (), finishes: bool = True
) -> messages.Lease:
    """What a worker does with the next job: checkpoints of these steps, and then the end."""
    lease = claim(worker)
    assert lease
    plan = Plan(
        quantization="none",
        dequantized=False,
        checkpointing=False,
        micro_tokens=64,
        peak_bytes=1 << 20,
    )
    event = messages.JobEvent(message="planned", data={"plan": plan.model_dump()})
    worker.add_events(lease, messages.EventBatch(first=0, events=[event]))
    keep(worker, lease, folder, *steps)
    if finishes:
        finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER)))
    return lease


def keep(worker: Client, lease: messages.Lease, folder: Path, *steps: int) -> None:
    for step in steps:
        files = send(worker, lease, folder, KEPT | {"optimizer.st": f"o{step}".encode()})
        metrics = Metrics(step=step)
        written = messages.CheckpointWritten(
            step=step, epoch=step, metrics=metrics, files=files, samples=SAMPLES
        )
        worker.add_checkpoint(lease, written, patience=0)


@pytest.fixture
def tuned(server: Served, worker: Client, tmp_path: Path) -> FineTuningJob:
    """A job that has succeeded, with a checkpoint of step 3."""
    job = create_job(server.client, suffix="mine", extra_body=LORA)
    train(worker, tmp_path, steps=(3,))
    return server.client.fine_tuning.jobs.retrieve(job.id)


def extras(job: FineTuningJob) -> dict[str, Any]:
    found: dict[str, Any] = (job.model_extra or {})["tunery"]
    return found


def fetched(worker: Client, lease: messages.Lease, folder: Path) -> dict[str, bytes]:
    """What the lease says that the training starts from."""
    assert lease.adapter
    for link in lease.adapter.files:
        worker.download(link, folder / f"got-{link.name}", patience=0)
    return {link.name: (folder / f"got-{link.name}").read_bytes() for link in lease.adapter.files}


def test_a_job_goes_on_from_a_tuned_model_or_a_checkpoint(
    server: Served, worker: Client, tuned: FineTuningJob, tmp_path: Path
) -> None:
    file = upload(server.client).id
    for step, source in (("", ADAPTER), (":ckpt-step-3", KEPT)):
        name = f"{tuned.fine_tuned_model}{step}"
        job = create_job(server.client, file, model=name, suffix="next")
        assert job.model == name
        assert server.client.models.retrieve(name).id == name
        assert extras(job)["base_model"] == BASE
        assert extras(job)["lora"] == LORA["lora"] | {"dropout": 0}
        assert extras(job)["quantization"] == "none"
        assert extras(job)["reasons"]["lora"] == f"r 4 and alpha 12 are {name}'s"
        lease = train(worker, tmp_path)
        given = fetched(worker, lease, tmp_path)
        assert given == {name: source[name] for name in ("adapter_model.safetensors", CONFIG)}
        assert lease.spec.adapter
        assert lease.spec.adapter.model == name
        assert lease.spec.adapter.sha256 == sha256(given["adapter_model.safetensors"]).hexdigest()
        assert (lease.spec.base_model, lease.base_model.id) == (BASE, BASE)
        done = server.client.fine_tuning.jobs.retrieve(job.id)
        assert done.fine_tuned_model == f"ft:{BASE}:default:next:{job.id[-8:]}"
        shown = server.client.models.retrieve(done.fine_tuned_model)
        lineage = {"base_model": BASE, "went_on_from": name, "job_id": job.id}
        assert shown.model_extra == lineage
        assert shown in server.client.models.list().data


def test_what_a_job_cannot_go_on_from_is_refused(server: Served, tuned: FineTuningJob) -> None:
    name = tuned.fine_tuned_model
    for lora in ({"r": 8}, {"alpha": 8}):
        (setting,) = lora
        with pytest.raises(openai.BadRequestError, match=f"Leave lora.{setting} out") as refused:
            create_job(server.client, model=name, extra_body={"lora": lora})
        assert refused.value.param == f"lora.{setting}"
    same = create_job(server.client, model=name, extra_body={"lora": {"r": 4, "dropout": 0.1}})
    assert extras(same)["lora"] == {"r": 4, "alpha": 12, "dropout": 0.1}
    unfinished = create_job(server.client).id[-8:]
    for unknown in (f"{name}x", f"{name}:ckpt-step-4", f"ft:{BASE}:default::{unfinished}"):
        with pytest.raises(openai.NotFoundError) as missing:
            create_job(server.client, model=unknown)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


def test_a_job_whose_file_is_checked_later_goes_on_as_it_was_asked_to(
    serve_with: Callable[..., Served], db: Database, tmp_path: Path
) -> None:
    server = serve_with(check_at_once_bytes=1)
    client = Client(server.url, server.worker_key)
    first = create_job(server.client, extra_body=LORA)
    check(db, first)
    train(client, tmp_path)
    name = server.client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    second = create_job(server.client, model=name)
    with pytest.raises(openai.ConflictError):
        server.client.models.delete(name or "")
    check(db, second)
    lease = claim(client)
    client.http.close()
    assert lease
    assert lease.spec.adapter
    assert (lease.spec.adapter.model, lease.spec.r) == (name, 4)


def check(db: Database, job: FineTuningJob) -> None:
    with db.as_control() as tx:
        report = Report(rows=12, formats={"chat": 12}).as_dict()
        intake.finish_check(tx, job.training_file, report)


def test_a_checkpoint_stays_while_a_job_or_another_project_uses_it(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    source = create_job(server.client)
    lease = train(worker, tmp_path, steps=(1, 2), finishes=False)
    checkpoints = server.client.fine_tuning.jobs.checkpoints
    second, first = checkpoints.list(source.id).data
    create_job(server.client, model=first.fine_tuned_model_checkpoint)
    share(server, db, second.fine_tuned_model_checkpoint)
    keep(worker, lease, tmp_path, 3, 4, 5)
    kept = checkpoints.list(source.id)
    assert [checkpoint.step_number for checkpoint in kept] == [5, 4, 2, 1]
    goes_on = claim(worker)
    assert goes_on
    assert fetched(worker, goes_on, tmp_path)["adapter_model.safetensors"] == b"kept"
    with pytest.raises(openai.NotFoundError):
        create_job(server.client, model=first.fine_tuned_model_checkpoint[:-1] + "3")


def other_project(server: Served, db: Database, name: str = "other") -> tuple[OpenAI, str]:
    """A client of another project, and that one's id."""
    client = server.client_for(create_key(db, name, ["read", "write"]))
    with db.as_control() as tx:
        return client, projects.ensure_project(tx, name).id


def share(server: Served, db: Database, model: str, project: str = "other") -> OpenAI:
    """Returns a client of the project that it is shared with."""
    client, project_id = other_project(server, db, project)
    admin = server.client_for(server.admin_key)
    admin.fine_tuning.checkpoints.permissions.create(model, project_ids=[project_id])
    return client


def test_what_is_shared_can_be_seen_and_gone_on_from_and_nothing_else(
    server: Served, worker: Client, db: Database, tuned: FineTuningJob, tmp_path: Path
) -> None:
    model = tuned.fine_tuned_model or ""
    checkpoint = f"{model}:ckpt-step-3"
    clients = {
        model: share(server, db, model, "one"),
        checkpoint: share(server, db, checkpoint, "two"),
        "none": other_project(server, db, "three")[0],
    }
    for name, client in clients.items():
        seen = [one.id for one in client.models.list()]
        assert seen == [one for one in (BASE, name) if one != "none"]
        for other in {model, checkpoint} - {name}:
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(other)
            with pytest.raises(openai.NotFoundError):
                create_job(client, upload(client).id, model=other)
        for path in (f"/fine_tuning/jobs/{tuned.id}{part}" for part in ("", "/artifacts")):
            with pytest.raises(openai.NotFoundError):
                client.get(path, cast_to=dict[str, object])
    for number, name in (("one", model), ("two", checkpoint)):
        client = clients[name]
        assert client.models.retrieve(name).owned_by == "default"
        with pytest.raises(openai.PermissionDeniedError, match="belongs to another project"):
            client.models.delete(name)
        job = create_job(client, model=name, suffix="theirs")
        with pytest.raises(openai.ConflictError, match="a job of another project goes on from it"):
            server.client.models.delete(model)
        lease = train(worker, tmp_path)
        assert fetched(worker, lease, tmp_path)["adapter_model.safetensors"]
        done = client.fine_tuning.jobs.retrieve(job.id)
        assert done.fine_tuned_model == f"ft:{BASE}:{number}:theirs:{job.id[-8:]}"


def test_permissions_are_given_listed_in_pages_and_taken_back(
    server: Served, db: Database, tuned: FineTuningJob
) -> None:
    name = tuned.fine_tuned_model or ""
    others = [other_project(server, db, f"p{number}") for number in range(3)]
    ids = [project_id for _, project_id in others]
    permissions = server.client_for(server.admin_key).fine_tuning.checkpoints.permissions
    made = permissions.create(name, project_ids=ids).data
    assert [permission.project_id for permission in made] == ids
    assert {permission.object for permission in made} == {"checkpoint.permission"}
    assert permissions.create(name, project_ids=ids[:1]).data == made[:1]
    http = server.http(server.admin_key)
    path = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    for order, expected in (("ascending", ids), ("descending", ids[::-1])):
        first = http.get(path, params={"order": order, "limit": 2}).json()
        after = {"order": order, "limit": 2, "after": first["last_id"]}
        second = http.get(path, params=after).json()
        assert (first["object"], first["has_more"], second["has_more"]) == ("list", True, False)
        shown = [permission["project_id"] for permission in first["data"] + second["data"]]
        assert shown == expected
    only = http.get(path, params={"project_id": ids[1]}).json()["data"]
    assert [permission["id"] for permission in only] == [made[1].id]
    unknown = http.get(path, params={"after": "cp_x"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")
    taken = permissions.delete(made[0].id, fine_tuned_model_checkpoint=name)
    assert (taken.id, taken.object, taken.deleted) == (made[0].id, "checkpoint.permission", True)
    with pytest.raises(openai.NotFoundError):
        others[0][0].models.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        permissions.delete(made[0].id, fine_tuned_model_checkpoint=name)
    assert http.get(path, params={"order": "ascending"}).json()["first_id"] == made[1].id


def test_a_permission_that_cannot_be_is_refused(
    server: Served, db: Database, tuned: FineTuningJob
) -> None:
    name, (stranger, _) = tuned.fine_tuned_model or "", other_project(server, db)
    permissions = server.client_for(server.admin_key).fine_tuning.checkpoints.permissions
    own = default_project(db)
    for project_ids, words in ((["proj_x"], "no project's id"), ([own], "own project"), ([], "1")):
        with pytest.raises(openai.BadRequestError, match=words):
            permissions.create(name, project_ids=project_ids)
    for model in (f"{name}x", f"{name}:ckpt-step-9", BASE):
        with pytest.raises(openai.NotFoundError):
            permissions.create(model, project_ids=[own])
    key = create_key(db, "other", ["read", "write", "admin"])
    theirs = server.client_for(key).fine_tuning.checkpoints.permissions
    with pytest.raises(openai.NotFoundError):
        theirs.create(name, project_ids=[own])
    with pytest.raises(openai.PermissionDeniedError, match="'admin'"):
        stranger.fine_tuning.checkpoints.permissions.create(name, project_ids=[own])


def default_project(db: Database) -> str:
    with db.as_control() as tx:
        return projects.ensure_project(tx, "default").id


def test_a_deleted_model_is_gone_and_its_job_says_so(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    another_base(db, "org/base")
    job = create_job(server.client, model="org/base")
    train(worker, tmp_path, steps=(3,))
    name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    stranger = share(server, db, name)
    http = server.http()
    said = f"/v1/fine_tuning/jobs/{job.id}/samples"
    (samples,) = http.get(said).json()["data"]
    assert samples.items() >= {"step_number": 3, **SAMPLES.model_dump()}.items()
    raw = httpx.URL(f"{server.url}/v1/models/{name}")
    assert http.get(raw).json()["id"] == name
    address = httpx.URL(f"{server.url}/v1/models/{name.replace('/', '%2F')}")
    user = create_job(server.client, model=f"{name}:ckpt-step-3")
    refused = http.delete(address)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    assert user.id in refused.json()["error"]["message"]
    server.client.fine_tuning.jobs.cancel(user.id)
    stored = set((server.settings.folder / "jobs").rglob("*/*/*"))
    assert len(stored) == len({*ADAPTER.values(), *KEPT.values(), b"o3"} - {b"o"})
    assert http.delete(address).json() == {"id": name, "object": "model", "deleted": True}
    assert not any(path.exists() for path in stored)
    assert http.get(said).json()["data"] == []
    for client in (server.client, stranger):
        assert name not in {model.id for model in client.models.list()}
        for ask in (client.models.retrieve, client.models.delete):
            with pytest.raises(openai.NotFoundError):
                ask(name)
    for gone in (name, f"{name}:ckpt-step-3"):
        with pytest.raises(openai.NotFoundError):
            create_job(server.client, model=gone)
    after = server.client.fine_tuning.jobs.retrieve(job.id)
    assert (after.status, after.fine_tuned_model) == ("succeeded", name)
    assert server.client.fine_tuning.jobs.checkpoints.list(job.id).data == []
    for path in ("artifacts", "artifacts/adapter_config.json"):
        answer = http.get(f"/v1/fine_tuning/jobs/{job.id}/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_deleted")
    results = server.client.files.content(after.result_files[0])
    assert results.read() == ADAPTER["metrics.csv"]
    with db.as_control() as tx:
        assert not any(invariants.violations(tx).values())


def test_what_is_not_a_tuned_model_by_itself_is_not_deleted(
    server: Served, tuned: FineTuningJob
) -> None:
    for name in (BASE, f"{tuned.fine_tuned_model}:ckpt-step-3"):
        with pytest.raises(openai.PermissionDeniedError, match="cannot be deleted here") as refused:
            server.client.models.delete(name)
        assert refused.value.code == "not_deletable"
        assert server.client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        server.client.models.delete("ft:none")


def test_embeddings_are_refused_with_the_commands_that_serve_the_model(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    lora = {"lora": {"r": 9, "alpha": 12}}
    job = create_job(server.client, extra_body=lora)
    train(worker, tmp_path, steps=(3,))
    name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    with pytest.raises(openai.BadRequestError) as refused:
        server.client.embeddings.create(model=name or "", input="Hello")
    assert (refused.value.code, refused.value.param) == ("embeddings_not_offered", "model")
    download, serve = re.findall("`([^`]+)`", str(refused.value))
    assert serve == (
        f"vllm serve FOLDER --enable-lora --max-lora-rank 16 --lora-modules {name}=adapter"
    )
    assert f"FOLDER stands for the folder with the files of {BASE}" in refused.value.message
    files = download.removeprefix("for file in ").partition(";")[0].split()
    (address,) = re.findall(r"http\S+/artifacts/\$file", download)
    http = server.http()
    assert {file: http.get(address.replace("$file", file)).content for file in files} == {
        file: ADAPTER[file] for file in ("adapter_model.safetensors", CONFIG)
    }


def test_a_whole_model_is_published_served_and_not_trained_on(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    job = create_job(server.client, extra_body={"training": {"finetuning_type": "full"}})
    lease = claim(worker)
    assert lease
    with pytest.raises(ApiRefused, match=r"lack config\.json, model\.safetensors"):
        finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, MODEL)))
    name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    with pytest.raises(openai.BadRequestError) as refused:
        server.client.embeddings.create(model=name, input="Hello")
    download, serve = re.findall("`([^`]+)`", str(refused.value))
    assert download.startswith("for file in config.json manifest.json model.safetensors; do")
    assert serve == f"vllm serve model --dtype bfloat16 --served-model-name {name}"
    with pytest.raises(openai.BadRequestError, match="is a whole model, not an adapter"):
        create_job(server.client, model=name)
    with db.as_control() as tx:
        assert not any(invariants.violations(tx).values())


def test_embeddings_are_refused_in_words(server: Served, tuned: FineTuningJob) -> None:
    http = server.http()
    checkpoint = f"{tuned.fine_tuned_model}:ckpt-step-3"
    asked = {"input": "Hello"}
    for model, status, words in (
        (BASE, 400, "`vllm serve FOLDER`"),
        (checkpoint, 400, f"`tunery export {tuned.id} --format peft --checkpoint 3`"),
        ("gpt-x", 404, "GET /v1/models lists"),
    ):
        answer = http.post("/v1/embeddings", json=asked | {"model": model})
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
    assert http.post("/v1/embeddings", json=asked).json()["error"]["param"] == "model"
    assert http.post("/v1/batches", json={}).json()["error"]["code"] == "unknown_route"
