"""`tunery models add FOLDER`, where the worker's packages are installed and where they are not."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT, Served
from tunery.cli import examine
from tunery.cli.main import app

TINY = ROOT / "models" / "tiny"


@pytest.fixture(autouse=True)
def _as_an_operator(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.admin_key)


def models(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["models", *words])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.long
def test_a_family_is_examined_before_it_is_registered_and_what_was_found_is_shown() -> None:
    assert "Its rows are computed packed" in models("add", str(TINY), "--name", "small")
    assert "packed (examined on " in models("get", "small")
    listed = models("list").splitlines()
    assert next(line.split()[-1] for line in listed if line.startswith("small ")) == "packed"


def test_a_family_that_cannot_be_trained_is_refused_and_not_registered(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "newest"}))
    said = models("add", str(folder), "--name", "newest", code=1)
    assert "model type `newest`" in said
    assert "Choose another base model." in said
    assert "newest" not in models("list")


@pytest.mark.parametrize(
    ("where", "name", "value", "why"),
    [
        (examine, "NEEDED", ("not_installed",), "where torch, transformers or PEFT is not insta"),
        (sys, "executable", "/bin/false", "(exit status 1)"),
    ],
)
def test_a_family_that_cannot_be_examined_here_is_registered_and_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, value: object, why: str
) -> None:
    monkeypatch.setattr("tunery.cli.register.not_for_ollama", lambda _: None)
    monkeypatch.setattr(where, name, value)
    said = models("add", str(TINY), "--name", "small")
    assert why in said
    assert examine.LATER in said
    assert "examined on" not in models("get", "small")
