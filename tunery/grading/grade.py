"""One answer's score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from tunery.grading.formula import Formula
from tunery.grading.graders import (
    Grader,
    JsonSchema,
    LabelModel,
    Multi,
    Part,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    parts_of,
)
from tunery.grading.references import require_few
from tunery.grading.similarity import METRICS
from tunery.grading.templates import Filler, NoJson, NoSuchValue, Sample

if TYPE_CHECKING:
    from jsonschema_rs import Validator

# OpenAI's names for why there is no score.
Trouble = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "invalid_variable_error",
    "other_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
]


@dataclass(frozen=True)
class Reply:
    """What a judge said; with `error`, why it said nothing. It `refused` if that is this question's
    fault, so that it never will.
    """

    model: str
    text: str = ""
    tokens: int = 0
    error: str | None = None
    refused: bool = False


@dataclass
class Grade:
    """`reward` is 0 where there is none, and `troubles` say why, each in a sentence. `parts` are
    the scores of a multi grader's graders.
    """

    reward: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    troubles: dict[Trouble, str] = field(default_factory=dict)


class Troubled(Exception):
    def __init__(self, trouble: Trouble, words: str) -> None:
        super().__init__(words)
        self.trouble: Trouble = trouble


def grade(
    grader: Grader,
    item: Mapping[str, Any],
    sample: Sample,
    replies: Mapping[str, Reply] | None = None,
) -> Grade:
    """The score of an answer to a row. `replies` are those of the judges, by their names."""
    found, filler = Grade(), Filler(item, sample)
    for name, part in parts_of(grader).items():
        try:
            found.parts[name] = score(part, filler, (replies or {}).get(name))
        except Troubled as error:
            found.parts[name] = 0.0
            found.troubles.setdefault(error.trouble, str(error))
    if filler.cut:
        found.troubles["truncated_observation_error"] = "A text was too long, and was cut."
    if not isinstance(grader, Multi):
        found.reward, found.parts = found.parts[grader.name], {}
        return found
    if set(found.troubles) <= {"truncated_observation_error"}:
        try:
            formula = Formula(grader.calculate_output, set(grader.graders))
            found.reward = formula.value(found.parts)
        except (ValueError, ArithmeticError) as error:
            words = f"The formula has no value: {error}."
            found.troubles["formula_parse_error"] = words
    return found


def score(part: Part, filler: Filler, reply: Reply | None) -> float:
    """Raises `Troubled`."""
    try:
        match part:
            case StringCheck():
                given, reference = filler.fill(part.input), filler.fill(part.reference)
                return float(checked(part.operation, given, reference))
            case TextSimilarity():
                compare = METRICS[part.evaluation_metric]
                return compare(filler.fill(part.input), filler.fill(part.reference))
            case JsonSchema():
                return fits(part, filler.fill(part.input))
            case ScoreModel() | LabelModel():
                return judged(part, filler, reply)
            case _:
                raise Troubled("other_error", f"A {part.type} grader is not offered.")
    except NoSuchValue as error:
        raise Troubled("invalid_variable_error", str(error)) from error
    except NoJson as error:
        raise Troubled("sample_parse_error", str(error)) from error


def checked(operation: str, given: str, reference: str) -> bool:
    match operation:
        case "eq":
            return given == reference
        case "ne":
            return given != reference
        case "like":
            return reference in given
        case _:
            return reference.casefold() in given.casefold()


def fits(part: JsonSchema, text: str) -> float:
    """What is no JSON fits no schema. Raises `Troubled` for a schema that is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return 0.0
    try:
        return float(validator_of(part.json_schema).is_valid(value))
    except ValueError as error:
        raise Troubled("other_error", str(error)) from error


def trouble_of(*grades: Grade) -> str | None:
    """Why one of them is no score, in a sentence."""
    return next((words for found in grades for words in found.troubles.values()), None)


def validator_of(schema: dict[str, Any]) -> "Validator":
    """It asks no other address, and takes time in proportion to the text alone: a schema is a
    stranger's. Raises `ValueError` for one that is none, or does not allow that.
    """
    import jsonschema_rs  # noqa: PLC0415 - the command line has it not

    def no_other(address: str) -> Any:  # noqa: ANN401
        raise ValueError(f"it refers to {address}, and other documents are not fetched")

    try:
        require_few(schema)
        return jsonschema_rs.validator_for(
            schema, retriever=no_other, pattern_options=jsonschema_rs.RegexOptions()
        )
    except ValueError as error:
        first = str(error).splitlines()[0][:512]
        raise ValueError(f"schema is no JSON Schema that can be used here: {first}") from error


def messages_to(
    judge: ScoreModel | LabelModel, item: Mapping[str, Any], sample: Sample
) -> list[dict[str, Any]]:
    """What a judge is asked, as OpenAI's messages.

    Raises:
        NoSuchValue, NoJson: as `Filler.fill`.

    """
    filler = Filler(item, sample)
    said = [
        {
            "role": message.role,
            "content": "\n".join(filler.fill(text) for text in message.texts),
        }
        for message in judge.input
    ]
    if said[-1]["role"] == "user":
        said[-1]["content"] += f"\n\n{judge.asked}"
    else:
        said.append({"role": "user", "content": judge.asked})
    return said


def judged(part: ScoreModel | LabelModel, filler: Filler, reply: Reply | None) -> float:
    for text in part.templates:  # of one whose placeholders find nothing there is no reply
        filler.fill(text)
    if reply is None or reply.error:
        words = reply.error if reply and reply.error else "The judge was not asked."
        if reply and reply.refused:
            raise Troubled("model_grader_refusal_error", words)
        raise Troubled("model_grader_server_error", words)
    result = result_in(reply.text)
    if isinstance(part, LabelModel):
        if result not in part.labels:
            said = reply.text.strip()[:128]
            raise Troubled("model_grader_parse_error", f"The judge chose no label: {said!r}.")
        return float(result in part.passing_labels)
    low, high = part.range
    try:
        number = float(result)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        said = reply.text.strip()[:128]
        raise Troubled(
            "model_grader_parse_error",
            f"The judge gave no number from {low:g} to {high:g}: {said!r}.",
        )
    return number


def result_in(text: str) -> Any:  # noqa: ANN401 (whatever the judge wrote)
    """Of the last JSON object with a `result`; else the text itself, for judges that write the
    result alone.
    """
    end = text.rfind("}")
    start = text.rfind("{", 0, end)
    if 0 <= start < end:
        try:
            found = orjson.loads(text[start : end + 1])
        except orjson.JSONDecodeError:
            found = {}
        if "result" in found:
            return found["result"]
    return text.strip()
