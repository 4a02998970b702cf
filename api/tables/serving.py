"""What models are asked, for as long as somebody waits for the answer; how much it was; and
servers of operators that answer.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import CheckConstraint, Date, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table
from api.tables.jobs import JobPart, of_job


class Completion(OfProject, Table):
    """Something that a client waits for at the API process `server`, which claims of workers are
    given. It is gone when it is answered, or its client is: no crash needs it, so the table is
    unlogged. `seen_at` is when that process last said that it is there.

    It is computed on `base`: a base model's id, or of a tuned model that is a model of its own, the
    id of its job. `job_id` and `step` are where the adapter comes from; `quantization` None is
    whatever the base is loaded in. `prompt` and `sampling` are JSON, as they came
    (`tunery.completions`). `worker` is the id of the worker that computes it under the claim
    `token`; None: it is free, since `free_since`. `given_back_by` is the one that had it last.
    """

    __tablename__ = "completion"
    __table_args__ = (
        Index(None, "project_id"),
        {"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    server: Mapped[str]
    base: Mapped[str]
    job_id: Mapped[str | None]
    step: Mapped[int | None]
    quantization: Mapped[str | None]
    double_quant: Mapped[bool]
    prompt: Mapped[str]
    sampling: Mapped[str]
    token: Mapped[int] = mapped_column(server_default="0")
    worker: Mapped[str | None]
    given_back_by: Mapped[str | None]
    free_since: Mapped[datetime] = mapped_column(server_default=NOW)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Answered(OfProject, Table):
    """What a project's questions of a day (UTC) took."""

    __tablename__ = "answered"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    answers: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]


class AnsweringEndpoint(Table):
    """A server of an operator's that answers in the place of workers. `sealed` is the key that it
    asks for (`api.db.sealing`, of no project, under the id). It has the base models whose ids match
    `bases`. Adapters are laid into `folder`, which it sees as `their_folder`, at most
    `most_adapters` at once; `names` are its own names of what it was started with, by ours. Without
    `checked_at` it was never reached; `trouble` is why it cannot be used now. It is looked at again
    at `next_at`.
    """

    __tablename__ = "answering_endpoint"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    url: Mapped[str]
    sealed: Mapped[str | None]
    bases: Mapped[list[str]]
    folder: Mapped[str | None]
    their_folder: Mapped[str | None]
    most_adapters: Mapped[int]
    names: Mapped[dict[str, Any]]
    trouble: Mapped[str | None]
    checked_at: Mapped[datetime | None]
    next_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ServedModel(JobPart):
    """A tuned model at an endpoint: `name` is what it is called there, and `loaded` whether it was
    loaded by us. `state` and `reason` are what was found when it was last asked for its proof, at
    `attested_at`; it is asked again at `next_at`. `step` is a checkpoint's.
    """

    __tablename__ = "served_model"
    __table_args__ = (
        CheckConstraint(
            "state IN ('verified', 'answers_as_base', 'answers_as_other', 'unverified')",
            name="state",
        ),
        of_job(),
        Index(None, "job_id"),
    )

    endpoint_id: Mapped[str] = mapped_column(
        ForeignKey("answering_endpoint.id", ondelete="CASCADE"), primary_key=True
    )
    model: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int | None]
    name: Mapped[str]
    loaded: Mapped[bool] = mapped_column(server_default=text("false"))
    state: Mapped[str] = mapped_column(server_default="unverified")
    reason: Mapped[str | None]
    finding: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    attested_at: Mapped[datetime | None]
    next_at: Mapped[datetime] = mapped_column(server_default=NOW)
    used_at: Mapped[datetime] = mapped_column(server_default=NOW)
