"""The token report on a file for a base model, and the tokenizer that it needs."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import httpx
import openai
import psutil
import pytest
from anyio import to_thread
from typer.testing import CliRunner

from api.admin import create_key
from api.db.session import Database
from api.files import tokens
from tests.conftest import BASE, ROOT, Served
from tests.factories import chat, create_job, data_set, end_by_hand, run_by_hand, upload
from tunery.base_model import describe
from tunery.cli import examine
from tunery.cli.main import app
from tunery.data import ollama
from tunery.states import AttemptEnd

TINY = ROOT / "models" / "tiny"


@pytest.fixture
def add_model(server: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], str]:
    """`tunery models add`, as an operator runs it; returns what it printed."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.admin_key)
    monkeypatch.setattr(examine, "NEEDED", ("not_installed",))  # it takes seconds

    def add(folder: Path, name: str) -> str:
        output: str = CliRunner().invoke(app, ["models", "add", str(folder), "--name", name]).output
        return output

    return add


def report(server: Served, file_id: str, **asked: Any) -> httpx.Response:
    return server.http().get(f"/v1/files/{file_id}/report", params=asked)


def test_a_file_is_counted_for_a_model_as_soon_as_its_tokenizer_is_there(
    server: Served, add_model: Callable[[Path, str], str]
) -> None:
    file = upload(server.client, data_set(12))
    assert "tokens" not in report(server, file.id).json()
    missing = report(server, file.id, model=BASE)
    error = missing.json()["error"]
    assert (missing.status_code, error["code"]) == (409, "tokenizer_missing")
    assert f"`tunery models add FOLDER --name {BASE}`" in error["message"]
    assert f"{BASE} at revision" in add_model(TINY, BASE)
    assert f"{BASE} at revision" in add_model(TINY, BASE), "twice is once"
    found = report(server, file.id, model=BASE).json()
    assert (found["ok"], found["rows"]) == (True, 12)
    counted = found["tokens"]
    assert (counted["model"], counted["measured_rows"], counted["sampled"]) == (BASE, 12, False)
    assert "<|im_start|>user\nWhat is 0 and one?" in counted["preview"][0]["segments"][0]["text"]
    assert {"text": "It is 1.<|im_end|>", "trained": True} in counted["preview"][0]["segments"]
    short = report(server, file.id, model=BASE, max_length=20).json()["tokens"]
    assert (short["max_length"], short["cut"]["rows"] > 0) == (20, True)


def test_a_report_that_cannot_have_tokens_says_why(
    server: Served, add_model: Callable[[Path, str], str], db: Any
) -> None:
    add_model(TINY, BASE)
    file, faulty = upload(server.client), upload(server.client, b"{")
    for asked, param in (
        ({"model": "none"}, "model"),
        ({"max_length": 10}, "model"),
        ({"model": BASE, "max_length": 7}, "max_length"),
        ({"model": BASE, "max_length": 10**6}, "max_length"),
    ):
        refused = report(server, file.id, **asked)
        assert refused.status_code == (404 if "none" in asked.values() else 400)
        assert refused.json()["error"]["param"] == param
    found = report(server, faulty.id, model=BASE).json()
    assert (found["ok"], "tokens" in found) == (False, False)
    job = create_job(server.client, file.id)
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    tuned = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert report(server, file.id, model=tuned).json()["tokens"]["model"] == BASE


def test_a_file_that_is_not_checked_yet_is_not_counted(
    serve_with: Callable[..., Served],
) -> None:
    server = serve_with(check_at_once_bytes=1)
    waiting = report(server, upload(server.client).id, model=BASE)
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (409, "file_not_checked")


def test_only_the_registered_files_of_a_tokenizer_are_taken(server: Served) -> None:
    put = partial(server.http(server.admin_key).put, params={"model": BASE})
    good = (TINY / "tokenizer_config.json").read_bytes()
    other = put("/v1/admin/models/tokenizer_config.json", content=good[:-1] + b" ")
    assert (other.status_code, "registered with" in other.text) == (400, True)
    assert put("/v1/admin/models/tokenizer_config.json", content=good + b" ").status_code == 413
    for name in ("model.safetensors", "config.json"):
        assert put(f"/v1/admin/models/{name}", content=good).status_code == 404
    assert put("/v1/admin/models/..%2F..%2Fx", content=good).status_code == 405
    nobody = put("/v1/admin/models/tokenizer.json", content=good, params={"model": "none"})
    assert (nobody.status_code, nobody.json()["error"]["param"]) == (404, "model")
    assert not list(server.settings.folder.glob("*/*/*")), "nothing was kept"
    assert put("/v1/admin/models/tokenizer_config.json", content=good).status_code == 204


def test_a_template_that_does_not_end_is_ended_and_keeps_no_other_project_waiting(
    server: Served,
    db: Database,
    add_model: Callable[[Path, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ollama, "SECONDS", 0.5)
    folder = tmp_path / "hostile"
    shutil.copytree(TINY, folder)
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop * 9)
    assert describe(folder, id_="hostile").has_chat_template
    add_model(folder, "hostile")
    file = upload(server.client, chat().encode())
    add_model(TINY, BASE)
    neighbour = server.client_for(create_key(db, "neighbour", ["read", "write"]))
    theirs = upload(neighbour, data_set(12))
    in_subprocess, begun, answered = tokens.in_subprocess, Semaphore(0), Event()

    async def counted(*given: Any) -> dict[str, Any]:
        """The hostile ones begin when the neighbour has its answer, however long that takes."""
        if given[-1][1] != 12:
            begun.release()
            await to_thread.run_sync(answered.wait)
        return await in_subprocess(*given)

    monkeypatch.setattr(tokens, "in_subprocess", counted)
    with ThreadPoolExecutor(3) as pool:  # two of a project are made at once
        asked = [pool.submit(report, server, file.id, model="hostile") for _ in range(3)]
        assert all(begun.acquire(timeout=120) for _ in range(2))
        path = f"/v1/files/{theirs.id}/report"
        answer = server.http(neighbour.api_key).get(path, params={"model": BASE})
        monkeypatch.setattr(tokens, "COUNT_SECONDS", 1)
        answered.set()
        assert answer.json()["tokens"]["measured_rows"] == 12
        answers = [each.result() for each in asked]
    assert {each.status_code for each in answers} == {409}
    assert answers[0].json()["error"]["code"] == "tokens_not_counted"
    assert "chat template takes too long" in answers[0].json()["error"]["message"]
    assert answers[0].headers["x-should-retry"] == "false"
    left = [each.cmdline() for each in psutil.Process().children(recursive=True)]
    assert not any("tunery.data.tokens" in words for words in left)


def test_a_job_whose_template_would_lose_too_much_of_a_file_is_refused_before_it_is_created(
    server: Served, add_model: Callable[[Path, str], str]
) -> None:
    add_model(TINY, BASE)
    named = {"role": "user", "name": "Anna", "content": "Who am I?"}
    answer = {"role": "assistant", "content": "Anna."}
    row = json.dumps({"messages": [named, answer]}).encode()
    file = upload(server.client, data_set(12) + b"\n" + row)
    with pytest.raises(openai.BadRequestError) as refused:
        create_job(server.client, file.id)
    assert (refused.value.code, refused.value.param) == ("rows_lost", "training_file")
    assert "1 of 13 rows of the training file" in refused.value.message
    assert "names, in 1 of 13 rows (line 13)" in refused.value.message
    assert not server.client.fine_tuning.jobs.list().data
    with pytest.raises(openai.BadRequestError, match="chat template is broken") as broken:
        create_job(server.client, file.id, extra_body={"training": {"chat_template": "{% if %}"}})
    assert broken.value.param == "training.chat_template"
    with pytest.raises(openai.BadRequestError, match="take one of alpaca, chatml"):
        create_job(server.client, file.id, extra_body={"training": {"chat_template": "wizard"}})
    allowed = {"training": {"max_lost_share": 0.1}}
    job = create_job(server.client, file.id, extra_body=allowed)
    assert job.status == "queued"
    assert (job.model_extra or {})["tunery"]["training"]["max_lost_share"] == 0.1
