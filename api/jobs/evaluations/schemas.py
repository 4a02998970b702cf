"""The verdict on a job, as it is shown."""

from typing import Annotated, Any, Literal

from pydantic import Field

from api.tables import Job
from tunery.evaluations import AnsweredRow
from tunery.fields import Described, JobId, Kind
from tunery.grading.graders import A_PART
from tunery.grading.verdict import Score


class WorseRow(Described):
    """A row with a lower score than before."""

    line: Annotated[int, Field(examples=[17])]
    """Line number of the row in the file, starting at 1."""
    prompt: Annotated[str, Field(examples=["How many stomachs does a cow have?"])]
    """Beginning of the last message before the answer, or of the prompt."""
    base: Annotated[str, Field(examples=["One, with four compartments."])]
    """Beginning of the first model's answer."""
    tuned: Annotated[str, Field(examples=["Four."])]
    """Beginning of the tuned model's answer."""
    base_score: Annotated[float, Field(examples=[1.0])]
    """Score of the first model's answer."""
    tuned_score: Annotated[float, Field(examples=[0.0])]
    """Score of the tuned model's answer."""


class Compared(Described):
    """How the tuned model compares with the model that the training started from."""

    verdict: Literal["better", "same", "worse", "pending", "failed"]
    """`better` or `worse` if so many rows show it with 95 % confidence, else `same`. `pending`: a
    judge is still to be asked; `failed`: it did not answer for a day, or there are no rows.
    """
    rows: Annotated[int, Field(examples=[64])] | None = None
    """Rows that both models answered; null: the verdict is pending, or there is none."""
    base_score: Score | None = None
    """Mean score of the model that the training started from."""
    tuned_score: Score | None = None
    """Mean score of the tuned model."""
    difference: Annotated[float, Field(examples=[0.22])] | None = None
    """The tuned model's mean score less the other's."""
    interval: Annotated[tuple[float, float] | None, Field(examples=[[0.12, 0.31]])] = None
    """The 95 % confidence interval of the difference; null: there are too few rows for one."""
    better_rows: Annotated[int, Field(examples=[21])] | None = None
    """Rows with a higher score than before."""
    worse_rows: Annotated[int, Field(examples=[3])] | None = None
    """Rows with a lower score than before."""
    got_worse: list[WorseRow] = Field(default_factory=list)
    """Up to 5 of those rows, the worst first."""
    warning: Annotated[str, Field(examples=["12 rows are few."])] | None = None
    """Why the verdict may say little; null: nothing is known against it."""


class EvaluationObject(Compared):
    """The verdict on a job, with a page of the rows that it follows from."""

    object: Kind[Literal["fine_tuning.job.evaluation"]] = "fine_tuning.job.evaluation"
    job_id: JobId
    grader: Annotated[dict[str, Any], Field(examples=[A_PART])]
    """The grader of the answers."""
    answers: list[AnsweredRow]
    """The rows with the answers and scores of both models, in the file's order."""
    has_more: Annotated[bool, Field(examples=[False])]
    """Whether more rows follow. Ask for them with `after_line`, the line of the last one here."""

    @classmethod
    def of_rows(cls, job: Job, answers: list[AnsweredRow], *, has_more: bool) -> "EvaluationObject":
        wanted = (job.spec or {})["evaluation"]
        shown: dict[str, Any] = job.evaluation or {"verdict": "pending"}
        return cls(
            job_id=job.id, grader=wanted["grader"], answers=answers, has_more=has_more, **shown
        )
