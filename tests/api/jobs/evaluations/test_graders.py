"""/v1/fine_tuning/alpha/graders, with the openai SDK."""

from typing import Any

import openai
import pytest

from tests.conftest import Served

EXACT: Any = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "operation": "eq",
}
SHAPE: Any = {"type": "json_schema", "name": "shape", "schema": {"type": "obj"}}


def test_an_answer_is_graded_as_openai_grades_it(shared_server: Served) -> None:
    graders = shared_server.client_for(shared_server.key).fine_tuning.alpha.graders
    multi: Any = {
        "type": "multi",
        "name": "both",
        "graders": {"exact": EXACT, "like": EXACT | {"name": "like", "operation": "ilike"}},
        "calculate_output": "(exact + like) / 2",
    }
    right = graders.run(grader=multi, model_sample="One, I say.", item={"reference": "one"})
    assert (right.reward, right.sub_rewards) == (0.5, {"exact": 0, "like": 1})
    assert (right.metadata.name, right.metadata.token_usage) == ("both", None)
    missing = graders.run(grader=EXACT, model_sample="One.")
    assert (missing.reward, missing.metadata.errors.invalid_variable_error) == (0, True)
    large = 10**25  # more than some writers of JSON take
    bounded: Any = {"type": "json_schema", "name": "shape", "schema": {"maximum": large}}
    assert graders.run(grader=bounded, model_sample="1", item={"n": large}).reward == 1
    validated: Any = graders.validate(grader=multi).grader
    assert validated.model_dump(exclude_unset=True) == multi


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ({"type": "python", "name": "p", "source": "1"}, "runs a program of the user's"),
        (SHAPE, "is no JSON Schema that can be used here"),
        (EXACT | {"operation": "is"}, "operation"),
    ],
)
def test_a_grader_that_cannot_be_used_is_refused_in_words(
    shared_server: Served, grader: Any, words: str
) -> None:
    graders = shared_server.client_for(shared_server.key).fine_tuning.alpha.graders
    for refused in (
        lambda: graders.validate(grader=grader),
        lambda: graders.run(grader=grader, model_sample=""),
    ):
        with pytest.raises(openai.BadRequestError) as refusal:
            refused()
        assert words in refusal.value.message
