"""`tunery train`: the plain command."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import BASE, Served
from tests.factories import data_set
from tunery.cli.main import app


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)


def run(*words: object) -> tuple[str, int]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.output, done.exit_code


def test_a_file_becomes_a_job_with_settings_by_anybodys_names(
    server: Served, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(data_set(12))
    settings = ("num_train_epochs=2", "lr=2e-4", "lora.r=4", "seed=7", "bf16=true", "batch_size=4")
    said, code = run("train", data, "--model", BASE, "--no-follow", *flags_of(*settings))
    assert code == 0, said
    assert "12 rows (12 chat), 0 faults" in said
    assert "steps on 12 rows" in said
    assert "Warning: training.bf16 has no effect here" in said
    (job,) = server.client.fine_tuning.jobs.list().data
    extras = (job.model_extra or {})["tunery"]
    found = extras["training"]
    assert (found["n_epochs"], found["learning_rate"], job.seed) == (2, 2e-4, 7)
    assert (extras["lora"]["r"], found["batch_size"]) == (4, 4)


def flags_of(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("place", ["", "training.", "method.dpo.hyperparameters."])
def test_openais_hyperparameters_are_found_where_the_method_has_them(
    server: Served, tmp_path: Path, place: str
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "Hi", "chosen": "Ahoy", "rejected": "No"}\n' * 12)
    asked = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5, "beta": 0.2}
    flags = flags_of(*(f"{place}{name}={value}" for name, value in asked.items()))
    said, code = run("train", data, "--model", BASE, "--method", "dpo", "--no-follow", *flags)
    assert code == 0, said
    (job,) = server.client.fine_tuning.jobs.list().data
    assert job.method
    assert job.method.dpo
    assert job.method.dpo.hyperparameters
    assert job.method.dpo.hyperparameters.model_dump() == asked


def test_a_file_with_faults_is_not_sent(server: Served, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(data_set(12) + b"\n{")
    said, code = run("train", data, "--model", BASE)
    assert code == 1
    assert "line 13" in said
    assert "nothing was sent" in said
    assert not server.client.files.list().data
    data.write_bytes(data_set(12))
    said, code = run("train", data, "--model", BASE, "--set", "num_epochs")
    assert (code, "Write --set NAME=VALUE" in said) == (1, True)
    assert not server.client.files.list().data


def test_columns_of_other_names_are_checked_here_and_sent(server: Served, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("asked,said\n" + "Hi,Ahoy\n" * 12)
    columns = ("--columns", "prompt=asked, completion=said")
    said, code = run("validate", data, *columns)
    assert (code, "12 rows (12 completion), 0 faults" in said) == (0, True), said
    said, code = run("train", data, "--model", BASE, "--no-follow", *columns)
    assert code == 0, said
    (file,) = server.client.files.list().data
    assert (file.model_extra or {})["columns"] == {"prompt": "asked", "completion": "said"}
    for wrong in ("prompt", "promt=asked", "{"):
        said, code = run("validate", data, "--columns", wrong)
        assert (code, "--columns" in said) == (2, True)
