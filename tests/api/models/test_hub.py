"""Base models registered by their names on a hub: the unmodified `huggingface_hub` asks a server of
its protocol.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, NotFoundError
from sqlalchemy import text
from typer.testing import CliRunner

from api.db.session import Database
from api.models import hub as registration
from api.models import hub_reader
from api.tables import BaseModel
from api.workers import workers
from tests.conftest import BASE, Served
from tests.factories import create_job, data_set, upload, worker_facts
from tests.hub import COMMIT, TINY, Hub, Repo, files_of, serve_hub
from tunery import hub as hub_words
from tunery.base_model import describe
from tunery.cli.main import app
from tunery.errors import HubAway, InvalidRequest, NotFound
from tunery.facts import BaseModelFacts

NAME = "acme/tiny"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        served.repos[NAME] = Repo()
        yield served


@pytest.fixture
def server(serve_with: Callable[..., Served], hub: Hub) -> Served:
    return serve_with(**on(hub))


def on(hub: Hub) -> dict[str, Any]:
    """The settings of a service that asks it."""
    return {"hf_endpoint": hub.url, "hf_hub_offline": False}


def register(server: Served, name: str = NAME, **asked: Any) -> httpx.Response:
    admin = server.http(server.admin_key)
    return admin.post("/v1/admin/models", json={"hub": name, **asked})


def refusal(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def nothing_is_left(server: Served, db: Database) -> bool:
    with db.as_control() as tx:
        known = list(tx.scalars(text("SELECT id FROM base_model")))
    return known == [BASE] and not list(server.settings.folder.glob("tokenizers/*"))


def test_a_model_is_registered_from_its_small_files_and_the_headers_of_its_weights(
    server: Served,
) -> None:
    answer = register(server)
    assert answer.status_code == 200, answer.text
    facts = answer.json()
    assert (facts["id"], facts["revision"], facts["source"]) == (NAME, COMMIT, f"hf://{NAME}")
    assert facts["licence"] == "apache-2.0"
    of_folder = describe(TINY, id_=NAME).model_dump(mode="json")
    same = set(of_folder) - {"revision", "source", "licence", "not_for_ollama"}
    assert {name: facts[name] for name in same} == {name: of_folder[name] for name in same}
    assert register(server, revision="main").json() == facts, "twice is once"
    file = upload(server.client)
    report = server.http().get(f"/v1/files/{file.id}/report", params={"model": NAME}).json()
    assert report["tokens"]["measured_rows"] == 12
    assert create_job(server.client, file.id, model=NAME).status == "queued"


def test_of_large_weights_the_headers_alone_are_fetched(server: Served, hub: Hub) -> None:
    files = files_of(TINY)
    weights = files.pop("model.safetensors")
    length = int.from_bytes(weights[:8], "little")
    tensors = json.loads(weights[8 : 8 + length])
    tensors.pop("__metadata__", None)
    half = len(tensors) // 2
    shards = {"model-1.safetensors": [*tensors][:half], "model-2.safetensors": [*tensors][half:]}
    for shard, names in shards.items():
        mine, end = {}, 0
        for name in names:
            start, stop = tensors[name]["data_offsets"]
            mine[name] = tensors[name] | {"data_offsets": [end, end + stop - start]}
            end += stop - start
        header = json.dumps(mine).encode() + b" " * 200_000
        files[shard] = len(header).to_bytes(8, "little") + header + bytes(end) + bytes(0)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    # Twice the weights, in the format of another program.
    files["consolidated.safetensors"] = weights
    hub.repos[NAME] = repo = Repo(files)
    repo.sent = {shard: files[shard][:210_000] for shard in shards}
    facts = register(server).json()
    named = {file["name"]: file for file in facts["files"]}
    assert set(shards) <= set(named)
    assert "consolidated.safetensors" not in named
    for shard in shards:
        assert named[shard]["sha256"] == repo.digest(shard)
        assert named[shard]["bytes"] == len(files[shard])


def test_a_renamed_model_keeps_the_name_asked_for_and_is_fetched_by_its_new_one(
    server: Served, hub: Hub
) -> None:
    hub.renamed["old/name"] = NAME
    facts = register(server, "old/name").json()
    assert (facts["id"], facts["source"]) == ("old/name", f"hf://{NAME}")
    named = register(server, id="tiny-from-hub", licence="MIT").json()
    assert (named["id"], named["licence"]) == ("tiny-from-hub", "MIT")


def test_the_command_takes_a_folder_or_a_name_on_the_hub(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.admin_key)

    def add(*words: str) -> str:
        output: str = CliRunner().invoke(app, ["models", "add", *words]).output
        return output

    assert f"{NAME} at revision {COMMIT}: llama" in add(f"{NAME}@main")
    assert "tiny at revision" in add(NAME, "--name", "tiny")
    for words, why in (
        ((f"{NAME}@v9",), "has no such revision"),
        ((f"{NAME}@main", "--revision", "main"), "Leave one out."),
        (("no/such/folder",), "There is no folder no/such/folder"),
        ((str(TINY),), "with --name NAME"),
    ):
        assert why in add(*words).replace("\n", " ")


def test_a_gated_model_needs_the_token_which_is_told_nobody(
    serve_with: Callable[..., Served], hub: Hub, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.repos[NAME].gated = True
    for token, why in ((None, "HF_TOKEN is not set"), ("hf_wrong", "has no access")):
        closed = serve_with(**on(hub), hf_token=secret(token))
        answer = register(closed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_gated")
        assert f"accepts its licence on {hub.url}/{NAME}" in refusal(answer)
        assert why in refusal(answer)
        assert nothing_is_left(closed, db)
    opened = serve_with(**on(hub), hf_token=secret(Hub.token))
    answer = register(opened)
    assert answer.status_code == 200
    assert Hub.token not in caplog.text + answer.text


def secret(token: str | None) -> Any:
    from pydantic import SecretStr

    return SecretStr(token) if token else None


def without(*names: str) -> dict[str, bytes]:
    return {name: content for name, content in files_of(TINY).items() if name not in names}


def with_config(**settings: object) -> dict[str, bytes]:
    config = json.loads((TINY / "config.json").read_text())
    return files_of(TINY) | {"config.json": json.dumps(config | settings).encode()}


def with_index(name: str) -> dict[str, bytes]:
    index = json.dumps({"weight_map": {"model.embed_tokens.weight": name}}).encode()
    return without("model.safetensors") | {"model.safetensors.index.json": index}


WEIGHTS = (TINY / "model.safetensors").read_bytes()
UNUSABLE: dict[str, tuple[dict[str, bytes], str]] = {
    "no safetensors": (
        without("model.safetensors") | {"pytorch_model.bin": b"pickle"},
        "choose a model with safetensors",
    ),
    "its own code": (with_config(auto_map={"AutoModel": "m.py"}), "own code (auto_map)"),
    "a tokenizer that is none": (
        files_of(TINY) | {"tokenizer.json": b"{}"},
        "tokenizer or chat template that cannot be used",
    ),
    "no tokenizer": (without("tokenizer.json"), f"{NAME} has no tokenizer.json"),
    "a config that breaks its reader": (
        files_of(TINY) | {"config.json": b"[" * 100_000},
        f"The files of {NAME} cannot be read (RecursionError)",
    ),
    "no config": (without("config.json"), f"{NAME} has no config.json"),
    "quantized": (with_config(quantization_config={"bits": 4}), "quantized already"),
    "a name out of the folder": (with_index("../../model.safetensors"), "does not have"),
    "a file that is not there": (with_index("model-9.safetensors"), "does not have"),
    "weights cut off": (
        files_of(TINY) | {"model.safetensors": WEIGHTS[: len(WEIGHTS) // 2]},
        "not whole",
    ),
    "weights that are none": (
        files_of(TINY) | {"model.safetensors": b"GGUF" + bytes(99)},
        "is no safetensors file",
    ),
}


def read(hub: Hub, folder: Path) -> BaseModelFacts:
    """In this process: each of the API's own takes most of a second to start."""
    order = {"repository": NAME, "revision": None, "id": None, "licence": None}
    return hub_reader.read(order | {"endpoint": hub.url, "token": None, "folder": str(folder)})


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_trained_is_refused_in_words(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(hub_reader, "limit_files", lambda _: None)
    files, words = UNUSABLE[case]
    hub.repos[NAME] = Repo(files)
    with pytest.raises(InvalidRequest) as refused:
        read(hub, tmp_path)
    assert words in refused.value.message
    assert str(tmp_path) not in refused.value.message


def test_a_refusal_is_passed_on_and_leaves_nothing(server: Served, hub: Hub, db: Database) -> None:
    files, words = UNUSABLE["a tokenizer that is none"]
    hub.repos[NAME] = Repo(files)
    answer = register(server)
    assert answer.status_code == 400
    assert words in refusal(answer)
    assert "/tmp" not in refusal(answer)  # noqa: S108
    assert nothing_is_left(server, db)


def test_a_job_may_name_a_model_of_the_hub_that_the_operator_allows(
    serve_with: Callable[..., Served], hub: Hub
) -> None:
    closed = serve_with(**on(hub))
    refused = {}
    for name, server in ((NAME, closed), (NAME, serve_with(**on(hub), hub_models=("other/*",)))):
        with pytest.raises(NotFoundError) as error:
            create_job(server.client, model=name)
        refused[server.url] = error.value.code
    assert set(refused.values()) == {"model_not_found"}
    assert not hub.asked
    opened = serve_with(**on(hub), hub_models=("acme/*", "*/gemma-?"))
    job = create_job(opened.client, model=NAME)
    assert (job.status, job.model) == ("queued", NAME)
    assert (job.model_extra or {})["tunery"]["base_revision"] == COMMIT
    asked = hub.asked.total()
    hub.repos[NAME].commit = "c" * 40
    again = create_job(opened.client, model=NAME)
    assert (again.model_extra or {})["tunery"]["base_revision"] == COMMIT, "it is pinned"
    assert hub.asked.total() == asked
    entries = opened.http(opened.admin_key).get("/v1/admin/audit").json()["data"]
    assert [one["subject"] for one in entries if one["action"] == "model.register"] == [NAME]
    hub.repos["acme/quantized"] = Repo(UNUSABLE["quantized"][0])
    for name, code in (("acme/none", "model_not_found"), ("acme/quantized", "model_refused")):
        with pytest.raises(APIStatusError) as unusable:
            create_job(opened.client, model=name)
        assert (unusable.value.code, unusable.value.param) == (code, "model")
    asked = hub.asked.total()
    for name in ("acme", "acme/../x", "ft:tunery-tiny:default::abc12345"):
        with pytest.raises(NotFoundError):
            create_job(opened.client, model=name)
    assert hub.asked.total() == asked


def test_an_estimate_looks_up_a_model_that_a_job_may_name_and_registers_none(
    serve_with: Callable[..., Served], hub: Hub, db: Database
) -> None:
    asked = {"model": NAME, "training_file": ""}

    def estimate(server: Served) -> Any:
        asked["training_file"] = upload(server.client, data_set(20)).id
        return server.http().post("/v1/fine_tuning/estimate", json=asked)

    assert estimate(serve_with(**on(hub))).json()["error"]["code"] == "model_not_found"
    assert not hub.asked
    opened = serve_with(**on(hub), hub_models=("acme/*",))
    with db.as_control() as tx:
        workers.see(tx, worker_facts())
    for _ in range(2):
        found = estimate(opened).json()
        assert (found["model"], found["rows"]) == (NAME, 20)
        (device,) = found["devices"]
        assert device["fits"], device["reason"]
    with db.as_control() as tx:
        assert tx.get(BaseModel, NAME) is None


def test_what_is_not_on_the_hub_is_refused_in_words(server: Served, hub: Hub, db: Database) -> None:
    absent = register(server, "acme/none")
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "model_not_found")
    assert f"{hub.url} has no model acme/none" in refusal(absent)
    revision = register(server, revision="v9")
    assert (revision.status_code, revision.json()["error"]["param"]) == (404, "revision")
    before = hub.asked.total()
    for odd in ("../../etc", "a/b/c", "acme/ti ny", "http://evil/x", "acme/x--y", "", "a" * 97):
        answer = register(server, odd)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "hub"), odd
    for odd in ("../../main", "a b", "refs//x", ""):
        assert register(server, revision=odd).status_code == 400
    assert register(server, id="with/slash").status_code == 400
    assert hub.asked.total() == before, "the hub is not asked about such names"
    assert nothing_is_left(server, db)


@pytest.mark.parametrize(
    ("status", "html", "kind", "words"),
    [
        (429, False, HubAway, "answers 429 (too many requests)"),
        (503, False, HubAway, "answers 503"),
        (401, False, NotFound, "status 401"),
        (None, True, HubAway, "does not answer as a model hub does"),
    ],
)
def test_a_hub_in_trouble_is_told_from_a_model_at_fault(
    hub: Hub, tmp_path: Path, status: int | None, html: bool, kind: type[Exception], words: str
) -> None:
    hub.status, hub.html = status, html
    with pytest.raises(Exception) as trouble:  # noqa: PT011 - whatever the hub's library raises
        read(hub, tmp_path)
    told = hub_words.in_words(trouble.value, NAME, hub.url, has_token=False)
    assert isinstance(told, kind)
    assert words in told.message


def test_a_hub_that_is_not_there_or_hangs_keeps_nobody_waiting(
    serve_with: Callable[..., Served], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = register(serve_with(hf_endpoint="http://127.0.0.1:1", hf_hub_offline=False))
    assert (away.status_code, away.json()["error"]["code"]) == (503, "hub_away")
    assert "does not answer (ConnectError)" in refusal(away)
    monkeypatch.setattr(registration, "HUB_SECONDS", 3)
    hub.flows.clear()
    files = files_of(TINY)
    files["tokenizer.json"] += b" " * (1 << 20)
    hub.repos[NAME] = Repo(files)
    hangs = register(serve_with(**on(hub)))
    assert "took more than 3 s" in refusal(hangs)


def test_an_offline_service_asks_nobody(serve_with: Callable[..., Served], hub: Hub) -> None:
    answer = register(serve_with(hf_endpoint=hub.url))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "hub_offline")
    assert not hub.asked
