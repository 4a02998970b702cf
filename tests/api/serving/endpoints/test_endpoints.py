"""Models that servers of operators answer for: only with the weights that were trained."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.db.session import Database
from api.serving import engine
from api.serving.endpoints import upstream
from api.serving.endpoints.endpoints import places_of
from api.serving.weights import Weights as Meant
from api.tables import AnsweringEndpoint, ServedModel
from api.webhooks.outbox import EventType
from tests.answering_worker import AnsweringWorker
from tests.api.metrics.test_metrics import scrape
from tests.api.serving.endpoints.conftest import Town, trained
from tests.asking import asking, can_ask
from tests.conftest import BASE
from tests.openai_server import BASE as BASE_WEIGHTS
from tests.openai_server import Weights, made_proof

__all__ = ["can_ask"]

LOAD, CHAT = "/v1/load_lora_adapter", "/v1/chat/completions"


def wait_until(what: Callable[[], Any], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def due_now(db: Database) -> None:
    with db.as_control() as tx:
        for row in (*tx.query(AnsweringEndpoint), *tx.query(ServedModel)):
            row.next_at = row.next_at.replace(year=2020)


def test_a_model_is_loaded_proved_and_then_answers_by_its_name(town: Town) -> None:
    fake = town.start()
    town.add(fake, api_key="sk-theirs")
    assert town.said(temperature=0.5, stop=["x"], max_tokens=5) == f"I am {town.name_there}"
    (loaded,) = fake.asked(LOAD)
    assert loaded["lora_path"] == f"/adapters/{town.name_there}"
    laid = {path.name for path in (town.adapters / town.name_there).iterdir()}
    assert laid == {"adapter_config.json", "adapter_model.safetensors"}
    (asked,) = fake.asked(CHAT)
    assert (asked["temperature"], asked["stop"], asked["max_tokens"]) == (0.5, ["x"], 5)
    assert set(fake.keys) == {"Bearer sk-theirs"}
    assert town.served
    assert town.served["state"] == "verified"
    assert scrape(town.server)["ft_served_models"]["verified",] == 1
    town.said()
    assert len(fake.asked(LOAD)) == 1
    (shown,) = town.admin.get("/v1/admin/endpoints").json()["data"]
    assert shown["has_key"]
    assert "sk-theirs" not in str(shown)
    assert shown["served"][0]["finding"]["forks_as_tuned"] == 12


LIES: dict[str, dict[str, Any]] = {
    "the base under the adapter's name": {"loads_as": BASE_WEIGHTS},
    "another adapter whose name begins alike": {"loads_as": Weights(other=made_proof(2))},
    "adapters of experts dropped": {"loads_as": Weights(share=0.4, noise=0.05)},
    "the head's adapter left out": {"loads_as": Weights(share=0.8, noise=0.02)},
    "another template": {"another_template": True},
    "base weights in what it says": {"loads_as": Weights(goes_on="base")},
}


def test_a_server_that_lies_answers_nobody(town: Town) -> None:
    for lie, settings in LIES.items():
        fake = town.start(**settings)
        endpoint = town.add(fake)
        assert town.refused() == (503, "model_not_verified"), lie
        assert fake.asked(CHAT) == [], lie
        assert town.served, lie
        assert town.served["state"] in {"answers_as_base", "answers_as_other"}, lie
        assert town.served["reason"] in town.ask().json()["error"]["message"], lie
        town.admin.delete(f"/v1/admin/endpoints/{endpoint}")


def test_a_worker_answers_for_a_model_that_a_server_has_not_proved(town: Town) -> None:
    town.add(town.start(loads_as=BASE_WEIGHTS))
    with AnsweringWorker(town.server, only_warm=False, warm_quantization="nf4"):
        assert town.said() == "Hello there."


def test_a_server_that_begins_to_lie_is_found_out_and_the_job_tells_it(
    town: Town, db: Database
) -> None:
    fake = town.start()
    town.add(fake)
    town.said()
    fake.models[town.name_there] = BASE_WEIGHTS
    fake.loads_as = BASE_WEIGHTS
    hook = {"name": "ours", "url": "https://hooks.example.com", "event_types": [EventType.SERVED]}
    assert town.client.post("/v1/webhook_endpoints", json=hook).status_code == 200
    due_now(db)
    wait_until(lambda: (town.served or {})["state"] == "answers_as_base")
    assert town.refused() == (503, "model_not_verified")
    jobs = town.server.client.fine_tuning.jobs
    (event, before) = jobs.list_events(town.job, limit=2).data
    assert event.level == "warn"
    assert "(answers_as_base)" in event.message
    assert "with the trained weights" in before.message
    with db.as_control() as tx:
        (body,) = tx.connection().exec_driver_sql("SELECT body FROM webhook_event").scalars()
    assert '"type":"fine_tuning.job.served"' in body


def test_a_tenant_is_not_told_where_a_server_is(town: Town) -> None:
    fake = town.start(wrong={"/v1/completions": 500})
    town.add(fake)
    for _ in range(2):
        message = town.ask().json()["error"]["message"]
        assert "the server/v1/completions answered with status 500" in message
        assert fake.url not in message


def test_what_a_server_has_forgotten_is_loaded_again(town: Town) -> None:
    fake = town.start()
    town.add(fake)
    town.said()
    del fake.models[town.name_there]
    assert town.said() == f"I am {town.name_there}"
    assert len(fake.asked(LOAD)) == 2


def test_another_server_answers_for_one_that_is_gone(town: Town) -> None:
    first, second = town.start(), town.start()
    town.add(first)
    town.add(second)
    for gone, there in ((first, second), (second, first)):
        gone.wrong, there.wrong = {CHAT: 500}, {}
        assert town.said() == f"I am {town.name_there}"


def test_the_least_used_adapter_makes_room(town: Town, tmp_path: Path) -> None:
    _, other = trained(town.server, tmp_path)
    fake = town.start()
    town.add(fake, max_adapters=1)
    for model in (town.model, other, town.model):
        town.said(model)
        assert len(fake.models) == 2
    assert town.name_there in fake.models
    assert [folder.name for folder in town.adapters.iterdir()] == [town.name_there]


def test_an_adapter_stays_in_the_folder_until_no_server_reads_it(town: Town) -> None:
    first, second = town.start(), town.start()
    ids = [town.add(first), town.add(second)]
    for gone, there in ((first, second), (second, first)):
        gone.wrong, there.wrong = {CHAT: 500}, {}
        town.said()
    laid = town.adapters / town.name_there
    for id_, stays in zip(ids, (True, False), strict=True):
        town.admin.delete(f"/v1/admin/endpoints/{id_}")
        assert laid.is_dir() == stays


def test_a_deleted_model_is_unloaded(town: Town, db: Database) -> None:
    fake = town.start()
    town.add(fake)
    town.said()
    town.client.delete(f"/v1/models/{town.model}")
    assert town.refused() == (404, "model_not_found")
    due_now(db)
    wait_until(lambda: town.name_there not in fake.models)
    wait_until(lambda: not (town.adapters / town.name_there).exists())


def test_two_may_be_the_first_to_ask(town: Town, db: Database) -> None:
    town.add(town.start())
    meant = Meant(base=BASE, job_id=town.job)

    def ask(pause: float) -> str:
        with db.as_control() as tx:
            (place,) = places_of(tx, town.server.settings, town.model, meant)
            time.sleep(pause)
            return place.name

    with ThreadPoolExecutor(2) as pool:
        assert {*pool.map(ask, (0.2, 0.2))} == {town.name_there}


def test_a_base_model_answers_under_the_name_that_the_server_has_for_it(town: Town) -> None:
    fake = town.start(models={"their-base": BASE_WEIGHTS})
    town.add(fake, models={BASE: "their-base"})
    assert town.said(BASE) == "I am their-base"


def test_a_llama_server_answers_for_what_it_was_started_with(town: Town) -> None:
    fake = town.start(speaks="llama_server", models={"any": Weights()})
    town.add(fake, adapters_folder=None, adapters_folder_there=None, models={town.model: "any"})
    assert town.said() == "I am any"
    assert fake.asked(LOAD) == []


def test_a_server_out_of_order_costs_a_refusal_in_words_or_an_end_of_the_stream(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "SILENCE_SECONDS", 0.3)
    fake = town.start(models={BASE: BASE_WEIGHTS})
    town.add(fake)
    for wrong in ("hangs", "redirects", "garbage", 500, 401, 429):
        fake.wrong = {CHAT: wrong}
        answer = town.ask(BASE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "endpoint_away"), wrong
        # What is said of a key that is not taken may have the key in it.
        assert ("No, I will not." in answer.text) == (wrong in {500, 429}), wrong
    for wrong in (
        "cut", "stalls", "endless line", "{not json", '{"choices": 5}', '{"a": ' + "[" * 9_999,
        '{"choices": [{"index": 9, "delta": {"content": "x"}}]}',
    ):  # fmt: skip
        fake.wrong = {CHAT: wrong}
        answer = town.ask(BASE, stream=True)
        assert answer.status_code == 200, wrong
        assert "I am" in answer.text, wrong
        assert "answer_lost" in answer.text, wrong
    fake.wrong = {CHAT: 400}
    answer = town.ask(BASE)
    assert answer.status_code == 400
    assert "No, I will not." in answer.json()["error"]["message"]
    fake.wrong = {}
    assert town.said(BASE) == f"I am {BASE}"
    assert scrape(town.server)["ft_completions_open"][()] == 0


def test_a_server_that_ends_does_not_wait_for_one_that_is_silent(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LAST_SECONDS", 0.1)
    fake = town.start(models={BASE: BASE_WEIGHTS}, wrong={CHAT: "stalls"})
    town.add(fake)
    with asking(town.client) as texts:
        next(texts)
        town.client.post("/v1/end")
        began = time.monotonic()
        assert [*texts] == ["<answer_lost>"]
    assert time.monotonic() < began + 5


def test_only_an_operator_adds_servers_and_adapters_are_for_vllm_alone(town: Town) -> None:
    asked = {"url": "http://127.0.0.1:9"}
    assert town.client.post("/v1/admin/endpoints", json=asked).status_code == 403
    wrong = asked | {"adapters_folder": "/adapters"}
    refused = town.admin.post("/v1/admin/endpoints", json=wrong)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "adapters_folder")
    id_ = town.admin.post("/v1/admin/endpoints", json=asked).json()["id"]
    assert town.admin.delete(f"/v1/admin/endpoints/{id_}").status_code == 200
    assert town.admin.delete(f"/v1/admin/endpoints/{id_}").status_code == 404
