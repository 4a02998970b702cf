"""Judges: models of the service that grade answers, beside and after the job."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api.db.session import Database
from api.jobs.evaluations import judging
from api.tables import Job
from tests.answering_worker import AnsweringWorker, says, wait_until
from tests.api.jobs.evaluations.test_evaluations import answered, created
from tests.api.test_janitor import wait_for
from tests.conftest import BASE, Served
from tunery.completions import CompletionLease, CompletionPart, Refusal
from worker.client import Client

JUDGE: Any = {
    "type": "score_model",
    "name": "judge",
    "model": BASE,
    "input": [{"role": "user", "content": "Is it {{ sample.output_text }}, {{ item.reference }}?"}],
}


def right_if_yes(lease: CompletionLease) -> list[CompletionPart]:
    assert lease.prompt.type == "chat"
    asked = lease.prompt.messages[-1]["content"]
    return says('{"result": ', "1}" if "Is it yes, yes?" in asked else "0}")


def refuse(_: CompletionLease) -> list[CompletionPart]:
    refusal = Refusal(code="no", message="The judge is ill.")
    return [CompletionPart(number=0, refusal=refusal)]


def evaluation_of(server: Served, job: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.http().get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert found["status"] == "succeeded"
    evaluation: dict[str, Any] = found["tunery"]["evaluation"]
    return evaluation


def test_a_model_of_the_service_grades_an_answer(server: Served) -> None:
    with AnsweringWorker(server, right_if_yes) as worker:
        graders = server.client.fine_tuning.alpha.graders
        run = graders.run(grader=JUDGE, model_sample="yes", item={"reference": "yes"})
        missing = graders.run(grader=JUDGE, model_sample="yes", item={})
    assert (run.reward, run.metadata.sampled_model_name, run.metadata.token_usage) == (1, BASE, 9)
    (lease,) = worker.leases
    assert (lease.sampling.temperature, lease.sampling.max_tokens) == (0, 512)
    assert missing.metadata.errors.invalid_variable_error


def test_a_judge_is_asked_no_further_when_its_client_has_gone(server: Served) -> None:
    asked = {"grader": JUDGE, "model_sample": "yes", "item": {"reference": "yes"}}
    with AnsweringWorker(server, lambda _: says(*"a" * 1_000), pause=0.02) as worker:
        with pytest.raises(httpx.ReadTimeout):
            server.http().post("/v1/fine_tuning/alpha/graders/run", json=asked, timeout=1)
        wait_until(lambda: len(worker.lost) == 1)


def test_a_job_succeeds_first_and_its_verdict_comes_when_the_judge_has_answered(
    server: Served,
    worker: Client,
    db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judging, "LOOK_SECONDS", 0.1)
    job = created(server, grader=JUDGE)
    with AnsweringWorker(server, refuse):
        answered(worker, tmp_path, ["yes"] * 8)
        assert evaluation_of(server, job)["verdict"] == "pending"
        wait_for(lambda: evaluation_of(server, job)["warning"] is not None, 20)
    pending = evaluation_of(server, job)
    assert pending["warning"] == f"The judge does not answer. {BASE}: The judge is ill."
    with AnsweringWorker(server, right_if_yes) as judge:
        with db.as_control() as tx:  # its pause is over
            tx.query(Job).update({"judge_at": Job.created_at})
        wait_for(lambda: evaluation_of(server, job)["verdict"] != "pending", 20)
        assert len(judge.leases) == 2 * 8
    found = evaluation_of(server, job)
    assert (found["verdict"], found["better_rows"], found["rows"]) == ("better", 7, 8)
    rows = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/evaluation").json()["answers"]
    assert [(row["base_score"], row["tuned_score"]) for row in rows] == [(1, 1), *[(0, 1)] * 7]
    messages = [e.message for e in server.client.fine_tuning.jobs.list_events(job.id).data]
    assert [m.split(":")[1] for m in messages if m.startswith("Evaluation")] == [
        " better",
        " the judge does not answer, and is asked again for a day. tunery-tiny",
        " the judge is asked about 8 rows",
    ]


def test_the_answers_go_with_their_model_and_nobody_is_asked_about_them(
    server: Served, worker: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(judging, "RETRY_SECONDS", 0.1)
    job = created(server, grader=JUDGE)
    with AnsweringWorker(server, refuse):
        answered(worker, tmp_path, ["yes"] * 8)
        name = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
        server.client.models.delete(name or "")
        wait_for(lambda: evaluation_of(server, job)["verdict"] == "failed", 20)
    assert "model was deleted" in evaluation_of(server, job)["warning"]
    whole = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/evaluation").json()
    assert whole["answers"] == []


def test_a_judge_that_is_no_model_here_is_refused_at_once(shared_server: Served) -> None:
    graders = shared_server.client.fine_tuning.alpha.graders
    with pytest.raises(openai.NotFoundError) as refusal:
        graders.validate(grader=JUDGE | {"model": "gpt-x"})
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "grader")
    with pytest.raises(openai.NotFoundError) as refusal:
        created(shared_server, grader=JUDGE | {"model": "gpt-x"})
    assert refusal.value.param == "evaluation.grader"
