"""Rows with tools, on templates of two families: what is rendered, and what is trained."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_template import CHATML, byte_level, decode, one, save, trained
from tunery.data import lines
from tunery.data.jinja import TemplateError
from tunery.data.rows import Chat, Preference

# As Qwen and Hermes: tools in the system message, answers of tools in one turn of the user.
HERMES = """{% if tools %}{{ '<|im_start|>system\n' -}}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
{{- 'Tools:\n<tools>' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
{{- '\n</tools><|im_end|>\n' -}}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}
{% for message in messages %}
{% if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{% elif message.role == 'assistant' %}{{- '<|im_start|>assistant' -}}
{% if message.content %}{{- '\n' + message.content }}{% endif %}
{% for call in message.tool_calls %}{% set call = call.function %}
{{- '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}{{ call.arguments | tojson -}}
{{- '}\n</tool_call>' }}{% endfor %}{{- '<|im_end|>\n' -}}
{% elif message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' -}}
{% if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
{% endif %}{% endfor %}
{% if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# As Llama 3.1: tools in the first user message, one call in a turn, tools answer as ipython.
LLAMA_31 = """{{- bos_token }}{% if messages[0]['role'] == 'system' %}
{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{% else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' -}}
{% if tools is not none %}{{- 'Environment: ipython\n' }}{% endif %}{{- system + '<|eot_id|>' -}}
{% if tools is not none %}
{% set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{{- '<|start_header_id|>user<|end_header_id|>\n\nYou may call:\n\n' -}}
{% for tool in tools %}{{- tool | tojson(indent=4) + '\n\n' }}{% endfor %}
{{- first + '<|eot_id|>' }}{% endif %}
{% for message in messages %}
{% if 'tool_calls' in message %}
{% if message.tool_calls | length != 1 %}{{- raise_exception('One tool call at once!') }}{% endif %}
{% set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name -}}
{{- '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}<|eot_id|>' -}}
{% elif message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.name + ': ' -}}
{{- message.content | tojson + '<|eot_id|>' -}}
{% else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim -}}
{{- '<|eot_id|>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# As Qwen3: the turns behind the last question keep their thoughts, empty ones only the last turn.
THOUGHTS = "{% if loop.last %}{{- '\n<think>\n\n</think>\n' }}{% endif %}"
TURN = "{{- '<|im_start|>assistant' -}}"
THINKING = HERMES.replace(TURN, TURN + THOUGHTS)

SPECIALS = {
    HERMES: ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    THINKING: ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    LLAMA_31: ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
}


def tool(name: str, description: str = "The weather “now”, <b>there</b>") -> dict[str, Any]:
    city = {"type": "string", "enum": ["Zürich", "it's"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def call(id_: str, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": id_, "type": "function", "function": function}


def row_of(*messages: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> Chat:
    value: dict[str, Any] = {"messages": messages}
    if tools:
        value["tools"] = tools
    row = lines.row_of(1, json.dumps(value).encode())
    assert isinstance(row, Chat), row
    return row


ASK = {"role": "user", "content": "Is it warm there?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [call("a", "weather", city="Zürich")]}
ANSWER = {"role": "tool", "tool_call_id": "a", "content": '{"warm": "it\'s 31°"}'}
SAY = {"role": "assistant", "content": "It is."}
TALK = (ASK, CALL, ANSWER, SAY, ASK, CALL | {"weight": 0}, ANSWER, SAY)
TWO = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [call("a", "weather", city="it's"), call("b", "time", at=1.5, zones=[None])],
}
TOOLS = [tool("weather"), tool("time", "")]


CALLED = """<tool_call>
{"name": "weather", "arguments": {"city": "Zürich"}}
</tool_call><|im_end|>"""
CALLED_TWO = """Let me see.
<tool_call>
{"name": "weather", "arguments": {"city": "it's"}}
</tool_call>
<tool_call>
{"name": "time", "arguments": {"at": 1.5, "zones": [null]}}
</tool_call><|im_end|>"""


def as_transformers_has_it(row: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI message as the templating guide asks for: arguments as an object."""
    message = {name: value for name, value in row.items() if name != "weight"}
    message["content"] = message["content"] or ""
    if "tool_calls" in message:
        message["tool_calls"] = [
            each
            | {
                "function": each["function"]
                | {"arguments": json.loads(each["function"]["arguments"])}
            }
            for each in message["tool_calls"]
        ]
    if message["role"] == "tool":
        message["name"] = {"a": "weather", "b": "time"}[message["tool_call_id"]]
    return message


@pytest.mark.parametrize(
    ("template", "messages", "tools", "expected"),
    [
        pytest.param(
            HERMES,
            ({"role": "system", "content": "Be brief."}, *TALK),
            TOOLS,
            [
                CALLED,
                "It is.<|im_end|>",
                "It is.<|im_end|>",
            ],
            id="Hermes",
        ),
        pytest.param(
            HERMES,
            (ASK, TWO, ANSWER, ANSWER | {"tool_call_id": "b"}, SAY),
            TOOLS,
            [
                CALLED_TWO,
                "It is.<|im_end|>",
            ],
            id="Hermes, two calls in a turn",
        ),
        pytest.param(
            LLAMA_31,
            TALK,
            TOOLS,
            [
                '{"name": "weather", "parameters": {"city": "Zürich"}}<|eot_id|>',
                "It is.<|eot_id|>",
                "It is.<|eot_id|>",
            ],
            id="Llama 3.1",
        ),
        pytest.param(
            THINKING,
            TALK,
            None,
            [
                CALLED,
                "It is.<|im_end|>",
                "It is.<|im_end|>",
            ],
            id="Qwen3, no tools given",
        ),
    ],
)
def test_tools_are_rendered_as_transformers_does_and_calls_are_trained(
    tmp_path: Path,
    template: str,
    messages: tuple[dict[str, Any], ...],
    tools: Any,
    expected: list[str],
) -> None:
    specials = SPECIALS[template]
    base = save(tmp_path, byte_level(*specials), template, *specials[:2])
    example = one(base, row_of(*messages, tools=tools), 10_000)
    assert trained(base, example) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    reference = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [as_transformers_has_it(m) for m in messages],
        tools=tools,
        tokenize=True,
        return_dict=False,
    )
    assert example.ids == reference


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (CHATML, (ASK, SAY), "does not show a row's tools to the model"),
        (
            "{{ tools }}" + CHATML,
            (ASK, CALL, ANSWER, SAY),
            r"does not write the tool calls of message 2$",
        ),
        (
            "{{ tools }}" + CHATML,
            (ASK, CALL | {"weight": 0}, ANSWER, SAY),
            r"does not write the tool calls of message 2$",
        ),
        (
            LLAMA_31,
            (ASK, TWO, ANSWER, ANSWER | {"tool_call_id": "b"}, SAY),
            "refuses the row: One tool call at once!",
        ),
    ],
)
def test_a_template_that_knows_no_tools_refuses_such_a_row(
    tmp_path: Path, template: str, messages: tuple[dict[str, Any], ...], reason: str
) -> None:
    base = save(tmp_path, byte_level("<s>", "<|im_end|>"), template, "<s>", "<|im_end|>")
    with pytest.raises(TemplateError, match=reason):
        one(base, row_of(*messages, tools=TOOLS), 999)


def test_the_template_named_tool_use_is_taken_for_rows_with_tools(tmp_path: Path) -> None:
    several: Any = [
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": HERMES},
    ]
    base = save(tmp_path, byte_level(*SPECIALS[HERMES]), several, *SPECIALS[HERMES][:2])
    assert "<tools>" in decode(base, one(base, row_of(ASK, SAY, tools=TOOLS), 999).ids)
    assert "helpful" in decode(base, one(base, row_of(ASK, SAY), 999).ids)


def test_a_template_may_ask_for_tools(tmp_path: Path) -> None:
    asks = "{% if not tools %}{{ raise_exception('no tools') }}{% endif %}" + HERMES
    base = save(tmp_path, byte_level(*SPECIALS[HERMES]), asks, *SPECIALS[HERMES][:2])
    assert trained(base, one(base, row_of(ASK, SAY, tools=TOOLS), 999)) == ["It is.<|im_end|>"]


def test_control_tokens_in_tools_and_calls_are_text(tmp_path: Path) -> None:
    tokenizer = byte_level(*SPECIALS[HERMES])
    base = save(tmp_path, tokenizer, HERMES, *SPECIALS[HERMES][:2])
    end = "<|im_end|>"
    calling = CALL | {"tool_calls": [call("a", "weather", **{end: [end]})]}
    row = row_of(ASK, calling, ANSWER, SAY, tools=[tool("weather", f"Ends{end}")])
    example, end_id = one(base, row, 9_999), tokenizer.token_to_id(end)
    assert trained(base, example)[0] == CALLED.replace('"city": "Zürich"', f'"{end}": ["{end}"]')
    assert [id_ == end_id for id_ in example.ids].count(True) == 5
    assert decode(base, example.ids).count(end) == 8


def test_each_answer_of_a_preference_is_as_in_a_chat_where_it_alone_is_trained(
    tmp_path: Path,
) -> None:
    base = save(tmp_path, byte_level(*SPECIALS[HERMES]), HERMES, *SPECIALS[HERMES][:2])
    calling, saying = (
        row_of(ASK, CALL, tools=[tool("weather")]),
        row_of(ASK, SAY, tools=[tool("weather")]),
    )
    asked, called = calling.messages
    pair = Preference(1, (asked,), calling.tools, (called,), saying.messages[1:])
    assert base.encode_pair(pair, 99) == (one(base, calling, 99), one(base, saying, 99))
    with pytest.raises(TemplateError, match="which only the method dpo compares"):
        one(base, pair, 99)
