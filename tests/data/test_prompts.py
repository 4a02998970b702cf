"""What a model is asked, in tokens, and how it calls functions; with the chat templates of models
that people train, as TRL keeps them.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_real_templates import FAMILIES, TALKS, Bases, says
from tests.data.test_template import DEMO, decode, with_template
from tunery.completions import ChatPrompt, TextPrompt
from tunery.data.calls import call_form
from tunery.data.formats import read_row
from tunery.data.prompts import Unanswerable, chat_prompt, text_prompt

LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
}
TOOLS = [LOOK, {**LOOK, "function": {**LOOK["function"], "name": "go"}}]  # type: ignore[dict-item]
# Its prompt begins a thought.
THINKING = {"qwen3_6"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("family", sorted({*FAMILIES} - THINKING))
def test_a_prompt_is_what_training_encodes_before_the_answer(family: str, bases: Bases) -> None:
    base = bases.ours(family)
    for name in ("one turn", "a system message", "three turns"):
        messages = TALKS[name]
        asked = chat_prompt(base, ChatPrompt(messages=messages[:-1]))
        rows = base.encode(read_row(1, {"messages": messages}), 9_999)
        assert any(row.ids[: len(asked.ids)] == asked.ids for row in rows), decode(base, asked.ids)


def test_typed_control_tokens_are_text_in_a_prompt_as_in_training(tmp_path: Path) -> None:
    base = with_template(tmp_path, (DEMO / "chat_template.jinja").read_text())
    messages = says("u:Say <|im_end|> twice.", "a:No.")
    asked = chat_prompt(base, ChatPrompt(messages=messages[:-1])).ids
    [row] = base.encode(read_row(1, {"messages": messages}), 9_999)
    assert row.ids[: len(asked)] == asked
    assert [decode(base, [id_]) for id_ in asked].count("<|im_end|>") == 1, "the template's own"


def test_a_text_is_as_the_prompt_of_a_row_and_not_closed(bases: Bases) -> None:
    base = bases.ours("mistral")
    [row] = base.encode(read_row(1, {"prompt": "Who is", "completion": " there?"}), 99)
    assert text_prompt(base, TextPrompt(text="Who is")).ids == row.ids[: row.mask.index(1)]
    assert text_prompt(base, TextPrompt(ids=[5, 6])).ids == [5, 6]
    with pytest.raises(Unanswerable, match="no tokens"):
        text_prompt(base, TextPrompt(ids=[]))


def asking(**asked: Any) -> ChatPrompt:
    return ChatPrompt.model_validate({"messages": says("u:Where?"), "tools": TOOLS, **asked})


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3_1", "mistral"])
def test_the_calls_that_a_template_writes_are_read_from_what_a_model_says(
    family: str, bases: Bases
) -> None:
    base = bases.ours(family)
    form = call_form(base)
    assert form
    call = '{"name": "look", "arguments": {"at": "the \\"sea\\"", "deep": 3}}'
    said = form.opening + call + form.closing
    beside, calls = form.calls_in(f"{said}\n{said}", frozenset({"look", "go"}))
    assert beside == ""
    assert [(each.name, each.arguments) for each in calls] == [
        ("look", '{"at": "the \\"sea\\"", "deep": 3}')
    ] * 2
    if form.opening:
        assert form.calls_in(f"Let me see. {said}", frozenset({"look"}))[0] == "Let me see."
    for broken in (said[: said.rindex("}}")], said.replace("look", "other"), "No call."):
        assert form.calls_in(broken, frozenset({"look"})) == (broken, [])


def test_a_call_is_forced_by_beginning_the_answer_with_it(bases: Bases) -> None:
    base = bases.ours("qwen2_5")
    begun = [
        chat_prompt(base, asking(tool_choice=choice)).begun
        for choice in ("auto", "none", "required", "go")
    ]
    opening = '<tool_call>\n{"name": "'
    assert begun == ["", "", opening, f'{opening}go", "arguments":']
    prompt = chat_prompt(base, asking(tool_choice="go"))
    assert decode(base, prompt.ids).endswith(f"assistant\n{begun[-1]}")
    only = chat_prompt(base, asking(tools=[LOOK], tool_choice="required"))
    assert only.begun == f'{opening}look", "arguments":'
    assert "look" not in decode(base, chat_prompt(base, asking(tool_choice="none")).ids)


@pytest.mark.parametrize(
    ("family", "asked", "code", "param"),
    [
        ("gemma", {}, "tools_not_supported", "tools"),
        ("glm4moe", {}, "tools_not_supported", "tools"),
        ("qwen2_5", {"tool_choice": "other"}, "invalid_tool_choice", "tool_choice"),
        ("qwen2_5", {"tools": [{"type": "web"}]}, "invalid_tools", "tools"),
        ("qwen2_5", {"messages": []}, "invalid_messages", "messages"),
        (
            "qwen2_5",
            {"messages": [{"role": "judge", "content": ""}]},
            "invalid_messages",
            "messages",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(
    family: str, asked: dict[str, Any], code: str, param: str, bases: Bases
) -> None:
    base = bases.ours(family)
    with pytest.raises(Unanswerable) as refused:
        chat_prompt(base, asking(**asked))
    refusal = refused.value.refusal
    assert (refusal.code, refusal.param) == (code, param)
    assert refusal.message.endswith(".")
