"""What a model thinks before it answers: rendered, counted, and trained on or not."""

from copy import copy
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.data.test_real_templates import Bases, says
from tests.data.test_template import decode
from tunery.data.check import check
from tunery.data.formats import read_row
from tunery.data.template import ChatTokenizer, Example
from tunery.data.tokens import TokenReport

THOUGHTS = ("First thought.", "Second thought.")
IN_TEXT = says(
    "u:Hi",
    f"a:<think>\n{THOUGHTS[0]}\n</think>\n\nOne.",
    "u:So?",
    f"a:<think>\n{THOUGHTS[1]}\n</think>\n\nTwo.",
)


def beside(name: str) -> list[dict[str, Any]]:
    talk = says("u:Hi", "a:One.", "u:So?", "a:Two.")
    for message, thought in zip(talk[1::2], THOUGHTS, strict=True):
        message[name] = thought
    return talk


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def only_said(base: ChatTokenizer) -> ChatTokenizer:
    other = copy(base)
    other.train_on_reasoning = False
    return other


def without_thoughts(base: ChatTokenizer, example: Example) -> list[int]:
    """The plain way: each run of trained tokens, from the first that has a letter of the answer."""
    mask, at = [], 0
    for trained, group in groupby(example.mask):
        end = at + len(list(group))
        text = decode(base, example.ids[at:end])
        thought = next((thought for thought in THOUGHTS if thought in text), None)
        begin = 0
        if trained and thought:
            answer = "One." if thought == THOUGHTS[0] else "Two."
            begin = text.index(answer, text.index(thought) + len(thought))
        for index in range(at, end):
            until = len(decode(base, example.ids[at : index + 1]))
            mask.append(int(trained and until > begin))
        at = end
    return mask


@pytest.mark.parametrize("family", ["qwen3", "qwen3_6", "deepseek_r1_distill", "glm4moe", "gptoss"])
@pytest.mark.parametrize(
    "talk", [IN_TEXT, beside("reasoning_content"), beside("reasoning"), beside("thinking")]
)
def test_only_what_is_said_is_trained_on_if_the_reasoning_is_not(
    bases: Bases, family: str, talk: list[dict[str, Any]]
) -> None:
    base = bases.ours(family)
    row = read_row(1, {"messages": talk})
    both = base.encode(row, 10_000)
    said = only_said(base).encode(row, 10_000)
    assert [example.ids for example in said] == [example.ids for example in both]
    for ours, whole in zip(said, both, strict=True):
        assert ours.reasoning
        assert ours.mask == without_thoughts(base, whole)
    kept = sum(thought in decode(base, each.ids) for each in both for thought in THOUGHTS)
    if not any(each.lost for each in both):
        assert kept >= len(THOUGHTS)
        assert sum(map(sum, (each.mask for each in said))) < sum(sum(each.mask) for each in both)


def test_a_thought_before_a_tool_call_and_one_in_a_completion(bases: Bases) -> None:
    base = only_said(bases.ours("qwen3"))
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "look"}}
    answer = {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [call]}
    row = read_row(1, {"messages": [*says("u:Hi"), answer], "tools": [tool]})
    (example,) = base.encode(row, 10_000)
    trained = [i for i, mask in zip(example.ids, example.mask, strict=True) if mask]
    assert decode(base, trained).startswith('<tool_call>\n{"name": "look"')
    row = read_row(1, {"prompt": "Hi", "completion": "<think>Hm.</think>\n\nAhoy"})
    (example,) = base.encode(row, 10_000)
    trained = [i for i, mask in zip(example.ids, example.mask, strict=True) if mask]
    assert decode(base, trained) == "Ahoy</s>"


def test_the_reports_count_the_rows_with_reasoning_and_what_the_template_drops(
    bases: Bases, tmp_path: Path
) -> None:
    rows = [IN_TEXT, beside("reasoning"), says("u:Hi", "a:One."), IN_TEXT]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"messages": row}) for row in rows))
    assert check(path).rows_with_reasoning == 3
    for family, kept in (("qwen3", 3), ("llama3", 2)):
        report = TokenReport(10_000, 4)
        for row in rows:
            read = read_row(1, {"messages": row})
            report.add(read, bases.ours(family).encode(read, 10_000))
        assert report.as_dict()["reasoning"] == {"rows": 3, "kept": kept, "dropped": 3 - kept}
