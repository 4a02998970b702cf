from typing import Any

from sqlalchemy import select

from api.db.session import Database
from api.jobs import state
from api.tables import Job
from tests.conftest import Served
from tests.factories import create_job, upload

ASKED: dict[str, Any] = {
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    "training": {"lr_scheduler": "constant", "chat_template": "chatml", "bf16": True},
    "lora": {"r": 4, "target_modules": ["q_proj"]},
    "exports": ["peft"],
    "metadata": {"team": "dairy"},
}


def test_the_resolved_request_of_a_job_makes_the_same_job(server: Served, db: Database) -> None:
    http = server.http()
    file = upload(server.client).id
    first = create_job(server.client, file, suffix="cows", validation_file=file, extra_body=ASKED)
    told = http.get(f"/v1/fine_tuning/jobs/{first.id}/request").json()
    assert told["asked"]["training"] == {"lr_scheduler": "constant", "chat_template": "chatml"}
    assert "seed" not in told["asked"]
    again = http.post("/v1/fine_tuning/jobs", json=told["resolved"]).json()
    assert again["id"] != first.id
    assert (again["user_provided_suffix"], again["metadata"]) == ("cows", {"team": "dairy"})
    with db.as_control() as tx:
        one, other = tx.scalars(select(Job).order_by(Job.sequence))
        assert one.spec == other.spec
        assert one.exports_asked == other.exports_asked == 1


def test_the_messages_of_a_job_are_listed_without_its_steps(server: Served, db: Database) -> None:
    job = create_job(server.client)
    with db.as_control() as tx:
        stored = tx.get_one(Job, job.id)
        stored.event_count += 1
        tx.flush()
        state.add_event(tx, stored, "Step 1/3", level="info", type="metrics", data={"step": 1})
    events = f"/v1/fine_tuning/jobs/{job.id}/events"
    steps = server.http().get(events, params={"type": "metrics"}).json()["data"]
    messages = server.http().get(events, params={"type": "message"}).json()["data"]
    assert [each["data"]["step"] for each in steps] == [1]
    assert {each["type"] for each in messages} == {"message"}
    assert len(messages) == len(server.client.fine_tuning.jobs.list_events(job.id).data) - 1
