"""What tests need many of."""

import json
from typing import TYPE_CHECKING, Any

from openai import OpenAI
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.db.session import Database
from api.jobs.queue import leases
from api.models import bases
from api.settings import Settings
from api.tables import NOW, Artifact, Attempt, Job, Lease, from_now
from api.tenants.projects import Caller
from tests.conftest import BASE, ROOT
from tunery.base_model import describe
from tunery.messages import PROTOCOL, WorkerFacts
from tunery.states import AttemptEnd, FailureClass, JobState

if TYPE_CHECKING:
    from api.janitor import Janitor

ARTIFACTS = ("adapter_model.safetensors", "adapter_config.json", "manifest.json", "metrics.csv")


def chat(question: str = "What does a cow eat?", answer: str = "A cow eats grass.") -> str:
    return json.dumps(
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
    )


def data_set(rows: int = 12) -> bytes:
    return "\n".join(chat(f"What is {n} and one?", f"It is {n + 1}.") for n in range(rows)).encode()


def upload(client: OpenAI, content: bytes | None = None, name: str = "data.jsonl") -> FileObject:
    return client.files.create(file=(name, content or data_set()), purpose="fine-tune")


def create_job(client: OpenAI, file_id: str | None = None, **settings: Any) -> FineTuningJob:
    settings.setdefault("model", BASE)
    return client.fine_tuning.jobs.create(training_file=file_id or upload(client).id, **settings)


def worker_facts(name: str = "w1") -> WorkerFacts:
    return WorkerFacts(
        protocol=PROTOCOL, worker=name, id=f"worker-{name}", device="cpu", memory_bytes=1 << 30
    )


def lose_workers(db: Database, settings: Settings) -> Job:
    """As if no worker had been heard of for a whole lease, and the janitor came by; returns the job
    it took back. The pause before its next attempt is over too.
    """
    job = None
    while job is None:  # its worker may be writing at this very moment
        with db.as_control() as tx:
            leases.attend(tx, lease_seconds=settings.lease_seconds)
            let_leases_run_out(tx)
            job = leases.rescue(tx, settings)
    end_pauses(db)
    return job


def let_leases_run_out(tx: Session) -> None:
    """As if an API had listened for very long, and no worker had been heard of."""
    tx.execute(text("UPDATE attendance SET since = now() - interval '1 h'"))
    tx.execute(text("UPDATE lease SET until = now() - interval '1 s'"))


def another_base(db: Database, name: str = "another") -> str:
    """A base model that is the tiny one under another name; returns that."""
    with db.as_control() as tx:
        bases.register(tx, describe(ROOT / "models" / "tiny", id_=name))
    return name


def end_pauses(db: Database) -> None:
    """As if every pause before a next attempt were over."""
    with db.as_control() as tx:
        tx.execute(text("UPDATE job SET available_at = now() WHERE state = 'queued'"))


def caller(project_id: str) -> Caller:
    return Caller(project_id, "default", frozenset({"read", "write"}), "key_x")


def run_by_hand(
    tx: Session, job_id: str, *, began: float = 0, token: int = 1, pool: str = "default"
) -> None:
    """What a claim leaves, of a job that is queued; it began so many seconds ago."""
    job = tx.get_one(Job, job_id)
    job.state, job.token = JobState.RUNNING, token
    tx.add(Lease(job_id=job.id, token=token, worker="w", until=from_now(60)))
    tx.add(
        Attempt(
            project_id=job.project_id,
            job_id=job.id,
            token=token,
            worker_id="w-1",
            worker="w",
            pool=pool,
            started_at=from_now(-began),
        )
    )
    tx.flush()


def end_by_hand(
    tx: Session, job_id: str, outcome: AttemptEnd, failure_class: FailureClass | None = None
) -> None:
    """What the end of a running attempt leaves. A job that did not end is queued again."""
    job = tx.get_one(Job, job_id, populate_existing=True)
    ends = {AttemptEnd.SUCCEEDED, AttemptEnd.CANCELLED}
    job.state = JobState(outcome) if outcome in ends else JobState.QUEUED
    attempt = tx.get_one(Attempt, (job_id, job.token), populate_existing=True)
    attempt.outcome, attempt.failure_class = outcome, failure_class
    attempt.ended_at = tx.scalar(select(NOW))
    tx.delete(tx.get_one(Lease, job_id))
    if JobState(job.state).terminal:
        job.finished_at = attempt.ended_at
    if outcome is AttemptEnd.SUCCEEDED:
        if not job.exported_job_id:
            job.fine_tuned_model = job.model_name
            job.result_file_id = job.training_file_id
        for name in ARTIFACTS:
            facts = {"bytes": 1, "sha256": "0" * 64, "key": f"jobs/{job.id}/{name}"}
            tx.add(Artifact(project_id=job.project_id, job_id=job.id, name=name, **facts))
    tx.flush()


def join_checks(janitor: "Janitor") -> None:
    for checker in janitor.checkers.values():
        checker.join()
