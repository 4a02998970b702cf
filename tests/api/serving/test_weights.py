"""Which weights a worker is given to answer with, and what cannot answer."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import text

from api.db.session import Database
from tests.answering_worker import AnsweringWorker, wait_until
from tests.api.models.test_tuned import share, train, tuned
from tests.api.serving.test_answering import open_rows
from tests.api.speaking import ADAPTER, MODEL, finish, send, succeeded
from tests.asking import ask_all, can_ask
from tests.conftest import BASE, Served
from tests.factories import another_base, create_job
from tunery.base_model import revision_of
from tunery.completions import CompletionLease
from tunery.facts import STORED
from worker.client import Client

__all__ = ["can_ask", "tuned"]


def lent(server: Served, http: httpx.Client | None = None, **question: Any) -> CompletionLease:
    """What a worker is given that answers the question."""
    with AnsweringWorker(server) as answering:
        assert ask_all(http or server.http(), **question) == "Hello there."
    (lease,) = answering.leases
    return lease


def test_a_tuned_model_and_its_checkpoint_answer_with_their_adapters_also_where_shared(
    server: Served, worker: Client, db: Database, tuned: FineTuningJob, tmp_path: Path
) -> None:
    model = tuned.fine_tuned_model or ""
    own = lent(server, model=model)
    assert (own.base_model.id, own.quantization, own.double_quant) == (BASE, "none", True)
    assert own.adapter
    assert {file.name: file.bytes for file in own.adapter.files} == {
        name: len(ADAPTER[name]) for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    kept = lent(server, model=f"{model}:ckpt-step-3")
    assert kept.adapter
    path = tmp_path / "weights"
    (file,) = (one for one in kept.adapter.files if one.name.endswith(".safetensors"))
    worker.download(file, path, patience=0)
    assert path.read_bytes() == b"kept"
    other = share(server, db, model)
    http = server.http(other.api_key)
    assert lent(server, http, model=model).adapter
    unknown = http.post("/v1/ask", json={"model": f"{model}:ckpt-step-3"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_whole_model_answers_as_a_base_of_its_own_and_its_checkpoints_do_not(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = create_job(server.client, extra_body={"training": {"finetuning_type": "full"}})
    lease = train(worker, tmp_path, steps=(3,), finishes=False)
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, MODEL)))
    name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    given = lent(server, model=name)
    facts = given.base_model
    assert (facts.id, facts.source, given.adapter) == (job.id, STORED, None)
    assert facts.revision == revision_of(facts.files)
    names = ["config.json", "manifest.json", "model.safetensors"]
    assert sorted(file.name for file in given.base_files) == names
    refused = server.http().post("/v1/ask", json={"model": f"{name}:ckpt-step-3"})
    assert refused.json()["error"]["code"] == "model_cannot_answer"
    assert "checkpoint of a whole model" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("architecture = 'modernbert'", "is an encoder"),
        ("has_chat_template = false", "has no chat template"),
        ("broken = 'Bad.'", "its base model another is broken: Bad."),
    ],
)
def test_a_base_that_gives_no_answers_is_refused_in_words(
    server: Served, db: Database, fault: str, words: str
) -> None:
    other = another_base(db)
    with db.as_control() as tx:
        tx.execute(text(f"UPDATE base_model SET {fault} WHERE id = 'another'"))  # noqa: S608
    refused = server.http().post("/v1/ask", json={"model": other})
    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]


def test_a_form_that_the_engine_does_not_keep_to_is_refused(server: Served) -> None:
    refused = server.http().post("/v1/ask", json={"response_format": {"type": "json_object"}})
    assert refused.json()["error"]["param"] == "response_format"


def test_a_model_that_is_deleted_while_its_question_waits_is_told(
    server: Served, db: Database, tuned: FineTuningJob
) -> None:
    model, base = tuned.fine_tuned_model or "", another_base(db)
    with ThreadPoolExecutor() as threads:
        waiting = [
            threads.submit(server.http().post, "/v1/ask", json={"model": name})
            for name in (model, base)
        ]
        wait_until(lambda: open_rows(db) == 2)
        server.client.models.delete(model)
        server.http(server.admin_key).delete(f"/v1/admin/models/{base}").raise_for_status()
        with AnsweringWorker(server):
            refused = [asked.result().json()["error"]["code"] for asked in waiting]
    assert refused == ["model_not_found"] * 2
