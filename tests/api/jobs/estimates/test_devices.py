"""Jobs and the devices that they fit."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from sqlalchemy import text

from api.db.session import Database
from api.jobs import intake
from api.workers import workers
from tests.api.speaking import EXAMINED
from tests.conftest import ROOT, Served
from tests.factories import chat, create_job, upload, worker_facts
from tunery.base_model import describe
from tunery.messages import WorkerFacts
from tunery.plan.memory import ADMITTED
from worker.client import Client

GIB = 1 << 30
EIGHT_BILLION = {
    "architecture": "llama", "layers": 32, "hidden": 4096, "inner": 14336, "heads": 32,
    "kv_heads": 8, "head_dim": 128, "vocab": 128_256, "tied": False,
}  # fmt: skip


def gpu(gib: float) -> WorkerFacts:
    told = {"device": "NVIDIA A10", "memory_bytes": int(gib * GIB)}
    return worker_facts(f"gpu-{gib}").model_copy(update=told)


@pytest.fixture
def big(server: Served) -> str:
    """A registered base of 8 billion parameters, as far as its facts go."""
    facts = describe(ROOT / "models" / "tiny", id_="big").model_dump() | {"shape": EIGHT_BILLION}
    answer = server.http(server.admin_key).post("/v1/admin/models", json=facts)
    assert answer.status_code == 200
    return "big"


def needed(server: Served, job_id: str, compute: str = "bf16") -> int:
    job = server.http().get(f"/v1/fine_tuning/jobs/{job_id}").json()
    return int(job["tunery"]["memory_bytes"][compute])


def test_a_job_waits_for_a_worker_with_enough_memory(
    server: Served, worker: Client, big: str
) -> None:
    large = create_job(server.client, model=big)
    need = needed(server, large.id) / ADMITTED / GIB
    assert 6 < need < 9
    small = create_job(server.client)
    lease = worker.claim(gpu(need - 0.01))
    assert lease
    assert lease.job_id == small.id, "it passes over what it cannot hold"
    assert worker.claim(gpu(need - 0.01)) is None
    lease = worker.claim(gpu(need + 0.01))
    assert lease
    assert lease.job_id == large.id


def test_what_was_measured_of_a_base_counts(server: Served, big: str) -> None:
    by_formula = create_job(server.client, model=big).id
    held = {"token": 20_000_000, "pair": 0}
    row = {"kept": held, "recomputed": held, "one_row": True, "logits": 0}
    facts = describe(ROOT / "models" / "tiny", id_="big").model_dump() | {"shape": EIGHT_BILLION}
    facts |= {"examined": EXAMINED | {"footprints": {"bf16": row}}}
    answer = server.http(server.admin_key).post("/v1/admin/models", json=facts)
    assert answer.json()["examined"]["footprints"]["bf16"] == row
    measured = create_job(server.client, model=big).id
    more = needed(server, measured) - needed(server, by_formula)
    assert more > 10_000_000 * 10, "in a row of some tokens"
    assert needed(server, measured, "fp32") == needed(server, by_formula, "fp32")


def test_a_cpu_needs_the_memory_that_fp32_takes(server: Served, worker: Client, big: str) -> None:
    job = create_job(server.client, model=big)
    enough = [needed(server, job.id, compute) / ADMITTED for compute in ("bf16", "fp32")]
    assert enough[1] > 1.2 * enough[0]
    for memory, claims in ((enough[0] + GIB / 10, False), (enough[1] + GIB / 10, True)):
        told = {"device": "cpu", "memory_bytes": int(memory)}
        lease = worker.claim(worker_facts().model_copy(update=told))
        assert (lease is not None) == claims


def test_memory_that_is_not_known_keeps_no_job_from_a_worker(
    server: Served, worker: Client, big: str, db: Database
) -> None:
    first, second = create_job(server.client, model=big), create_job(server.client, model=big)
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET memory_bytes = NULL WHERE id = :id"), {"id": first.id})
    known = worker.claim(gpu(1))
    unknown = worker.claim(worker_facts().model_copy(update={"memory_bytes": None}))
    assert known
    assert unknown
    assert (known.job_id, unknown.job_id) == (first.id, second.id)


@pytest.mark.parametrize(
    ("asked", "param", "mend"),
    [
        ({"training": {"quantization": "none"}}, "training.quantization", '"nf4"'),
        ({"lora": {"r": 256}}, "lora.r", "lora.r 64"),
    ],
)
def test_what_no_worker_could_hold_is_refused_with_the_setting_and_the_mend(
    server: Served, worker: Client, big: str, asked: dict[str, Any], param: str, mend: str
) -> None:
    worker.heartbeat(gpu(1), [])
    worker.heartbeat(gpu(12), [])
    with pytest.raises(openai.BadRequestError, match=mend) as refused:
        create_job(server.client, model=big, extra_body=asked)
    assert (refused.value.param, refused.value.code) == (param, "does_not_fit")
    assert "The device has 12.0 GiB" in str(refused.value)
    assert server.client.fine_tuning.jobs.list().data == []
    assert create_job(server.client, model=big).status == "queued"


def test_a_job_whose_file_is_checked_later_fails_then_in_the_same_words(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(check_at_once_bytes=1)
    file = upload(server.client)
    job = create_job(server.client, file.id)
    with db.as_control() as tx:
        workers.see(tx, gpu(1))
        report = {
            "ok": True,
            "rows": 12,
            "formats": {"chat": 12},
            "summary": None,
            "duplicates": {"rows": 0},
        }
        intake.finish_check(tx, file.id, report)
    failed = server.client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error
    assert failed.error.code == "does_not_fit"
    assert "The device has 1.0 GiB" in failed.error.message


def test_long_rows_count_and_a_lower_max_length_mends_them(
    server: Served, worker: Client, big: str
) -> None:
    file = upload(server.client, chat("Why?", "Because of the sea. " * 4000).encode())
    plain = create_job(server.client, file.id, model=big)
    cut = create_job(server.client, file.id, model=big, extra_body={"training": {"max_length": 64}})
    assert needed(server, cut.id) < needed(server, plain.id)
    worker.heartbeat(gpu((needed(server, plain.id) - 1000) / ADMITTED / GIB), [])
    with pytest.raises(openai.BadRequestError) as refused:
        create_job(server.client, file.id, model=big)
    assert refused.value.param == "training.max_length"


def test_a_worker_that_has_not_told_its_memory_may_hold_anything(
    server: Served, worker: Client, big: str
) -> None:
    worker.heartbeat(gpu(1), [])
    worker.heartbeat(worker_facts("w2").model_copy(update={"memory_bytes": None}), [])
    assert create_job(server.client, model=big).status == "queued"
