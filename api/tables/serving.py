"""What models are asked, for as long as somebody waits for the answer; and how much it was."""

from datetime import date, datetime

from sqlalchemy import Date, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from api.tables.base import NOW, OfProject, Table


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
