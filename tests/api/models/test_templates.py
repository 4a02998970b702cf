"""The chat template that a base without one is given, and what becomes of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from typer.testing import CliRunner, Result

from api.db.session import Database
from api.tables import BaseModel, Job
from tests.conftest import ROOT, Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload
from tunery.base_model import describe
from tunery.cli import examine
from tunery.cli.main import app
from tunery.data.named_templates import NAMED
from tunery.states import AttemptEnd

ALPACA = b"\n".join(
    json.dumps({"instruction": f"Say {n}.", "input": "", "output": f"{n}."}).encode()
    for n in range(12)
)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A base's folder without a template."""
    folder = tmp_path / "bare"
    shutil.copytree(ROOT / "models" / "tiny", folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def register(server: Served, folder: Path, **more: Any) -> Any:
    facts = describe(folder, id_="bare").model_dump() | more
    return server.http(server.admin_key).post("/v1/admin/models", json=facts)


def spec_of(db: Database, job: FineTuningJob) -> dict[str, Any]:
    with db.as_control() as tx:
        return tx.get_one(Job, job.id).spec or {}


def extras(job: FineTuningJob) -> dict[str, Any]:
    found: dict[str, Any] = (job.model_extra or {})["tunery"]
    return found


def test_a_base_keeps_the_template_that_it_is_registered_with(
    server: Served, db: Database, bare: Path
) -> None:
    assert register(server, bare, chat_template="ChatML").json()["chat_template"] == NAMED["chatml"]
    assert register(server, bare).status_code == 200, "the same again"
    job = create_job(server.client, model="bare")
    assert spec_of(db, job)["chat_template"] == NAMED["chatml"]
    assert extras(job)["training"]["chat_template"] == "chatml"
    assert extras(job)["reasons"]["chat_template"] == "bare is registered with it"
    other = {"training": {"chat_template": "vicuna"}}
    job = create_job(server.client, model="bare", extra_body=other)
    assert spec_of(db, job)["chat_template"] == NAMED["vicuna"]
    for wrong in ("wizard", "{% if %}"):
        refused = register(server, bare, chat_template=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template")


def test_a_job_that_goes_on_from_a_tuned_model_has_its_template(
    server: Served, db: Database, bare: Path
) -> None:
    register(server, bare)
    job = create_job(
        server.client, model="bare", extra_body={"training": {"chat_template": "phi3"}}
    )
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    tuned = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert tuned
    assert spec_of(db, create_job(server.client, model=tuned))["chat_template"] == NAMED["phi3"]


def test_alpacas_rows_have_alpacas_prompt_on_a_base_without_a_template(
    server: Served, db: Database, bare: Path
) -> None:
    register(server, bare)
    file = upload(server.client, ALPACA)
    job = create_job(server.client, file.id, model="bare")
    assert spec_of(db, job)["chat_template"] == NAMED["alpaca"]
    assert any("The chat template is Alpaca's" in said for said in extras(job)["warnings"])
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        create_job(server.client, model="bare")


def add(server: Served, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> Result:
    """As an operator runs it."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.admin_key)
    monkeypatch.setattr(examine, "NEEDED", ("not_installed",))  # it takes seconds
    return CliRunner().invoke(app, ["models", "add", str(folder), "--name", "bare", *words])


def test_control_tokens_that_the_base_does_not_have_are_said(
    server: Served, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server, monkeypatch, bare)
    for template, warned in (("llama3", True), ("chatml", False)):
        asked = {"training": {"chat_template": template}}
        job = create_job(server.client, model="bare", extra_body=asked)
        said = " ".join(extras(job)["warnings"] or [])
        assert ("`<|start_header_id|>`, `<|end_header_id|>`" in said) == warned


def test_the_command_line_gives_a_template_by_name_or_file(
    server: Served, db: Database, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = add(server, monkeypatch, bare, "--chat-template", "llama3")
    assert (done.exit_code, "`<|start_header_id|>`" in done.output) == (0, True), done.output
    own = bare.parent / "own.jinja"
    own.write_text("{{ messages[0].content }}")
    assert add(server, monkeypatch, bare, "--chat-template", str(own)).exit_code == 0
    with db.as_control() as tx:
        assert tx.get_one(BaseModel, "bare").chat_template == "{{ messages[0].content }}"
    assert add(server, monkeypatch, bare, "--chat-template", "wizard").exit_code == 1
