"""Jobs on several GPUs of one worker."""

import time
from typing import Any

import openai
import pytest
from sqlalchemy import text

from api.db.session import Database
from tests.conftest import BASE, ROOT, Served
from tests.factories import create_job, upload, worker_facts
from tunery.base_model import describe
from tunery.messages import WorkerFacts
from worker.client import Client

TWO: dict[str, Any] = {"extra_body": {"training": {"gpus": 2}}}


def machine(name: str, gpus: int) -> WorkerFacts:
    told = {"device": "NVIDIA A10", "memory_bytes": 24 << 30, "gpus": gpus}
    return worker_facts(name).model_copy(update=told)


def test_more_gpus_than_any_worker_offers_are_refused_with_both_numbers(
    server: Served, worker: Client
) -> None:
    waits = create_job(server.client, **TWO)  # some worker may come that does
    assert worker.claim(machine("one", 1)) is None
    queue = server.http().get(f"/v1/fine_tuning/jobs/{waits.id}").json()["tunery"]["queue"]
    assert queue["waits_for"] == "no_worker_fits"
    assert queue["reason"] == (
        "It needs 2 GPUs of one worker; the workers offer 1 to one training."
    )
    with pytest.raises(openai.BadRequestError) as refusal:
        create_job(server.client, **TWO)
    assert refusal.value.param == "training.gpus"
    assert "training.gpus is 2, and no worker of this service offers more than 1 GPU" in str(
        refusal.value
    )


def test_a_worker_is_given_a_job_on_as_many_gpus_as_it_offers(
    server: Served, worker: Client
) -> None:
    for facts in (machine("one", 1), machine("two", 2)):
        assert worker.claim(facts) is None
    job = create_job(server.client, **TWO)
    estimate = server.http().post(
        "/v1/fine_tuning/estimate",
        json={"model": BASE, "training_file": upload(server.client).id} | TWO["extra_body"],
    )
    one, two = estimate.json()["devices"]
    assert (one["gpus"], one["fits"]) == (1, False)
    assert "to be trained on 2 GPUs" in one["reason"]
    assert (two["gpus"], two["plan"]["gpus"]) == (2, 2)
    assert worker.claim(machine("one", 1)) is None
    lease = worker.claim(machine("two", 2))
    assert lease
    assert (lease.job_id, lease.spec.gpus) == (job.id, 2)
    shown = server.http().get(f"/v1/fine_tuning/jobs/{job.id}").json()["tunery"]
    assert shown["training"]["gpus"] == 2
    workers = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert {each["name"]: each["gpus"] for each in workers} == {"one": 1, "two": 2}


def test_each_gpu_of_an_attempt_counts_as_a_device(
    server: Served, worker: Client, db: Database
) -> None:
    create_job(server.client, **TWO)
    assert worker.claim(machine("two", 2))
    with db.as_control() as tx:
        tx.execute(text("UPDATE attempt SET started_at = now() - interval '100 s'"))
    hour_ago = int(time.time()) - 3600
    found = server.http().get("/v1/usage", params={"start_time": hour_ago, "bucket_width": "1d"})
    used = [row for bucket in found.json()["data"] for row in bucket["results"]]
    assert sum(row["device_seconds"] for row in used) == pytest.approx(200, abs=30)


def test_a_base_that_fits_no_gpu_whole_goes_to_a_worker_with_enough_of_them(
    server: Served, worker: Client
) -> None:
    shape = {
        "architecture": "llama", "layers": 80, "hidden": 8192, "inner": 28672, "heads": 64,
        "kv_heads": 8, "head_dim": 128, "vocab": 128_256, "tied": False,
    }  # fmt: skip
    facts = describe(ROOT / "models" / "tiny", id_="seventy").model_dump() | {"shape": shape}
    assert server.http(server.admin_key).post("/v1/admin/models", json=facts).is_success
    for name, gpus in (("one", 1), ("four", 4)):
        assert worker.claim(machine(name, gpus)) is None
    with pytest.raises(openai.BadRequestError) as refusal:
        create_job(server.client, model="seventy")
    assert "or training.gpus 4, on a worker with so many of them" in str(refusal.value)
    four = {"training": {"gpus": 4}}
    int8 = {"training": {"gpus": 4, "quantization": "int8"}}
    with pytest.raises(openai.BadRequestError) as refusal:
        create_job(server.client, model="seventy", extra_body=int8)
    assert refusal.value.param == "training.quantization"
    assert "must hold all of that: a base in int8 is not divided" in str(refusal.value)
    estimate = server.http().post(
        "/v1/fine_tuning/estimate",
        json={"model": "seventy", "training_file": upload(server.client).id} | four,
    )
    plan = estimate.json()["devices"][1]["plan"]
    assert (plan["gpus"], plan["divided"]) == (4, True)
    job = create_job(server.client, model="seventy", extra_body=four)
    assert worker.claim(machine("one", 1)) is None
    lease = worker.claim(machine("four", 4))
    assert lease
    assert lease.job_id == job.id
