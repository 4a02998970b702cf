"""Exports as users and workers see them, with the worker's part played by its client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import text

from api.db import invariants
from api.db.session import Database
from api.jobs import intake
from api.jobs.estimates import forecast
from api.jobs.exports import routes
from api.webhooks.outbox import EventType
from tests.api.speaking import ADAPTER, PLAN, claim, failed, finish, send, succeeded
from tests.conftest import BASE, Served
from tests.factories import create_job, end_pauses, lose_workers, upload, worker_facts
from tunery import messages
from tunery.data.check import Report
from tunery.errors import LeaseLost
from tunery.exports import Gguf
from tunery.facts import FileFacts
from tunery.measured import Metrics
from tunery.states import FailureClass
from worker.client import ApiRefused, Client

KEPT = {"adapter_model.safetensors": b"kept", "adapter_config.json": b"{}", "optimizer.st": b"o"}
MADE = {"model.safetensors": b"merged", "manifest.json": b"{}"}
# What the addresses of job routes are filled with.
LEADS = {"job_id": "x", "name": "manifest.json", "export_id": "ftexport-x"}


class Exports:
    """The routes of one job's exports."""

    def __init__(self, http: httpx.Client, job_id: str) -> None:
        self.http = http
        self.job_id = job_id
        self.path = f"/v1/fine_tuning/jobs/{job_id}/exports"

    def ask(self, **asked: Any) -> httpx.Response:
        return self.http.post(self.path, json={"format": "merged", **asked})

    def create(self, **asked: Any) -> dict[str, Any]:
        answer = self.ask(**asked)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def look(self, export_id: str) -> dict[str, Any]:
        seen: dict[str, Any] = self.http.get(f"{self.path}/{export_id}").json()
        return seen

    def list(self, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(self.path, params=params).json()
        return found

    def refusal(self, status: int, **asked: Any) -> tuple[str | None, str | None, str]:
        answer = self.ask(**asked)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        return error["code"], error["param"], error["message"]


def train(worker: Client, folder: Path, *, ends: bool = True) -> messages.Lease:
    """What a worker does with the next job, which keeps a checkpoint of step 3."""
    lease = claim(worker)
    assert lease
    event = messages.JobEvent(message="planned", data={"plan": PLAN})
    worker.add_events(lease, messages.EventBatch(first=0, events=[event]))
    keep(worker, lease, folder, 3)
    if ends:
        finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER)))
    return lease


def keep(worker: Client, lease: messages.Lease, folder: Path, step: int) -> None:
    files = send(worker, lease, folder, KEPT | {"optimizer.st": f"o{step}".encode()})
    written = messages.CheckpointWritten(
        step=step, epoch=step, metrics=Metrics(step=step), files=files
    )
    worker.add_checkpoint(lease, written, patience=0)


def export(worker: Client, folder: Path) -> messages.Lease:
    lease = claim(worker)
    assert lease
    assert lease.export
    word = made(worker, lease, folder)
    for _ in range(2):  # the same word again changes nothing
        worker.finish(lease, word, patience=0)
    return lease


def made(worker: Client, lease: messages.Lease, folder: Path) -> messages.FinishRequest:
    files = send(worker, lease, folder, MADE)
    return messages.FinishRequest(result=messages.Exported(files=files))


def adapter_of(worker: Client, lease: messages.Lease, folder: Path) -> dict[str, bytes]:
    assert lease.adapter
    for link in lease.adapter.files:
        worker.download(link, folder / f"got-{link.name}", patience=0)
    return {link.name: (folder / f"got-{link.name}").read_bytes() for link in lease.adapter.files}


@pytest.fixture
def done(server: Served, worker: Client, tmp_path: Path) -> Exports:
    """Of a job that has succeeded."""
    file = upload(server.client).id
    job = create_job(server.client, file, validation_file=file, suffix="mine")
    train(worker, tmp_path)
    return Exports(server.http(), job.id)


@pytest.fixture(autouse=True)
def _sound(db: Database) -> Iterator[None]:
    """Whatever a test has done, the rows are as they must be."""
    yield
    with db.as_control() as tx:
        broken = invariants.violations(tx)
    # `lose_workers` ends a lease before it began.
    broken.pop("attempt_that_ends_before_it_starts")
    assert not any(broken.values()), broken


def test_a_finished_model_and_a_checkpoint_are_exported(
    server: Served, worker: Client, done: Exports, tmp_path: Path
) -> None:
    job = server.client.fine_tuning.jobs.retrieve(done.job_id)
    model = job.fine_tuned_model or ""
    (kept,) = server.client.fine_tuning.jobs.checkpoints.list(done.job_id).data
    named = {"checkpoint": None, "step": 3, "id": kept.id, "name": f"{model}:ckpt-step-3"}
    for number, (how, checkpoint) in enumerate(named.items()):
        step = None if number == 0 else 3
        asked = {"checkpoint": 3 if how == "step" else checkpoint} if step else {}
        # Named in three ways it is one checkpoint, and the same export of it would be one.
        dtype = ("bf16", "bf16", "fp16", "fp32")[number]
        first = done.create(onto="original", dtype=dtype, **asked)
        assert (first["object"], first["status"]) == ("fine_tuning.job.export", "queued")
        assert first["fine_tuning_job_id"] == done.job_id
        assert (first["format"], first["step_number"]) == ("merged", step)
        assert first["options"] == {"onto": "original", "dtype": dtype}
        lease = claim(worker)
        assert lease
        assert lease.export
        assert (lease.job_id, lease.export.options.format) == (first["id"], "merged")
        assert lease.export.plan
        assert lease.export.plan.model_dump() == PLAN
        assert lease.spec.base_model == job.model
        assert lease.training_file
        assert lease.validation_file
        assert adapter_of(worker, lease, tmp_path) == {
            name: (KEPT if step else ADAPTER)[name]
            for name in ("adapter_model.safetensors", "adapter_config.json")
        }
        event = messages.JobEvent(message="Merged", data={"drift": {"kl": 0.5}})
        worker.add_events(lease, messages.EventBatch(first=0, events=[event]))
        assert done.look(first["id"])["status"] == "running"
        worker.finish(lease, made(worker, lease, tmp_path), patience=0)
        seen = done.look(first["id"])
        assert (seen["status"], seen["error"]) == ("succeeded", None)
        assert seen["finished_at"] >= seen["created_at"]
        assert {file["name"]: file["bytes"] for file in seen["files"]} == {
            name: len(content) for name, content in MADE.items()
        }
        assert (seen["tunery"]["attempts"], seen["tunery"]["facts"]) == (1, {"drift": {"kl": 0.5}})
        served = f"{model}:ckpt-step-3" if step else model
        assert seen["tunery"]["serve"] == (f"vllm serve {first['id']} --served-model-name {served}")
        for name, content in MADE.items():
            answer = done.http.get(f"{done.path}/{first['id']}/files/{name}")
            assert answer.content == content
    by_name = done.create(onto="original", dtype="fp16", checkpoint=f"{model}:ckpt-step-3")
    assert by_name["id"] == done.list()["data"][1]["id"], "as it was named by its id"
    events = done.http.get(f"{done.path}/{first['id']}/events").json()["data"]
    assert [event["message"] for event in reversed(events)] == [
        f"Created export: step 3 of {done.job_id} as merged",
        "Export started on worker w1",
        "Merged",
        "The export has successfully completed",
    ]
    key = {"idempotency-key": "one"}
    again = [done.http.post(done.path, headers=key, json={"format": "peft"}) for _ in range(2)]
    assert again[0].json() == again[1].json()
    other = done.http.post(done.path, headers=key, json={"format": "gguf"})
    assert other.status_code == 422
    assert again[0].json()["tunery"]["serve"].startswith("vllm serve FOLDER --enable-lora")
    pages = [done.list(limit=3)]
    pages.append(done.list(limit=3, after=pages[0]["last_id"]))
    assert [(len(page["data"]), page["has_more"]) for page in pages] == [(3, True), (2, False)]
    assert pages[0]["data"][1] == done.look(first["id"])


def test_the_whole_model_in_gguf_says_how_it_is_loaded(
    server: Served, worker: Client, done: Exports
) -> None:
    model = server.client.fine_tuning.jobs.retrieve(done.job_id).fine_tuned_model
    made = done.create(format="gguf", quantization="q4_k_m")
    assert made["options"] == {"quantization": "q4_k_m"}
    assert made["tunery"]["serve"] == f"llama-server -m {made['id']}/model.gguf --alias {model}"
    lease = claim(worker)
    assert lease
    assert lease.export
    assert lease.export.options == Gguf(quantization="q4_k_m")
    assert done.create(format="gguf", quantization="q4_k_m")["id"] == made["id"]
    other = done.create(format="ollama", quantization="q8_0")
    assert other["tunery"]["serve"] == f"ollama create tuned -f {other['id']}/Modelfile"
    alone = done.create(format="gguf")
    assert (alone["options"], alone["tunery"]["serve"]) == ({"dtype": "f32"}, None)


def test_an_export_runs_again_when_its_worker_is_lost_and_is_published_once_and_as_such(
    server: Served, worker: Client, db: Database, done: Exports, tmp_path: Path
) -> None:
    first = done.create(format="gguf")["id"]
    lost = claim(worker)
    assert lost
    word = made(worker, lost, tmp_path)
    lose_workers(db, server.settings)
    assert done.look(first)["status"] == "queued"
    lease = export(worker, tmp_path)
    assert (lease.job_id, lease.token) == (first, 2)
    with pytest.raises(LeaseLost, match="is over"):
        worker.finish(lost, word, patience=0)
    seen = done.look(first)
    assert (seen["status"], seen["tunery"]["attempts"], len(seen["files"])) == ("succeeded", 2, 2)
    second = done.create(format="gguf", dtype="f16")["id"]
    for _ in range(3):
        again = claim(worker)
        assert again
        finish(worker, again, failed(FailureClass.INFRA))
        end_pauses(db)
    seen = done.look(second)
    assert (seen["status"], seen["tunery"]["failure_class"]) == ("failed", "poisoned")
    assert seen["error"]["message"].endswith("3 attempts in a row came to nothing.")
    assert seen["files"] == []
    done.create()
    taken = claim(worker)
    assert taken
    with pytest.raises(ApiRefused, match="is no job"):
        finish(worker, taken, succeeded(send(worker, taken, tmp_path, ADAPTER)))
    absent = FileFacts(name="a.bin", bytes=1, sha256="0" * 64)
    word = messages.FinishRequest(result=messages.Exported(files=[absent]))
    with pytest.raises(ApiRefused, match="has not been uploaded"):
        worker.finish(taken, word, patience=0)
    create_job(server.client, server.client.fine_tuning.jobs.retrieve(done.job_id).training_file)
    training = claim(worker, "w2")
    assert training
    with pytest.raises(ApiRefused, match="is no export"):
        worker.finish(training, made(worker, training, tmp_path), patience=0)


def test_an_export_waits_for_a_worker_that_it_fits_and_is_cancelled(
    worker: Client, done: Exports
) -> None:
    waiting, running = done.create()["id"], done.create(format="gguf", quantization="f16")["id"]
    for lacking in ({"memory_bytes": 1 << 20}, {"protocol": messages.PROTOCOL - 1}):
        unfit = worker_facts("w0").model_copy(update=lacking)
        assert worker.claim(unfit) is None, "it holds no base, or knows no exports"
    for _ in range(2):
        answer = done.http.post(f"{done.path}/{waiting}/cancel").json()
        assert answer["status"] == "cancelled"
    lease = claim(worker)
    assert lease
    assert lease.job_id == running
    answer = done.http.post(f"{done.path}/{running}/cancel").json()
    assert answer["status"] == "running"
    beat = messages.LeaseBeat(job_id=lease.job_id, token=lease.token, step=0)
    (told,) = worker.heartbeat(worker_facts(), [beat]).leases
    assert told.directive == "cancel"
    finish(worker, lease, messages.Released())
    assert done.look(running)["status"] == "cancelled"
    unknown = done.http.post(f"{done.path}/ftexport-x/cancel")
    assert unknown.status_code == 404
    for other in (waiting, running):
        events = done.http.get(f"{done.path}/{other}/events").json()["data"]
        assert events[0]["message"] == "The export was cancelled"


def test_what_cannot_be_exported_is_refused_and_a_checkpoint_stays_until_it_is(
    server: Served, worker: Client, db: Database, done: Exports, tmp_path: Path
) -> None:
    file = server.client.fine_tuning.jobs.retrieve(done.job_id).training_file
    unfinished = Exports(server.http(), create_job(server.client, file).id)
    code, _, message = unfinished.refusal(409)
    assert (code, "is queued and has no finished model" in message) == ("job_not_succeeded", True)
    lease = train(worker, tmp_path, ends=False)
    assert unfinished.create(checkpoint=3)["step_number"] == 3
    for step in (4, 5, 6):
        keep(worker, lease, tmp_path, step)
    kept = server.client.fine_tuning.jobs.checkpoints.list(unfinished.job_id)
    assert [checkpoint.step_number for checkpoint in kept] == [6, 5, 3], "3 is being exported"
    finish(worker, lease, messages.Released())
    other = server.client.fine_tuning.jobs.checkpoints.list(done.job_id).data[0]
    for checkpoint in (9, "ftckpt_x", other.id, other.fine_tuned_model_checkpoint):
        code, param, _ = unfinished.refusal(404, checkpoint=checkpoint)
        assert (code, param) == ("not_found", "checkpoint")
    for asked, words in (
        ({"format": "onnx"}, "'peft', 'merged', 'gguf' or 'ollama'"),
        ({"format": "gguf", "onto": "original"}, "onto of the format gguf: is no setting of it"),
        ({"format": "merged", "dtype": "f16"}, "'bf16', 'fp16' or 'fp32'"),
        ({"format": "gguf", "quantization": "q3_x"}, "'q6_k', 'q5_k_m', 'q4_k_m' or 'q4_0'"),
        ({"quantization": "q8_0"}, "quantization of the format merged: is no setting of it"),
        (
            {"format": "ollama", "quantization": "q8_0", "dtype": "f16"},
            "dtype is of the adapter; of a whole model quantization says it",
        ),
        ({"format": "peft", "quantize": "q4_0"}, "quantize: is not known here"),
        ({"checkpoint": True}, "checkpoint"),
    ):
        _, _, message = done.refusal(400, **asked)
        assert words in message
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET architecture = 'gpt2'"))
    for whole in ({}, {"quantization": "q4_k_m"}):
        _, param, message = done.refusal(400, format="ollama", **whole)
        assert (param, "of type 'gpt2' is not written for Ollama" in message) == ("format", True)
    assert done.create(format="peft")["tunery"]["serve"] is None
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET spec = spec || '{\"lora\": null}'"))
    _, param, message = done.refusal(400, format="peft")
    assert (param, "Full fine-tuning makes a whole model" in message) == ("format", True)
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET spec = '{\"version\": 0}'"))
    assert done.refusal(409, format="peft")[0] == "unreadable_spec"


def check(db: Database, file_id: str) -> None:
    with db.as_control() as tx:
        intake.finish_check(tx, file_id, Report(rows=12, formats={"chat": 12}).as_dict())


def test_exports_asked_for_with_a_job_are_made_at_its_success_or_refused_before_it_is_trained(
    server: Served, serve_with: Any, worker: Client, db: Database, tmp_path: Path
) -> None:
    merged = {"format": "merged", "onto": "original"}
    job = create_job(server.client, extra_body={"exports": ["gguf", merged]})
    found = Exports(server.http(), job.id)
    assert found.list()["data"] == []
    train(worker, tmp_path)
    second, first = found.list()["data"]
    assert [one["format"] for one in (first, second)] == ["gguf", "merged"]
    assert second["options"]["onto"] == "original"
    said = [event.message for event in server.client.fine_tuning.jobs.list_events(job.id)]
    assert f"Export to gguf begins: {first['id']}" in said
    assert export(worker, tmp_path).job_id == first["id"]
    ended = create_job(server.client, job.training_file, extra_body={"exports": ["peft"]})
    server.client.fine_tuning.jobs.cancel(ended.id)
    assert Exports(server.http(), ended.id).list()["data"] == []
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET not_for_ollama = 'it counts'"))
    with pytest.raises(openai.BadRequestError, match=r"no words for .* template: it counts"):
        create_job(server.client, job.training_file, extra_body={"exports": ["ollama"]})
    with db.as_control() as tx:
        tx.execute(text("UPDATE base_model SET architecture = 'gpt2'"))
    wrong = {"exports": ["peft", "gguf"]}
    with pytest.raises(openai.BadRequestError, match="not written for llama") as refused:
        create_job(server.client, job.training_file, extra_body=wrong)
    assert refused.value.param == "exports"
    asked = {"model": job.model, "training_file": job.training_file, **wrong}
    answer = server.http().post("/v1/fine_tuning/estimate", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "exports")
    later = serve_with(check_at_once_bytes=1)
    waits = create_job(later.client, extra_body=wrong)
    check(db, waits.training_file)
    refused_later = later.client.fine_tuning.jobs.retrieve(waits.id)
    assert refused_later.status == "failed"
    assert refused_later.error
    assert refused_later.error.param == "exports"


def test_what_an_export_needs_stays_and_its_files_go_with_the_model(
    server: Served, worker: Client, done: Exports, tmp_path: Path
) -> None:
    job = server.client.fine_tuning.jobs.retrieve(done.job_id)
    model = job.fine_tuned_model or ""
    first = done.create()["id"]
    with pytest.raises(openai.ConflictError, match=f"export {first} is being made of it"):
        server.client.models.delete(model)
    with pytest.raises(openai.ConflictError, match=f"is in use by {first}"):
        server.client.files.delete(job.training_file)
    export(worker, tmp_path)
    server.client.files.delete(job.training_file)
    done.create(dtype="fp16")
    without = export(worker, tmp_path)
    assert (without.training_file, without.validation_file) == (None, None)
    stored = server.settings.folder / "jobs" / first
    assert [path.is_file() for path in stored.rglob("*/*")] == [True, True]
    server.client.models.delete(model)
    assert not any(path.is_file() for path in stored.rglob("*"))
    seen = done.look(first)
    assert (seen["status"], seen["files"]) == ("succeeded", [])
    assert seen["tunery"]["serve"] is None
    gone = done.http.get(f"{done.path}/{first}/files/manifest.json")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_deleted")
    assert done.refusal(404)[0] == "model_deleted"


def test_no_job_route_knows_an_export_and_no_webhook_tells_of_one(
    server: Served,
    worker: Client,
    done: Exports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = server.http()
    hook = {"name": "ours", "url": "https://hooks.example.com", "event_types": [*EventType]}
    endpoint = client.post("/v1/webhook_endpoints", json=hook).json()["id"]
    first = done.create()["id"]
    export(worker, tmp_path)
    second = done.create(dtype="fp16")["id"]
    listed = [job.id for job in server.client.fine_tuning.jobs.list()]
    assert listed == [done.job_id]
    none = client.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).json()["data"]
    assert [job["id"] for job in none] == [done.job_id]
    after = client.get("/v1/fine_tuning/jobs", params={"after": first})
    assert after.status_code == 400
    ours = {route.path for route in routes.router.routes}  # type: ignore[attr-defined]
    document = client.get("/openapi.json").json()["paths"]
    paths = [path for path in document if "/jobs/{job_id}" in path and path not in ours]
    tried = 0
    for path in paths:
        for method in document[path]:
            if path.startswith("/worker/"):
                continue
            for export_id in (first, second):
                address = path.format(**LEADS | {"job_id": export_id})
                answer = client.request(method, address)
                assert answer.status_code == 404, (method, path)
                tried += 1
    assert tried >= 20
    assert client.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"] == []
    monkeypatch.setattr(forecast, "REMEMBERED_JOBS", 1)
    file = server.client.fine_tuning.jobs.retrieve(done.job_id).training_file
    asked = {"model": BASE, "training_file": file}
    (device,) = client.post("/v1/fine_tuning/estimate", json=asked).json()["devices"]
    assert device["seconds_from"] == "history", "of the training, which came before the export"
    models = [model.id for model in server.client.models.list()]
    assert not [name for name in models if "ftexport" in name]
    with pytest.raises(openai.NotFoundError):
        create_job(server.client, file, model=second)
