"""What a job would be, asked before it is created."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from api.db.session import Database
from api.tables import Attempt, File
from tests.conftest import BASE, Served
from tests.factories import (
    chat,
    create_job,
    data_set,
    end_by_hand,
    run_by_hand,
    upload,
    worker_facts,
)
from tunery.states import AttemptEnd
from worker.client import Client

GIB = 1 << 30


def estimate(server: Served, file_id: str, **asked: Any) -> dict[str, Any]:
    body = {"model": BASE, "training_file": file_id, **asked}
    answer = server.http().post("/v1/fine_tuning/estimate", json=body)
    assert answer.status_code == 200
    return dict(answer.json())


def told(worker: Client, device: str, gib: float) -> None:
    facts = {"device": device, "memory_bytes": int(gib * GIB)}
    worker.heartbeat(worker_facts(device.replace(" ", "")).model_copy(update=facts), [])


def test_an_estimate_has_the_jobs_settings_and_a_plan_for_each_device(
    server: Served, worker: Client
) -> None:
    told(worker, "cpu", 4)
    told(worker, "NVIDIA L4", 22)
    told(worker, "NVIDIA T4", 1)
    file = upload(server.client, data_set(50))
    found = estimate(server, file.id)
    job = create_job(server.client, file.id)
    assert job.hyperparameters.to_dict() == found["hyperparameters"]
    extras = (job.model_extra or {})["tunery"]
    for name in ("reasons", "training", "lora", "warnings"):
        assert found[name] == extras[name]
    assert (found["rows"], found["steps"], found["tokens_are_estimated"]) == (50, 3 * 13, True)
    text_bytes = server.http().get(f"/v1/files/{file.id}/report").json()["text_bytes"]
    assert found["tokens"] == -(-text_bytes // 4)
    tiny, cpu, gpu = found["devices"]
    assert (tiny["fits"], tiny["plan"]) == (False, None)
    assert "The device has 1.0 GiB" in tiny["reason"]
    assert (cpu["fits"], cpu["seconds"]) == (True, None)
    assert (gpu["plan"]["quantization"], gpu["seconds_from"]) == ("none", "model")
    assert 0 < gpu["seconds"][0] < gpu["seconds"][1]


def test_very_many_rows_need_memory_and_time(server: Served, worker: Client, db: Database) -> None:
    """They are held in the machine's memory, which is the device's on a CPU."""
    told(worker, "cpu", 4)
    told(worker, "NVIDIA L4", 4)
    file_id = upload(server.client, data_set(50)).id

    def devices() -> list[dict[str, Any]]:
        return list(estimate(server, file_id, hyperparameters={"n_epochs": 1})["devices"])

    before = {one["device"]: one for one in devices()}
    with db.as_control() as tx:
        file = tx.get_one(File, file_id)
        report = file.report or {}
        file.report = report | {"rows": 50_000_000}
    after = {one["device"]: one for one in devices()}
    assert (before["cpu"]["fits"], after["cpu"]["fits"]) == (True, False)
    assert "for the data set" in after["cpu"]["reason"]
    assert "a smaller training file" in after["cpu"]["reason"]
    assert after["NVIDIA L4"]["fits"]
    assert after["NVIDIA L4"]["seconds"][0] > 3_000 > before["NVIDIA L4"]["seconds"][1]


def test_nothing_is_created(server: Served) -> None:
    estimate(server, upload(server.client).id)
    assert server.client.fine_tuning.jobs.list().data == []


def test_rows_are_no_longer_than_max_length(server: Served) -> None:
    file = upload(server.client, chat(answer="A cow eats grass. " * 20).encode())
    cut = estimate(server, file.id, training={"max_length": 8})
    assert cut["longest_row_tokens"] == 8 < estimate(server, file.id)["longest_row_tokens"]


def test_texts_are_split_and_a_preference_is_two_answers(server: Served) -> None:
    text = upload(server.client, json.dumps({"text": "A cow eats grass. " * 20}).encode())
    split = estimate(server, text.id, training={"max_length": 16})
    assert (split["rows"], split["tokens"], split["longest_row_tokens"]) == (6, 90, 16)
    pair = {
        "input": {"messages": [{"role": "user", "content": "What? " * 20}]},
        "preferred_output": [{"role": "assistant", "content": "Grass. " * 20}],
        "non_preferred_output": [{"role": "assistant", "content": "A stone. " * 20}],
    }
    file, method = upload(server.client, json.dumps(pair).encode()), {"type": "dpo"}
    whole = (6 + 7 + 6 + 9) * 20 // 4
    for max_length, tokens in ((100, whole), (16, 32)):
        training = {"max_length": max_length}
        found = estimate(server, file.id, method=method, training=training)
        assert (found["tokens"], found["longest_row_tokens"]) == (tokens, tokens)
        assert found["hyperparameters"]["beta"] == 0.1


def test_a_device_that_has_trained_this_base_is_timed_by_it(
    server: Served, worker: Client, db: Database
) -> None:
    told(worker, "cpu", 4)
    file = upload(server.client, data_set(50))
    for seconds in (30, 60):
        job = create_job(server.client, file.id)
        with db.as_control() as tx:
            run_by_hand(tx, job.id, began=seconds)
            tx.get_one(Attempt, (job.id, 1)).worker_id = "worker-cpu"
            end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    (cpu,) = estimate(server, file.id)["devices"]
    assert cpu["seconds_from"] == "history"
    assert cpu["seconds"] == pytest.approx([30, 60], rel=0.1)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "gpt-x"},
        {"training_file": "file-none"},
        {"training": {"max_length": 99_999}},
        {"hyperparameters": {"n_epochs": 0}},
    ],
)
def test_what_create_refuses_is_refused_in_the_same_words(
    server: Served, asked: dict[str, Any]
) -> None:
    http = server.http()
    body = {"model": BASE, "training_file": upload(server.client).id, **asked}
    refused = http.post("/v1/fine_tuning/estimate", json=body)
    assert refused.status_code >= 400
    assert refused.json() == http.post("/v1/fine_tuning/jobs", json=body).json()


def test_a_file_that_is_still_being_checked_cannot_be_estimated(
    serve_with: Callable[..., Served],
) -> None:
    server = serve_with(check_at_once_bytes=1)
    body = {"model": BASE, "training_file": upload(server.client).id}
    answer = server.http().post("/v1/fine_tuning/estimate", json=body)
    assert answer.status_code == 409
    assert "Ask again" in answer.json()["error"]["message"]
