"""Graders in OpenAI's shapes, and `json_schema`, which is ours."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import to_json

from tunery.fields import Described
from tunery.grading.formula import Formula
from tunery.grading.templates import Path, paths_in, readable

MOST_TEMPLATE = 32_768
MOST_SCHEMA_BYTES = 65_536
MOST_PARTS = 16
MOST_MESSAGES = 16

Template = Annotated[str, Field(max_length=MOST_TEMPLATE), AfterValidator(readable)]
Name = Annotated[
    str,
    Field(
        description="Name of the grader.",
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00]*$",
        examples=["exact"],
    ),
]
Input = Annotated[
    Template,
    Field(
        description="The text that is graded, with placeholders for the row and the answer.",
        examples=["{{ sample.output_text }}"],
    ),
]
Reference = Annotated[
    Template,
    Field(
        description="What it is compared with, with placeholders as in the input.",
        examples=["{{ item.reference }}"],
    ),
]


class Shape(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StringCheck(Shape):
    """1 if the input is (`eq`) or is not (`ne`) the reference, or contains it (`like`; `ilike`
    whatever the case); else 0.
    """

    type: Literal["string_check"]
    """The kind of grader."""
    name: Name
    input: Input
    reference: Reference
    operation: Literal["eq", "ne", "like", "ilike"]
    """How the input is compared with the reference."""

    @property
    def templates(self) -> list[str]:
        return [self.input, self.reference]


class TextSimilarity(Shape):
    """How like the reference the input is, from 0 to 1."""

    type: Literal["text_similarity"]
    """The kind of grader."""
    name: Name
    input: Input
    reference: Reference
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "gleu", "meteor", "cosine",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip
    """How they are compared. `cosine` and `meteor` are refused."""

    @field_validator("evaluation_metric")
    @classmethod
    def offered(cls, metric: str) -> str:
        if metric == "cosine":
            raise ValueError("cosine needs a model of embeddings, which is not here")
        if metric == "meteor":
            raise ValueError("meteor needs WordNet's data, which is not here; take rouge_l")
        return metric

    @property
    def templates(self) -> list[str]:
        return [self.input, self.reference]


class JsonSchema(Shape):
    """1 if the input is JSON that the schema allows, else 0. OpenAI has none like it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: Literal["json_schema"]
    """The kind of grader."""
    name: Name
    input: Input = "{{ sample.output_text }}"
    json_schema: Annotated[
        dict[str, Any],
        Field(
            alias="schema", max_length=1_024, examples=[{"type": "object", "required": ["name"]}]
        ),
    ]
    """The schema, by itself: it refers to no other document."""

    @field_validator("json_schema")
    @classmethod
    def bounded(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if len(to_json(schema)) > MOST_SCHEMA_BYTES:
            raise ValueError(f"is longer than {MOST_SCHEMA_BYTES:,} bytes as JSON")
        return schema

    @property
    def templates(self) -> list[str]:
        return [self.input]


class InputText(Shape):
    """A text in a message."""

    type: Literal["input_text", "output_text"]
    """The kind of content; only texts are taken."""
    text: Annotated[Template, Field(examples=["Is this right? {{ sample.output_text }}"])]
    """The text, with placeholders."""


class JudgeMessage(Shape):
    """A message to the judge."""

    role: Literal["user", "assistant", "system", "developer"]
    """Who says it."""
    content: Annotated[
        Template | InputText | Annotated[list[Template | InputText], Field(max_length=16)],
        Field(examples=["Is this right? {{ sample.output_text }}"]),
    ]
    """What is said, with placeholders."""
    type: Literal["message"] = "message"
    """The kind of item, always a message."""

    @property
    def texts(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else [self.content]
        return [part if isinstance(part, str) else part.text for part in parts]


class JudgeSampling(Shape):
    """How the judge's answer is chosen."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1, examples=[42])] | None = None
    """The same seed gives the same answer on the same machine."""
    top_p: Annotated[float, Field(gt=0, le=1, examples=[1.0])] | None = None
    """Only the likeliest tokens are chosen from that have this probability together."""
    temperature: Annotated[float, Field(ge=0, le=2, examples=[0.0])] | None = None
    """What the scores of tokens are divided by; null: 0, the likeliest token."""
    max_completions_tokens: Annotated[int, Field(ge=1, le=8192, examples=[512])] | None = None
    """The most tokens of the judge's answer; null: 512."""


Judge = Annotated[
    str,
    Field(
        description="Name of the model that judges: any that this service answers with.",
        min_length=1,
        max_length=512,
        examples=["Qwen/Qwen3-8B"],
    ),
]
JudgeInput = Annotated[
    list[JudgeMessage],
    Field(
        description="The conversation that the judge goes on with.",
        min_length=1,
        max_length=MOST_MESSAGES,
    ),
]


JudgeParams = Annotated[
    JudgeSampling,
    Field(
        description="How the judge is asked; by default for its likeliest answer.",
        examples=[{"temperature": 0}],
    ),
]


class ScoreModel(Shape):
    """The number that a model answers with. It is asked to write `{"result": NUMBER}`."""

    type: Literal["score_model"]
    """The kind of grader."""
    name: Name
    model: Judge
    input: JudgeInput
    sampling_params: JudgeParams = JudgeSampling()
    range: Annotated[tuple[float, float], Field(examples=[[0, 1]])] = (0.0, 1.0)
    """The least and the most that it may answer."""

    @field_validator("range")
    @classmethod
    def ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not bounds[0] < bounds[1]:
            raise ValueError("must have its lower bound first, as [0, 1]")
        return bounds

    @property
    def templates(self) -> list[str]:
        return [text for message in self.input for text in message.texts]

    @property
    def asked(self) -> str:
        low, high = self.range
        return f'Answer with JSON alone: {{"result": NUMBER}}, the number from {low:g} to {high:g}.'


class LabelModel(Shape):
    """1 if a model chooses one of the passing labels, else 0. It is asked to write `{"result":
    LABEL}`.
    """

    type: Literal["label_model"]
    """The kind of grader."""
    name: Name
    model: Judge
    input: JudgeInput
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(min_length=1, max_length=64, examples=[["right", "wrong"]]),
    ]
    """The labels that it chooses from."""
    passing_labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(min_length=1, max_length=64, examples=[["right"]]),
    ]
    """The labels that pass."""
    sampling_params: JudgeParams = JudgeSampling()

    @model_validator(mode="after")
    def known(self) -> "LabelModel":
        if unknown := set(self.passing_labels) - set(self.labels):
            raise ValueError(f"passing_labels has {min(unknown)!r}, which is none of its labels")
        return self

    @property
    def templates(self) -> list[str]:
        return [text for message in self.input for text in message.texts]

    @property
    def asked(self) -> str:
        labels = orjson.dumps(self.labels).decode()
        return f'Answer with JSON alone: {{"result": LABEL}}, the label one of {labels}.'


class Python(Shape):
    """OpenAI's grader of a user's own program. It is refused."""

    type: Literal["python"]
    """The kind of grader."""
    name: Name
    source: Annotated[str, Field(max_length=262_144, examples=["def grade(sample, item): ..."])]
    """The program."""
    image_tag: Annotated[str, Field(max_length=256, examples=["2025-05-08"])] | None = None
    """The image that it would run in."""

    @model_validator(mode="after")
    def refused(self) -> "Python":
        raise ValueError(
            "a python grader runs a program of the user's on the server, which is not offered; "
            "combine string_check, text_similarity and json_schema with a multi grader, or grade "
            "the answers of /v1/chat/completions where you are"
        )

    @property
    def templates(self) -> list[str]:
        return []


Part = Annotated[
    StringCheck | TextSimilarity | JsonSchema | ScoreModel | LabelModel | Python,
    Field(discriminator="type"),
]


A_PART = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "operation": "eq",
}


class Multi(Shape):
    """A formula over the scores of several graders."""

    type: Literal["multi"]
    """The kind of grader."""
    name: Name
    graders: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)],
            Part,
        ],
        Field(min_length=1, max_length=MOST_PARTS, examples=[{"name": A_PART, "phone": A_PART}]),
    ]
    """The graders, by the names that the formula has for them. One alone may stand here itself."""
    calculate_output: Annotated[
        str, Field(min_length=1, max_length=1_024, examples=["(name + 2 * phone) / 3"])
    ]
    """The formula: numbers, names of graders, + - * / ^ and min, max, abs, floor, ceil, exp, sqrt,
    log.
    """

    @field_validator("graders", mode="before")
    @classmethod
    def by_name(cls, graders: Any) -> Any:  # noqa: ANN401 (whatever was sent)
        """OpenAI's schema has one grader here, its guides have them by their names."""
        if isinstance(graders, dict) and isinstance(graders.get("type"), str):
            return {graders.get("name"): graders}
        return graders

    @model_validator(mode="after")
    def counted(self) -> "Multi":
        try:
            Formula(self.calculate_output, set(self.graders))
        except ValueError as error:
            raise ValueError(f"calculate_output {error}") from None
        return self

    @property
    def templates(self) -> list[str]:
        return [text for part in self.graders.values() for text in part.templates]


Grader = Annotated[
    StringCheck | TextSimilarity | JsonSchema | ScoreModel | LabelModel | Multi | Python,
    Field(discriminator="type"),
]


def parts_of(grader: Grader) -> dict[str, Part]:
    """The graders that score, by their names: of a `multi` its parts, else itself."""
    return dict(grader.graders) if isinstance(grader, Multi) else {grader.name: grader}


def judges_of(grader: Grader) -> dict[str, ScoreModel | LabelModel]:
    """Those of them that ask a model."""
    return {
        name: part
        for name, part in parts_of(grader).items()
        if isinstance(part, ScoreModel | LabelModel)
    }


def paths_of(grader: Grader) -> Iterator[Path]:
    """What its placeholders read."""
    for template in grader.templates:
        yield from paths_in(template)


def fields_of(grader: Grader) -> list[str]:
    """The fields of the row that it reads."""
    found = (path[1] for path in paths_of(grader) if path[0] == "item" and len(path) > 1)
    return list(dict.fromkeys(str(name) for name in found))
