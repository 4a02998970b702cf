from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from sqlalchemy import text

from api.db.session import Database
from api.models import bases
from api.tables import BaseModel, Job
from tests.answering_worker import LOCKS_WAITED_FOR, wait_until
from tests.api.speaking import EXAMINED
from tests.conftest import BASE, ROOT, Served
from tests.factories import another_base, create_job, end_by_hand, run_by_hand, upload
from tunery.base_model import describe, read_config, shape_of
from tunery.states import AttemptEnd


def registration(name: str, folder: Path = ROOT / "models" / "tiny") -> dict[str, object]:
    return describe(folder, id_=name).model_dump()


def test_a_registered_model_is_listed_and_found_even_with_a_slash_in_its_name(
    server: Served,
) -> None:
    answer = server.http(server.admin_key).post("/v1/admin/models", json=registration("org/base"))
    assert answer.status_code == 200
    assert {model.id for model in server.client.models.list()} == {BASE, "org/base"}
    assert server.client.models.retrieve("org/base").id == "org/base"
    raw = httpx.URL(f"{server.url}/v1/models/org/base")
    assert server.http().get(raw).json()["id"] == "org/base"
    known = server.http().get(raw).json()["tunery"]
    assert known | {"bytes": 0, "parameters": 0} == {
        "architecture": "llama", "parameters": 0, "bytes": 0, "context_length": 1024,
        "licence": None, "has_chat_template": True, "methods": ["supervised", "dpo"],
    }  # fmt: skip
    assert known["bytes"] > known["parameters"] > 0
    with pytest.raises(openai.NotFoundError) as refused:
        server.client.models.retrieve("org/none")
    assert refused.value.code == "model_not_found"


def test_a_name_keeps_its_revision_and_files(server: Served) -> None:
    admin = server.http(server.admin_key)
    again = registration(BASE)
    assert admin.post("/v1/admin/models", json=again | {"source": "/moved"}).status_code == 200
    others: list[dict[str, object]] = [
        {"revision": "another"}, {"context_length": 7}, {"files": []}
    ]  # fmt: skip
    for other in others:
        answer = admin.post("/v1/admin/models", json=again | other)
        assert answer.status_code == 409
        assert "another id" in answer.json()["error"]["message"]


def test_a_model_that_was_registered_before_shapes_were_is_given_one(server: Served) -> None:
    admin = server.http(server.admin_key)
    facts = registration("older")
    without = {name: value for name, value in facts.items() if name != "shape"}
    assert admin.post("/v1/admin/models", json=without).json()["shape"] is None
    assert admin.post("/v1/admin/models", json=facts).json()["shape"] == facts["shape"]
    assert admin.post("/v1/admin/models", json=without).json()["shape"] == facts["shape"]
    shape = shape_of(read_config(ROOT / "models" / "tiny"), {}).model_copy(update={"layers": 9})
    other = facts | {"shape": shape.model_dump()}
    assert admin.post("/v1/admin/models", json=other).status_code == 409


def test_what_was_found_of_a_family_stays_until_it_is_examined_again_or_repaired(
    server: Served, db: Database
) -> None:
    admin, facts = server.http(server.admin_key), registration("base")

    def register(**examined: object) -> object:
        return admin.post("/v1/admin/models", json=facts | examined).json().get("examined")

    other = EXAMINED | {"way": "padded"}
    assert register() is None
    assert [register(examined=EXAMINED), register()] == [EXAMINED, EXAMINED]
    assert register(examined=other) == other
    with db.as_control() as tx:
        tx.get_one(BaseModel, "base").broken = "its weights are bad"
    assert register() is None


def test_what_is_known_for_ollama_is_what_was_found_last(server: Served) -> None:
    admin, facts = server.http(server.admin_key), registration("base")
    for found in ("it counts", "it adds up", None):
        answer = admin.post("/v1/admin/models", json=facts | {"not_for_ollama": found})
        assert (answer.status_code, answer.json().get("not_for_ollama")) == (200, found)


def test_facts_that_cannot_be_stored_are_refused(server: Served) -> None:
    admin = server.http(server.admin_key)
    for odd in ({"hidden_size": 10**30}, {"source": "a\x00b"}):
        answer = admin.post("/v1/admin/models", json=registration("odd") | odd)
        assert answer.status_code == 400


def test_a_base_model_is_removed_once_no_job_and_no_endpoint_names_it(
    server: Served, db: Database
) -> None:
    admin = server.http(server.admin_key)

    def refusal(name: str) -> str:
        answer = admin.delete(f"/v1/admin/models/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "base_model_in_use")
        return str(answer.json()["error"]["message"])

    job = create_job(server.client)
    assert "jobs and exports that name it (1, " in refusal(BASE)
    server.client.fine_tuning.jobs.cancel(job.id)
    server.http().delete(f"/v1/fine_tuning/jobs/{job.id}")
    assert "or were deleted" in refusal(BASE)
    done = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, done.id)
        end_by_hand(tx, done.id, AttemptEnd.SUCCEEDED)
        assert tx.get_one(Job, done.id).fine_tuned_model
    assert "the tuned models that were made from it (1)" in refusal(BASE)

    other = another_base(db, "org/another")
    ways = {"bases": [other]}, {"models": {other: "theirs"}, "bases": ["org/*"]}
    for way in ways:
        asked = {"url": "http://127.0.0.1:9"} | way
        endpoint = admin.post("/v1/admin/endpoints", json=asked).json()["id"]
        assert f"DELETE /v1/admin/endpoints/{endpoint}" in refusal(other)
        admin.delete(f"/v1/admin/endpoints/{endpoint}")
    assert admin.delete(f"/v1/admin/models/{other}").json() == {
        "id": other, "object": "model", "deleted": True,
    }  # fmt: skip
    assert other not in {model.id for model in server.client.models.list()}
    gone = admin.delete(f"/v1/admin/models/{other}")
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "model")


def test_a_job_that_comes_while_its_base_model_is_removed_is_refused_in_words(
    server: Served, db: Database
) -> None:
    other, file = another_base(db), upload(server.client)
    with ThreadPoolExecutor() as threads:
        with db.as_control() as tx:
            bases.remove(tx, other)
            asked = threads.submit(create_job, server.client, file.id, model=other)
            wait_until(lambda: bool(tx.scalar(text(LOCKS_WAITED_FOR))))
        with pytest.raises(openai.NotFoundError, match="No model 'another'"):
            asked.result()
