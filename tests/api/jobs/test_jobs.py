from typing import Any

import openai
import pytest

from api.db.session import Database
from api.tables import File
from tests.conftest import BASE, Served
from tests.factories import chat, create_job, data_set, upload

REQUIRED = {
    "created_at", "error", "finished_at", "fine_tuned_model", "hyperparameters", "id", "model",
    "object", "organization_id", "result_files", "status", "trained_tokens", "training_file",
    "validation_file", "seed",
}  # fmt: skip


def test_a_job_on_checked_files_is_queued_with_every_auto_resolved(server: Served) -> None:
    client = server.client
    training, validation = upload(client, data_set(50)), upload(client, data_set(10))
    job = create_job(
        client, training.id, validation_file=validation.id, suffix="mine", metadata={"team": "a"}
    )
    assert job.status == "queued"
    assert job.hyperparameters.n_epochs == 3
    assert job.hyperparameters.batch_size == 4
    assert job.hyperparameters.learning_rate_multiplier == 1
    assert job.metadata == {"team": "a"}
    assert job.error is None
    assert job.result_files == []
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    raw = server.http().get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert set(raw) >= REQUIRED
    assert set(raw["tunery"]["reasons"]) == {
        "n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate", "quantization",
        "optimizer", "lr_scheduler", "warmup_ratio", "weight_decay", "max_grad_norm", "max_length",
        "overflow", "lora.r", "lora.alpha", "samples", "max_lost_share", "gpus",
    }  # fmt: skip
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id).data]
    assert events == [
        "Files validated, moving job to queued state",
        f"Validating training file: {training.id} and validation file: {validation.id}",
        f"Created fine-tuning job: {job.id}",
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"hyperparameters": {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 0.5}},
        {
            "method": {
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {
                        "n_epochs": 2,
                        "batch_size": 3,
                        "learning_rate_multiplier": 0.5,
                    }
                },
            }
        },
    ],
)
def test_hyperparameters_are_kept_in_both_of_openais_places(
    server: Served, asked: dict[str, Any]
) -> None:
    job = create_job(server.client, seed=0, **asked)
    assert job.hyperparameters.to_dict() == {
        "n_epochs": 2,
        "batch_size": 3,
        "learning_rate_multiplier": 0.5,
    }
    assert job.seed == 0
    assert job.method
    assert job.method.supervised
    assert job.method.supervised.hyperparameters


@pytest.fixture(scope="module")
def uploaded(shared_server: Served) -> str:
    return upload(shared_server.client).id


@pytest.mark.parametrize(
    ("asked", "status", "param", "says"),
    [
        ({"model": "gpt-x"}, 404, "model", "tunery models add"),
        ({"training_file": "file-no"}, 404, "training_file", "upload it"),
        ({"validation_file": "file-no"}, 404, "validation_file", "upload it"),
        (
            {"hyperparameters": {"n_epochs": -1}},
            400,
            "hyperparameters.n_epochs",
            'must be a whole number from 1 to 50, or "auto"',
        ),
        ({"hyperparameters": {"batch_size": 0.5}}, 400, "hyperparameters.batch_size", "1 to 256"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            400,
            "hyperparameters.learning_rate_multiplier",
            "above 0",
        ),
        ({"hyperparameters": {"beta": 1}}, 400, "hyperparameters.beta", "remove it"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
            400,
            "method.dpo.hyperparameters.beta",
            'must be a number above 0, up to 2, or "auto"',
        ),
        (
            {"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}},
            400,
            "method",
            "reinforcement learns from the marks that a grader gives",
        ),
        ({"method": {"type": "supervised", "dpo": {}}}, 400, "method", "that one's settings alone"),
        (
            {"method": {"type": "supervised"}, "hyperparameters": {"n_epochs": 1}},
            400,
            None,
            "not in both",
        ),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}]},
            400,
            "integrations",
            "scope admin, to PUT /v1/project/integrations/wandb",
        ),
        (
            {"integrations": [{"type": "wandb", "wandb": {}}]},
            400,
            "integrations.0.wandb.project",
            "is required",
        ),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "a/b"}}]},
            400,
            "integrations.0.wandb.project",
            "holds '/'",
        ),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 2},
            400,
            "integrations",
            "send one of them",
        ),
        ({"integrations": [{"type": "x", "wandb": {}}]}, 400, "integrations.0.type", "'wandb'"),
        ({"suffix": "x" * 65}, 400, "suffix", "at most 64"),
        ({"suffix": ""}, 400, "suffix", "at least 1"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, 400, "metadata", "at most 16"),
        ({"metadata": {"k" * 65: "v"}}, 400, f"metadata.{'k' * 65}.[key]", "at most 64"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata.k", "at most 512"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"metadata": {"k": "\x00"}}, 400, "metadata.k", "NUL"),
        ({"lora": {"r": 0}}, 400, "lora.r", "greater than or equal to 1"),
        ({"training": {"max_length": 99_999}}, 400, "training.max_length", "Lower it"),
        ({"training": {"quantization": "int3"}}, 400, "training.quantization", "'nf4', 'fp4'"),
        ({"epochs": 3}, 400, "epochs", "remove it"),
        ({"training_file": ""}, 400, "training_file", "at least 1"),
        ({"validation_file": ""}, 400, "validation_file", "at least 1"),
        ({"seed": True}, 400, "seed", "valid integer"),
    ],
)
def test_what_cannot_work_is_refused_with_field_and_mend(
    shared_server: Served,
    uploaded: str,
    asked: dict[str, Any],
    status: int,
    param: str | None,
    says: str,
) -> None:
    body = {"model": BASE, "training_file": uploaded, **asked}
    answer = shared_server.http().post("/v1/fine_tuning/jobs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert says in error["message"]
    assert shared_server.client.fine_tuning.jobs.list().data == []


@pytest.mark.parametrize("named", ["nf4", "none"])
def test_a_named_quantization_is_kept_and_needs_no_reason(server: Served, named: str) -> None:
    job = create_job(server.client, extra_body={"training": {"quantization": named}})
    shown = (job.model_extra or {})["tunery"]
    assert shown["quantization"] == named
    assert "quantization" not in shown["reasons"]


def test_a_job_on_a_file_with_faults_is_refused_with_the_first_of_them(server: Served) -> None:
    file = upload(server.client, b'{"messages": []}')
    with pytest.raises(openai.UnprocessableEntityError, match="line 1: messages") as refused:
        create_job(server.client, file.id)
    assert refused.value.code == "invalid_training_file"
    assert refused.value.param == "training_file"


def test_a_waiting_job_is_cancelled_at_once_and_asking_again_changes_nothing(
    server: Served,
) -> None:
    jobs = server.client.fine_tuning.jobs
    job = create_job(server.client)
    cancelled = jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at
    events = list(jobs.list_events(job.id))
    assert jobs.cancel(job.id) == cancelled
    assert list(jobs.list_events(job.id)) == events


def test_jobs_are_listed_newest_first_in_pages_and_by_metadata(server: Served) -> None:
    client = server.client
    file = upload(client).id
    made = [create_job(client, file, metadata={"n": str(n % 2)}).id for n in range(4)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == made[::-1]
    odd = client.fine_tuning.jobs.list(metadata={"n": "1"}, limit=1)
    assert [job.id for job in odd] == [made[3], made[1]]
    plain = create_job(client, file)
    bare = server.http().get("/v1/fine_tuning/jobs?metadata=null").json()
    assert [job["id"] for job in bare["data"]] == [plain.id]
    with pytest.raises(openai.BadRequestError, match="to continue after"):
        client.fine_tuning.jobs.list(after="ftjob-no")
    with pytest.raises(openai.BadRequestError, match="at most 16"):
        client.fine_tuning.jobs.list(metadata={f"k{n}": "v" for n in range(200)})


def test_events_are_paged_newest_first(server: Served) -> None:
    client = server.client
    job = create_job(client)
    pages = list(client.fine_tuning.jobs.list_events(job.id, limit=1))
    assert [event.message.split()[0] for event in pages] == ["Files", "Validating", "Created"]
    assert len({event.id for event in pages}) == 3
    known = pages[0].id.removesuffix("3")
    for after in ("ftevent-other-1", f"{known}\u00b2", known + "9" * 23, known + "4", known + "0"):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.list_events(job.id, after=after)


def test_what_may_be_null_or_auto_is_as_if_left_out(server: Served) -> None:
    nulls = dict.fromkeys(
        ("suffix", "validation_file", "seed", "metadata", "integrations", "method"), None
    )
    settings = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    body = {"model": BASE, "training_file": upload(server.client).id}
    job = server.http().post(
        "/v1/fine_tuning/jobs", json=body | nulls | {"hyperparameters": settings}
    )
    assert job.status_code == 200
    plain = create_job(server.client, body["training_file"])
    assert job.json()["hyperparameters"] == plain.hyperparameters.to_dict()
    assert job.json()["integrations"] == []


def checked_as(server: Served, db: Database, name: str) -> str:
    """A checked file whose report says that its rows are of this format."""
    file = upload(server.client).id
    with db.as_control() as tx:
        row = tx.get_one(File, file)
        row.report = {**(row.report or {}), "formats": {name: 12}}
    return file


def test_a_method_is_given_the_rows_that_it_learns_from(server: Served, db: Database) -> None:
    pairs, texts, chats = (checked_as(server, db, kind) for kind in ("preference", "text", "chat"))
    dpo = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    for file, method, says in (
        (pairs, None, "holds pairs of preferred and rejected answers; the method supervised"),
        (chats, dpo, "holds chats; the method dpo learns from pairs"),
    ):
        with pytest.raises(openai.UnprocessableEntityError, match=says) as refused:
            create_job(server.client, file, method=method or openai.omit)
        assert refused.value.code == "invalid_training_file"
        assert refused.value.param == "training_file"
    assert create_job(server.client, texts).status == "queued"
    job = create_job(server.client, pairs, method=dpo)
    assert job.status == "queued"
    assert job.method
    assert job.method.dpo
    assert job.method.dpo.hyperparameters
    assert job.method.dpo.hyperparameters.beta == 0.2
    split = {"training": {"overflow": "split"}}
    for file, method in ((pairs, dpo), (chats, None)):
        with pytest.raises(openai.BadRequestError, match="split is for texts") as unsplit:
            create_job(server.client, file, method=method or openai.omit, extra_body=split)
        assert unsplit.value.param == "training.overflow"
    assert create_job(server.client, texts, extra_body=split).status == "queued"
    masked = {"type": "masked_lm"}
    with pytest.raises(openai.BadRequestError, match="is a decoder") as refused_method:
        create_job(server.client, texts, method=masked)
    assert refused_method.value.param == "method.type"


def test_chats_are_refused_on_a_base_without_a_chat_template(server: Served, db: Database) -> None:
    admin = server.http(server.admin_key)
    facts: dict[str, Any] = {
        "id": "plain/base", "revision": "1", "source": "/none", "licence": None,
        "architecture": "llama", "hidden_size": 64, "context_length": 128,
        "has_chat_template": False, "files": [],
    }  # fmt: skip
    assert admin.post("/v1/admin/models", json=facts).status_code == 200
    for name in ("chat", "sharegpt"):
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            create_job(server.client, checked_as(server, db, name), model="plain/base")
    text = upload(server.client, b'{"prompt": "a", "completion": "b"}')
    assert create_job(server.client, text.id, model="plain/base").status == "queued"


def test_empty_hyperparameters_beside_a_method_are_fine(server: Served) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    body = {"model": BASE, "training_file": upload(server.client).id}
    job = server.http().post(
        "/v1/fine_tuning/jobs", json=body | {"hyperparameters": {}, "method": method}
    )
    assert job.json()["hyperparameters"]["n_epochs"] == 2
    assert server.client.fine_tuning.jobs.list().data


def test_unknown_ids_are_404_in_every_place(server: Served) -> None:
    http = server.http()
    for path in ("", "/events", "/checkpoints", "/artifacts", "/artifacts/x"):
        answer = http.get(f"/v1/fine_tuning/jobs/ftjob-no{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert http.post("/v1/fine_tuning/jobs/ftjob-no/cancel").status_code == 404


def test_a_row_of_another_format_is_a_fault(server: Served) -> None:
    mixed = f'{chat()}\n{{"prompt": "a", "completion": "b"}}'
    assert "line 2" in (upload(server.client, mixed.encode()).status_details or "")


def test_what_may_not_be_meant_is_said_in_the_answer_and_in_an_event(server: Served) -> None:
    client = server.client
    row, others = chat().encode(), data_set(40)
    few, copies = upload(client, row), upload(client, others + b"\n" + b"\n".join([row] * 10))
    again = upload(client, others + b"\n" + b"\n".join([row] * 10), name="again.jsonl")

    def warned(training: str, **settings: Any) -> list[str]:
        job = create_job(client, training, **settings)
        said: list[str] = job.to_dict()["tunery"]["warnings"]  # type: ignore[index]
        events = client.fine_tuning.jobs.list_events(job.id).data
        assert [event.message for event in events if event.level == "warn"] == said[::-1]
        return said

    assert warned(upload(client, others).id, validation_file=upload(client).id) == []
    (said,) = warned(few.id)
    assert "has only 1 row; a model learns little" in said
    repeats, same, name = warned(copies.id, validation_file=again.id, suffix="My Model!")
    assert "Of the 50 rows" in repeats
    assert "9 are the same as an earlier one, such as line 42 as line 41" in repeats
    assert "have the same content" in same
    assert ":My-Model-:" in name
    (_, same) = warned(copies.id, validation_file=copies.id)
    assert "have the same content" in same
    (said,) = warned(upload(client, others).id, validation_file=few.id)
    assert "has only 1 row; the validation loss tells little" in said
