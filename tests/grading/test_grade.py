"""From a row and an answer to a score."""

import time
import tracemalloc
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from tunery.grading.formula import Formula
from tunery.grading.grade import Reply, grade, messages_to, validator_of
from tunery.grading.graders import Grader, ScoreModel, fields_of
from tunery.grading.templates import Filler, Sample

GRADER: TypeAdapter[Any] = TypeAdapter(Grader)
ITEM = {"reference": "Four", "answer": {"name": "Ada", "tags": ["x", "y"]}}


def check(operation: str, **fields: Any) -> dict[str, Any]:
    given = {"input": "{{ sample.output_text }}", "reference": "{{item.reference}}"} | fields
    return {"type": "string_check", "name": "check", "operation": operation} | given


@pytest.mark.parametrize(
    ("operation", "answer", "score"),
    [
        ("eq", "Four", 1),
        ("eq", "four", 0),
        ("ne", "four", 1),
        ("like", "It has Four.", 1),
        ("like", "It has four.", 0),
        ("ilike", "It has FOUR.", 1),
    ],
)
def test_a_text_is_compared_as_the_operation_says(
    operation: str, answer: str, score: float
) -> None:
    assert grade(GRADER.validate_python(check(operation)), ITEM, Sample(answer)).reward == score


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{{ sample.output_json.name }}", "Bob"),
        ("{{sample.output_json.tags[1]}}", "2"),
        ("{{ sample.output_tools[0].function.name }}", "look_up"),
        ("{{ item.answer.name }} and {{ item.answer.tags }}", 'Ada and ["x","y"]'),
    ],
)
def test_placeholders_are_filled_from_the_row_and_the_answer(template: str, filled: str) -> None:
    sample = Sample(
        '{"name": "Bob", "tags": [1, 2]}', [{"function": {"name": "look_up", "arguments": "{}"}}]
    )
    grader = GRADER.validate_python(check("eq", input=template, reference=filled))
    assert grade(grader, ITEM, sample).reward == 1


@pytest.mark.parametrize(
    ("template", "trouble"),
    [
        ("{{ item.nothing }}", "invalid_variable_error"),
        ("{{ item.answer.tags[2] }}", "invalid_variable_error"),
        ("{{ sample.output_json.name }}", "sample_parse_error"),
        ("{{ item.deep }}", "sample_parse_error"),
    ],
)
def test_what_a_placeholder_does_not_find_is_no_score_and_said(template: str, trouble: str) -> None:
    item = ITEM | {"deep": orjson.loads("[" * 400 + "]" * 400)}
    found = grade(GRADER.validate_python(check("ne", input=template)), item, Sample("no JSON"))
    assert (found.reward, list(found.troubles)) == (0, [trouble])


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        (check("eq", input="{{ item }}{{ model }}"), "write {{ item.FIELD }} or"),
        (check("eq", input="{{ sample.output }}"), "output_text, output_json, output_tools"),
        (check("eq", input="{{ item.x | upper }}"), "write {{ item.FIELD }} or"),
        ({"type": "python", "name": "p", "source": "def grade(): ..."}, "is not offered"),
        (
            {
                "type": "text_similarity",
                "name": "t",
                "input": "",
                "reference": "",
                "evaluation_metric": "meteor",
            },
            "needs WordNet's data",
        ),
        (
            {
                "type": "multi",
                "name": "m",
                "graders": {"a": check("eq")},
                "calculate_output": "a + b",
            },
            "'b', which is none of the graders",
        ),
    ],
)
def test_a_grader_that_cannot_work_is_refused_in_words(grader: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        GRADER.validate_python(grader)
    assert words in str(refusal.value)


def test_a_multi_grader_has_the_value_of_its_formula_and_the_scores_of_its_parts() -> None:
    grader = GRADER.validate_python(
        {
            "type": "multi",
            "name": "both",
            "graders": {
                "exact": check("eq"),
                "like": check("ilike") | {"name": "other"},
            },
            "calculate_output": "(exact + 3 * like) / 4",
        }
    )
    found = grade(grader, ITEM, Sample("four!"))
    assert (found.reward, found.parts) == (0.75, {"exact": 0, "like": 1})
    assert fields_of(grader) == ["reference"]


def test_an_answer_is_read_as_json_once() -> None:
    sample = Sample('["a", "b"]')
    assert Filler({}, sample).fill("{{sample.output_json[0]}}{{sample.output_json[1]}}") == "ab"
    assert sample.json is sample.json


def test_a_short_template_makes_no_long_text() -> None:
    filler = Filler({"a": "x" * 65_536}, Sample(""))
    tracemalloc.start()
    assert len(filler.fill("{{item.a}}" * 3_000)) == 65_536
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert filler.cut


def test_hostile_texts_cost_neither_time_nor_memory() -> None:
    began = time.process_time()
    GRADER.validate_python(check("eq", input="{{" * 16_000))
    many = GRADER.validate_python(check("eq", input="{{ item.long }}" * 2_000))
    found = grade(many, {"reference": "", "long": "x" * 1_000_000}, Sample(""))
    assert list(found.troubles) == ["truncated_observation_error"]
    assert time.process_time() - began < 1
    with pytest.raises(ValueError, match="nested more than 200 deep"):
        Formula("-" * 500 + "1", set())


def test_a_formula_counts_as_people_write_it_and_is_nothing_else() -> None:
    names, scores = {"a", "b"}, {"a": 0.5, "b": 2.0}
    for text, value in {
        "-a + b ^ 2 / 2": 1.5,
        "min(a, b) * max(1, 3) - abs(-2)": -0.5,
        "sqrt(4) + floor(1.9) + ceil(0.1) + exp(0) + log(1)": 5,
    }.items():
        assert Formula(text, names).value(scores) == value
    for text in ("a.real", "a if b else 1", "__import__('os')", "a < b", "[a]", "(" * 400, "c"):
        with pytest.raises(ValueError, match=r"has |is no formula"):
            Formula(text, names)
    for text in ("a / 0", "9 ^ 9 ^ 9 ^ 9", "log(0)", "exp(1000)"):
        with pytest.raises((ValueError, ArithmeticError)):
            Formula(text, names).value(scores)


def test_json_is_held_against_a_schema_that_costs_little_and_asks_nobody() -> None:
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "pattern": "^(a+)+$"}},
    }
    grader = GRADER.validate_python({"type": "json_schema", "name": "j", "schema": schema})
    began = time.process_time()
    for answer, score in {
        '{"name": "aaa"}': 1,
        '{"name": "' + "a" * 50_000 + 'b"}': 0,
        "{}": 0,
        "no JSON": 0,
    }.items():
        assert grade(grader, {}, Sample(answer)).reward == score
    assert time.process_time() - began < 1
    doubled = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(40)}
    circle = {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}
    for refused, words in (
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "refer to a place of the schema"),
        ({"$ref": "#/$defs/d0", "$defs": doubled | {"d40": {}}}, "more than 2,000 objects"),
        ({"$ref": "#/$defs/n", "$defs": circle}, "refers to itself"),
        ({"anyOf": [{"unevaluatedItems": False}]}, "it has unevaluatedItems"),
        ({"properties": {"a": {"$id": "http://127.0.0.1:1/"}}}, "it has \\$id"),
    ):
        with pytest.raises(ValueError, match=words):
            validator_of(refused)
    shared = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}
    assert validator_of(shared).is_valid(10**25)


JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "tunery-demo",
    "input": [{"role": "user", "content": "Is {{ sample.output_text }} right?"}],
    "range": [1, 5],
}


def test_a_judge_is_asked_for_a_number_and_its_answer_is_read() -> None:
    judge: ScoreModel = GRADER.validate_python(JUDGE)
    asked = messages_to(judge, {}, Sample("4"))
    assert asked[0]["content"].startswith("Is 4 right?\n\nAnswer with JSON alone")
    for said, score in {
        '{"result": 4}': 4,
        'It is good. {"steps": [], "result": 3.5}': 3.5,
        " 2 ": 2,
    }.items():
        replies = {"judge": Reply("tunery-demo", said)}
        assert grade(judge, {}, Sample(""), replies).reward == score
    for reply, trouble in {
        Reply("m", '{"result": 9}'): "model_grader_parse_error",
        Reply("m", "very good"): "model_grader_parse_error",
        Reply("m", error="It did not answer."): "model_grader_server_error",
    }.items():
        found = grade(judge, {}, Sample(""), {"judge": reply})
        assert (found.reward, list(found.troubles)) == (0, [trouble])


def test_a_judge_chooses_a_label_which_passes_or_does_not() -> None:
    labels = {"labels": ["right", "wrong"], "passing_labels": ["right"]}
    fields = {name: JUDGE[name] for name in ("name", "model", "input")}
    judge = GRADER.validate_python({"type": "label_model", **fields, **labels})
    for said, score in {'{"result": "right"}': 1, "wrong": 0, "unsure": 0}.items():
        found = grade(judge, {}, Sample(""), {"judge": Reply("m", said)})
        assert (found.reward, bool(found.troubles)) == (score, said == "unsure")
