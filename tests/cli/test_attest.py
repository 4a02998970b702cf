"""`tunery attest`, as somebody runs it against a server of theirs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.openai_server import BASE, Fake, Weights, made_proof, openai_server
from tunery.cli.main import app

PROOF = made_proof()


def attest(fake: Fake, folder: Path, *words: str) -> tuple[int, str]:
    (folder / "proof.json").write_text(PROOF.model_dump_json(exclude_none=True))
    asked = ["attest", fake.url, "--proof", str(folder / "proof.json"), *words]
    done = CliRunner().invoke(app, asked)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_it_says_whether_the_trained_weights_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-theirs")
    with openai_server(Fake(PROOF, models={"base": BASE, "tuned": Weights()})) as fake:
        status, words = attest(fake, tmp_path, "--model", "tuned", "--key-env", "THEIR_KEY")
        assert status == 0
        assert "from base (0) to tuned (1)  1.000" in words
        assert "Verified: tuned at" in words
        assert set(fake.keys) == {"Bearer sk-theirs"}
        status, words = attest(fake, tmp_path, "--model", "base", "--json")
        assert status == 3
        assert json.loads(words)["verdict"] == "answers_as_base"
        status, words = attest(fake, tmp_path)
        assert status == 1
        assert "Choose one of the server's models with --model: it names base, tuned." in words
    status, words = attest(fake, tmp_path, "--model", "tuned")
    assert status == 1
    assert "cannot be reached" in words
