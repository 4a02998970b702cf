"""The verdict on a job: from a worker's answers to events, webhooks and the job itself."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from api.db.session import Database
from api.tables import WebhookEvent
from tests.api.jobs.evaluations.test_graders import EXACT, SHAPE
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import Served
from tests.factories import create_job, upload
from tunery.evaluations import AnsweredRow
from worker.client import Client
from worker.evaluation import send_evaluation
from worker.protocol import EVALUATION

SPLIT = {"validation_split": 0.5}


def created(server: Served, **evaluation: Any) -> Any:
    asked = {"evaluation": {"grader": EXACT} | evaluation, "training": SPLIT}
    return create_job(server.client, extra_body=asked)


def answered(worker: Client, folder: Path, tuned: list[str]) -> None:
    """What a worker does with the job whose base always says "no", of rows that want "yes"."""
    lease = claim(worker)
    assert lease
    results = folder / "adapter"
    results.mkdir()
    rows: list[dict[str, Any]] = [
        {
            "line": line,
            "prompt": f"Question {line}?",
            "item": {"reference": "yes", "unread": "x" * 100_000},
            "base": "no" if line > 1 else "yes",
            "base_calls": [],
            "tuned": said,
            "tuned_calls": [],
        }
        for line, said in enumerate(tuned, start=1)
    ]
    (folder / EVALUATION).write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):  # a worker that is restarted sends them again
        send_evaluation(worker, lease, results)
    finish(worker, lease, succeeded(send(worker, lease, results, ADAPTER)))


def test_a_job_tells_whether_its_model_is_better_than_its_base(
    server: Served, worker: Client, db: Database, tmp_path: Path
) -> None:
    types: Any = ["fine_tuning.job.evaluated"]
    server.client.webhooks.create(name="ours", url="https://example.com", event_types=types)
    job = created(server, rows=30)
    assert job.model_extra["tunery"]["evaluation"] is None
    answered(worker, tmp_path, ["no", *["yes"] * 19, *["no"] * 10])
    shown: Any = server.client.fine_tuning.jobs.retrieve(job.id)
    found = shown.tunery["evaluation"]
    assert (shown.status, found["verdict"]) == ("succeeded", "better")
    assert (found["rows"], found["better_rows"], found["worse_rows"]) == (30, 19, 1)
    assert found["difference"] == pytest.approx(18 / 30)
    assert found["interval"][0] > 0
    (worse,) = found["got_worse"]
    assert (worse["line"], worse["base"], worse["tuned"]) == (1, "yes", "no")

    events = server.client.fine_tuning.jobs.list_events(job.id).data
    (told,) = [event for event in events if event.message.startswith("Evaluation: ")]
    assert told.message.startswith("Evaluation: better: 0.03 -> 0.63 (+0.60, 95 % ")
    assert told.message.endswith("on 30 rows; 1 row got worse.")
    with db.as_control() as tx:
        (event,) = tx.query(WebhookEvent).all()
        body = json.loads(event.body)
    assert (body["type"], body["data"]["id"]) == ("fine_tuning.job.evaluated", job.id)
    assert body["data"]["evaluation"] == found

    whole = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/evaluation").json()
    assert (whole["verdict"], whole["grader"]) == ("better", EXACT)
    assert [row["line"] for row in whole["answers"]] == list(range(1, 31))
    assert whole["answers"][1] == {
        "line": 2,
        "prompt": "Question 2?",
        "item": {"reference": "yes"},
        "base": "no",
        "tuned": "yes",
        "base_calls": [],
        "tuned_calls": [],
        "base_score": 0.0,
        "tuned_score": 1.0,
        "trouble": None,
    }
    assert not whole["has_more"]
    some: Any = {"limit": 20, "after_line": 5}
    part = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/evaluation", params=some).json()
    assert [row["line"] for row in part["answers"]] == list(range(6, 26))
    assert part["has_more"]

    again = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/request").json()["resolved"]
    assert again["evaluation"] == {"grader": EXACT, "rows": 30, "max_tokens": 256}
    server.client.models.delete(shown.fine_tuned_model)
    shown = server.client.fine_tuning.jobs.retrieve(job.id)
    assert shown.tunery["evaluation"] == {**found, "got_worse": []}
    server.http().delete(f"/v1/fine_tuning/jobs/{job.id}")
    gone = server.http().get(f"/v1/fine_tuning/jobs/{job.id}/evaluation")
    assert gone.status_code == 404


def test_a_job_without_answers_succeeds_and_says_why_there_is_no_verdict(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    job = created(server)
    lease = claim(worker)
    assert lease
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    shown: Any = server.client.fine_tuning.jobs.retrieve(job.id)
    assert (shown.status, shown.tunery["evaluation"]["verdict"]) == ("succeeded", "failed")


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"training": {}}, "evaluation", "needs rows that are not trained on"),
        (
            {"evaluation": {"grader": EXACT | {"reference": "{{ item.answer }}"}}},
            "evaluation.grader",
            "reads item.answer, which no row of file-",
        ),
        ({"evaluation": {"grader": SHAPE}}, "evaluation.grader", "is no JSON Schema"),
        (
            {"evaluation": {"grader": {"type": "python", "name": "p", "source": ""}}},
            "evaluation.grader",
            "runs a program of the user's",
        ),
        ({"evaluation": {"grader": EXACT, "rows": 513}}, "evaluation.rows", "512"),
    ],
)
def test_an_evaluation_that_cannot_come_about_is_refused_early(
    shared_server: Served, asked: dict[str, Any], param: str, words: str
) -> None:
    body = {"evaluation": {"grader": EXACT}, "training": SPLIT} | asked
    with pytest.raises(openai.BadRequestError) as refusal:
        create_job(shared_server.client, extra_body=body)
    assert words in refusal.value.message
    assert (refusal.value.param or "").startswith(param)


def test_texts_have_no_answer_to_grade(shared_server: Served) -> None:
    texts = b'{"text": "The sea is deep."}\n' * 12
    file = upload(shared_server.client, texts).id
    with pytest.raises(openai.BadRequestError, match="texts, which have no answer to grade"):
        create_job(
            shared_server.client,
            file,
            extra_body={"evaluation": {"grader": EXACT}, "training": SPLIT},
        )


def test_a_field_of_the_rows_own_may_be_read(shared_server: Served) -> None:
    rows = b'{"prompt": "a", "completion": "b", "topic": "c"}\n' * 12
    file = upload(shared_server.client, rows).id
    grader = EXACT | {"reference": "{{ item.topic }}"}
    asked = {"evaluation": {"grader": grader}, "training": SPLIT}
    assert create_job(shared_server.client, file, extra_body=asked).status == "queued"


def test_a_long_field_is_cut_for_the_way_and_graded_whole() -> None:
    from tunery.evaluations import MOST_ITEM_BYTES, shortened

    item = {"reference": "\N{CAT}" * 100_000, "short": 1}
    short = shortened(item)
    assert short["short"] == 1
    row = AnsweredRow(line=1, prompt="", item=short, base="", tuned="")
    assert len(row.model_dump_json()) < 2 * MOST_ITEM_BYTES
