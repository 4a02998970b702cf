"""`tunery estimate`, as a user runs it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import BASE, ROOT, Served
from tests.factories import data_set, upload, worker_facts
from tunery.cli.main import app
from worker.client import Client

PIRATE, TINY = ROOT / "examples" / "pirate.train.jsonl", ROOT / "models" / "tiny"


def estimate(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["estimate", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, re.sub(r"[\s│]+", " ", result.output)


def test_a_local_files_tokens_are_counted_as_validate_counts_them() -> None:
    status, words = estimate(PIRATE, "--folder", TINY)
    counted = CliRunner().invoke(app, ["validate", str(PIRATE), "--model", str(TINY)]).output
    found = re.search(r"([\d,]+) tokens per epoch, .*, max ([\d,]+)", counted, re.DOTALL)
    assert found
    assert status == 0
    assert f"400 rows, {found[1]} tokens per epoch" in words
    assert f"the longest {found[2]}" in words
    assert "150 optimizer steps" in words
    assert "It needs a GPU with at least 1.3 GiB." in words


def test_a_local_file_is_planned_for_the_memory_that_is_named() -> None:
    status, words = estimate(PIRATE, "--folder", TINY, "--memory", "8")
    assert status == 0
    assert "On such a GPU: unquantized base, micro-batches of up to" in words
    done = CliRunner().invoke(
        app, ["estimate", str(PIRATE), "--folder", str(TINY), "--memory", "8", "--json"]
    )
    told = json.loads(done.stdout)
    assert (told["rows"], told["steps"], told["plan"]["quantization"]) == (400, 150, "none")
    status, words = estimate(PIRATE, "--folder", TINY, "--memory", "1")
    assert status == 1
    assert "The device has 1.0 GiB" in words


def test_an_uploaded_file_is_asked_about_at_the_service(
    server: Served, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    file = upload(server.client, data_set(50))
    assert "No worker has connected yet" in estimate(file.id, "--model", BASE)[1]
    worker.heartbeat(worker_facts(), [])
    status, words = estimate(file.id, "--model", BASE, "--r", "4", "--quantization", "nf4")
    assert status == 0
    assert "50 rows, about" in words
    assert "39 optimizer steps" in words
    assert "cpu, 1.0 GiB: base in NF4, kept dequantized, micro-batches of up to" in words


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ((PIRATE,), "give --folder"),
        (("file-none",), "give --model"),
        ((ROOT / "examples" / "broken.jsonl", "--folder", TINY), "tunery validate"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_mend(
    words: tuple[str | Path, ...], mend: str
) -> None:
    status, output = estimate(*words)
    assert status
    assert mend in output
