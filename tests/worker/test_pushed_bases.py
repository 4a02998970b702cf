"""A base model that is pushed into the service's storage, and fetched from there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.db.session import Database
from api.storage.folder import Folder
from api.upkeep import leftovers
from tests.conftest import ROOT, Served
from tests.factories import create_job, upload
from tests.hub import files_of
from tests.worker.conftest import Work, retrieve, said
from tunery.base_model import describe
from tunery.cli import examine
from tunery.cli.main import app

NAME = "tiny-pushed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT / "models" / "tiny", tmp_path / "tiny")


@pytest.fixture
def worker(server: Served, tmp_path: Path) -> Iterator[Work]:
    made = Work(server, tmp_path / "work", "finish")
    yield made
    made.close()


def push(server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.admin_key)
    monkeypatch.setattr(examine, "NEEDED", ("not_installed",))  # it takes seconds
    words = ["models", "push", str(folder), "--name", NAME]
    output: str = CliRunner().invoke(app, words).output
    return output


def test_a_pushed_folder_is_fetched_by_workers_that_share_nothing(
    server: Served, worker: Work, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_of_push = push(server, folder, monkeypatch)
    assert "Sending model.safetensors, 281,240 bytes" in said_of_push
    assert f"{NAME} at revision sha256-" in said_of_push
    assert "Sending" not in push(server, folder, monkeypatch), "twice is once"
    files = files_of(folder)
    shutil.rmtree(folder)
    file = upload(server.client)
    report = server.http().get(f"/v1/files/{file.id}/report", params={"model": NAME}).json()
    assert report["tokens"]["measured_rows"] == 12
    job = create_job(server.client, file.id, model=NAME)
    worker.run()
    assert retrieve(server, job).status == "succeeded", said(server, job)
    assert any(line.startswith(f"Fetched the base {NAME}") for line in said(server, job))
    (fetched,) = (worker.folder / "fetched").glob("sha256-*/")
    files.pop("README.md")
    assert files_of(fetched) == files


def test_stored_files_stay_while_a_model_has_them_and_no_model_lacks_any(
    server: Served, folder: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = describe(folder, id_=NAME, source="storage").model_dump(mode="json")
    admin = server.http(server.admin_key)
    refused = admin.post("/v1/admin/models", json=facts)
    assert refused.status_code == 400
    assert "Storage lacks chat_template.jinja, " in refused.json()["error"]["message"]
    push(server, folder, monkeypatch)
    storage = Folder(server.settings.folder, server.settings.secret.get_secret_value(), db)
    stray = storage.root / "bases" / ("0" * 64)
    stray.write_bytes(b"of a push that was broken off")
    for path in storage.root.glob("bases/*"):
        os.utime(path, (0, 0))
    leftovers.clear(db, storage)
    kept = {path.name for path in storage.root.glob("bases/*")}
    assert kept == {file["sha256"] for file in facts["files"]}


def test_a_removed_model_takes_the_files_along_that_were_its_alone(
    server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(server, folder, monkeypatch)
    facts = describe(folder, id_="other", source="storage").model_dump(mode="json")
    own, *shared = facts["files"]
    http = server.http(server.admin_key)
    http.post("/v1/admin/models", json=facts | {"files": shared}).raise_for_status()

    def stored() -> set[str]:
        return {path.name for path in (server.settings.folder / "bases").iterdir()}

    assert own["sha256"] in stored()
    said = CliRunner().invoke(app, ["models", "remove", NAME]).output
    assert said == f"{NAME} removed\n"
    assert stored() == {file["sha256"] for file in shared}
    again = CliRunner().invoke(app, ["models", "remove", NAME])
    assert (again.exit_code, f"No base model '{NAME}'" in again.output) == (1, True)
    http.delete("/v1/admin/models/other").raise_for_status()
    assert stored() == set()
