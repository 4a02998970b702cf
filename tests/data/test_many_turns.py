"""What a template costs for rows with many turns, calls and thoughts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_template import (
    ROLES,
    TOOLS,
    chat,
    one,
    trained,
    with_template,
)
from tunery.data.jinja import Rendered, TemplateError
from tunery.data.lines import row_of
from tunery.data.rows import Chat, ChatMessage, Fault, ToolCall
from tunery.data.said import overlap


def agent(turns: int, *, trained: bool) -> Chat:
    """So many calls of a tool with their results, and a last answer, which is trained."""
    messages = []
    for turn in range(turns):
        call = ToolCall(f"c{turn}", f"look_{turn % 3}", json.dumps({"at": turn}))
        messages += [
            ChatMessage("user", f"Question {turn}", trained=False),
            ChatMessage("assistant", "", trained=trained, tool_calls=(call,)),
            ChatMessage("tool", f"Result {turn}", trained=False, tool_call_id=call.id),
        ]
    asked = ChatMessage("user", "And?", trained=False)
    tools = tuple(
        {"type": "function", "function": {"name": f"look_{n}", "parameters": {}}} for n in range(3)
    )
    return Chat(1, (*messages, asked, ChatMessage("assistant", "Done.", trained=True)), tools)


def test_calls_that_are_not_trained_cost_one_rendering_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each took a minute for a row of 1,600 turns."""
    base = with_template(tmp_path, TOOLS)
    rendered: list[Any] = []
    write = base.write

    def counted(said: Any, **flags: bool) -> Rendered:
        rendered.append(said)
        return write(said, **flags)

    monkeypatch.setattr(base, "write", counted)
    example = one(base, agent(50, trained=False), 100_000)
    assert trained(base, example) == ["Done.<|im_end|>"]
    assert len(rendered) < 10
    silent = TOOLS.replace("'<call>' + call.function.name + ", "'' if loop.first else ")
    with pytest.raises(TemplateError, match="does not write the tool calls of message 2"):
        with_template(tmp_path, silent.replace("(call.function.arguments | tojson)", "''")).encode(
            agent(2, trained=False), 999
        )


def test_calls_are_written_where_the_template_shows_more_than_their_names(tmp_path: Path) -> None:
    base = with_template(tmp_path, TOOLS.replace("call.function.name + ", ""))
    assert trained(base, one(base, agent(3, trained=False), 999)) == ["Done.<|im_end|>"]


def test_a_row_with_more_turns_than_can_be_told_apart_is_a_fault_at_once() -> None:
    few, many = (
        {"messages": [{"role": role, "content": "a"} for role in ROLES] * turns}
        for turns in (500, 4_000)
    )
    assert isinstance(row_of(1, json.dumps(few).encode()), Chat)
    fault = row_of(7, json.dumps(many).encode())
    assert isinstance(fault, Fault)
    assert (fault.line, fault.rule) == (7, "too_many_turns")
    assert "4,000 trained answers among 8,000 messages" in fault.reason


@pytest.mark.parametrize("end", ["", "a", "<think>", "a" * 9])
def test_the_end_of_one_text_that_another_begins_with_is_found(end: str) -> None:
    for text in (f"b{end}", f"aab{end}", f"{end}{end}"):
        for other in (f"{end}b", f"{end}aab", end):
            lengths = range(min(len(text), len(other)) + 1)
            longest = max(n for n in lengths if other.startswith(text[len(text) - n :]))
            assert overlap(text, other) == longest


def test_thoughts_that_look_like_the_answer_are_told_from_it_in_one_pass(tmp_path: Path) -> None:
    base = with_template(
        tmp_path,
        "{% for message in messages %}{% set said = message['content'] %}"
        "{{ '<' + (said if loop.last else said.split('|')[-1]) + '>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<' }}{% endif %}",
    )
    said = "a" * 400_000 + "|" + "a" * 200_000 + "b"
    began = time.process_time()
    assert len(base.encode(chat("Hi", said, "Again", "Ahoy"), 10**6)) == 2
    assert time.process_time() - began < 20
