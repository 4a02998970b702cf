"""Graders, as OpenAI's API runs and checks them."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import to_json

from api.http.shapes import Request
from tunery.fields import Described
from tunery.grading.grade import Grade, Reply, Trouble
from tunery.grading.graders import A_PART, Grader

MOST_BYTES = 262_144


def bounded(item: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(item)) > MOST_BYTES:
        raise ValueError(f"is longer than {MOST_BYTES:,} bytes as JSON")
    return item


class RunGrader(Request):
    """An answer to grade."""

    grader: Annotated[Grader, Field(description="The grader.", examples=[A_PART])]
    model_sample: Annotated[
        str, Field(max_length=MOST_BYTES, examples=["One, with four compartments."])
    ]
    """The answer, which placeholders have as `sample.output_text`, and as `sample.output_json` if
    it is JSON.
    """
    item: Annotated[
        dict[str, Any],
        Field(max_length=1_024, examples=[{"reference": "One."}]),
        AfterValidator(bounded),
    ] = Field(default_factory=dict)
    """The row that was answered, which placeholders have as `item`."""


class ValidateGrader(Request):
    """A grader to check."""

    grader: Annotated[Grader, Field(description="The grader.", examples=[A_PART])]


class ValidatedGrader(Described):
    """A grader that can be used."""

    grader: Annotated[dict[str, Any], Field(examples=[A_PART])]
    """The grader as it was sent."""


class GraderErrors(Described):
    """Why there is no score, as OpenAI names the reasons."""

    formula_parse_error: bool = False
    """The formula has no value."""
    sample_parse_error: bool = False
    """The answer is no JSON, and the grader reads it as that."""
    truncated_observation_error: bool = False
    """A text was too long, and was cut."""
    unresponsive_reward_error: bool = False
    """Always false."""
    invalid_variable_error: bool = False
    """The row or the answer has nothing at a placeholder."""
    other_error: bool = False
    """Something else."""
    python_grader_server_error: bool = False
    """Always false: there are no python graders."""
    python_grader_server_error_type: None = None
    """Always null."""
    python_grader_runtime_error: bool = False
    """Always false."""
    python_grader_runtime_error_details: None = None
    """Always null."""
    model_grader_server_error: bool = False
    """The judge did not answer."""
    model_grader_refusal_error: bool = False
    """The judge cannot take what it is asked, such as a text that is too long."""
    model_grader_parse_error: bool = False
    """The judge answered something else than a score or a label."""
    model_grader_server_error_details: Annotated[
        str | None, Field(examples=["No worker answered within 30 s."])
    ] = None
    """Why the judge did not answer; null: it did, or there is none."""


class GraderMetadata(Described):
    """How an answer was graded."""

    name: Annotated[str, Field(examples=["exact"])]
    """Name of the grader."""
    type: Annotated[str, Field(examples=["string_check"])]
    """The kind of grader."""
    errors: GraderErrors
    """Why there is no score."""
    error_details: Annotated[list[str], Field(examples=[["item has nothing at 'reference'."]])]
    """The same in sentences; OpenAI has no such field."""
    execution_time: Annotated[float, Field(examples=[0.0004])]
    """Seconds that it took."""
    scores: Annotated[dict[str, float], Field(examples=[{"name": 1.0, "phone": 0.5}])]
    """Scores of the graders of a `multi`, by their names."""
    token_usage: Annotated[int, Field(examples=[184])] | None
    """Tokens that the judges took; null: there are none."""
    sampled_model_name: Annotated[str, Field(examples=["tunery-demo"])] | None
    """The judge; null: there is none."""


class GraderRun(Described):
    """An answer's score."""

    reward: Annotated[float, Field(examples=[1.0])]
    """The score; 0 if there is none."""
    metadata: GraderMetadata
    """How it came about."""
    sub_rewards: Annotated[dict[str, float], Field(examples=[{"name": 1.0, "phone": 0.5}])]
    """Scores of the graders of a `multi`, by their names."""
    model_grader_token_usage_per_model: Annotated[
        dict[str, int], Field(examples=[{"tunery-demo": 184}])
    ]
    """Tokens that each judge took."""

    @classmethod
    def of(
        cls, grader: Grader, found: Grade, replies: dict[str, Reply], seconds: float
    ) -> "GraderRun":
        troubles: dict[Trouble, str] = found.troubles
        tokens: dict[str, int] = {}
        for reply in replies.values():
            tokens[reply.model] = tokens.get(reply.model, 0) + reply.tokens
        errors = GraderErrors(
            **dict.fromkeys(troubles, True),
            model_grader_server_error_details=troubles.get("model_grader_server_error"),
        )
        return cls(
            reward=found.reward,
            metadata=GraderMetadata(
                name=grader.name,
                type=grader.type,
                errors=errors,
                error_details=list(troubles.values()),
                execution_time=seconds,
                scores=found.parts,
                token_usage=sum(tokens.values()) if replies else None,
                sampled_model_name=next(iter(tokens), None),
            ),
            sub_rewards=found.parts,
            model_grader_token_usage_per_model=tokens,
        )
