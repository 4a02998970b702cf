"""`tunery eval`, and jobs that are created with an evaluation."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.answering_worker import AnsweringWorker, says
from tests.api.jobs.evaluations.test_evaluations import answered, created
from tests.api.jobs.evaluations.test_graders import EXACT
from tests.conftest import BASE, Served
from tests.factories import chat, data_set
from tunery.cli.main import app
from tunery.completions import CompletionLease, CompletionPart
from worker.client import Client


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.key)


def run(*words: object) -> tuple[str, int]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.output, done.exit_code


@pytest.fixture
def grader(tmp_path: Path) -> Path:
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(EXACT))
    return path


def tuned_says_yes(lease: CompletionLease) -> list[CompletionPart]:
    """Whatever the base is asked, it says no; the tuned model only where line 1 is asked."""
    assert lease.prompt.type == "chat"
    first = lease.prompt.messages[-1]["content"] == "Question 1?"
    return says("yes" if (lease.adapter is None) == first else "no")


def test_both_models_are_asked_and_the_verdict_is_printed(
    server: Served, worker: Client, grader: Path, tmp_path: Path
) -> None:
    job = created(server)
    answered(worker, tmp_path, ["yes"] * 8)
    said, _ = run("status", job.id)
    assert "evaluation better: 0.12 -> 1.00 (+0.88, 95 % " in said
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(chat(f"Question {n}?", "yes") for n in range(1, 11)))
    command = ("eval", job.id, "--data", data, "--grader", grader, "--rows", 8)
    with AnsweringWorker(server, tuned_says_yes):
        said, code = run(*command)
        whole, _ = run(*command, "--json")
        tuned = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
        worse, failed = run("eval", BASE, "--base", tuned, *command[2:])
    assert (code, failed) == (0, 1), said
    assert f"{BASE} and ft:{BASE}:default::" in said
    assert "Better: 0.12 -> 0.88 (+0.75, 95 % " in said
    assert "Worse at line 1 (1.00 -> 0.00): Question 1?" in said
    found = json.loads(whole[whole.index("{") :])
    assert (found["verdict"], len(found["answers"])) == ("better", 8)
    assert "tunery-tiny is worse than ft:tunery-tiny:" in worse


def test_a_job_is_created_with_the_evaluation_of_a_file(
    server: Served, grader: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(data_set(12))
    command = ("train", data, "--model", BASE, "--no-follow", "--set", "validation_split=0.5")
    said, code = run(*command, "--evaluation", grader)
    assert code == 0, said
    (job,) = server.client.fine_tuning.jobs.list().data
    asked = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/request").json()["asked"]
    assert asked["evaluation"] == {"grader": EXACT}
    grader.write_text('{"type": "python", "name": "p", "source": ""}')
    said, code = run(*command, "--evaluation", grader)
    assert (code, "runs a program of the user's" in said) == (1, True)
    said, code = run("eval", "ftjob-x", "--data", data, "--grader", grader)
    assert (code, "runs a program of the user's" in said) == (1, True)
