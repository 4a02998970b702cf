"""Conversations in OpenAI's shape: what is read, what is refused, and what is answered."""

import asyncio
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import ValidationError

from api.serving import chat
from api.serving.chat_schemas import AskChat
from api.serving.said import whole
from tests.api.serving.said import TEXTS, as_they_come, called, data_of, events_of, spoken
from tunery.completions import CompletionPart
from tunery.errors import Busy, InvalidRequest

HELLO = {"role": "user", "content": "Hello"}
WEATHER, TIME = (
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
)
A_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def ask(**asked: Any) -> AskChat:
    return AskChat.model_validate({"model": "m", "messages": [HELLO], **asked})


def answered(request: AskChat, parts: list[CompletionPart]) -> ChatCompletion:
    answers, usage = asyncio.run(whole(as_they_come(parts), n=request.n or 1))
    text = chat.completion_of(request, answers, usage).model_dump_json()
    return ChatCompletion.model_validate_json(text, strict=True)


def chunks(request: AskChat, parts: list[CompletionPart]) -> list[ChatCompletionChunk]:
    return [
        ChatCompletionChunk.model_validate(each, strict=True)
        for each in events_of(chat.ChatWriter(request), parts)
    ]


def test_an_answer_has_openais_shape() -> None:
    found = answered(ask(), spoken(reason="length"))
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == ("Ahoy, mate", "length")
    assert choice.message.tool_calls is None
    assert choice.logprobs is None
    assert found.id.startswith("chatcmpl-")
    assert found.usage
    assert found.usage.total_tokens == 8


def test_several_answers_come_apart_with_their_log_probabilities() -> None:
    asked = ask(n=2, logprobs=True, top_logprobs=1)
    for found in answered(asked, spoken(choices=(0, 1))).choices:
        assert found.message.content == "Ahoy, mate"
        assert found.logprobs
        tokens = found.logprobs.content or []
        assert [(each.token, each.logprob, len(each.top_logprobs)) for each in tokens] == [
            (text, -0.5, 1) for text in TEXTS
        ]


def test_calls_of_functions_are_told_with_ids_and_one_alone_if_that_is_asked() -> None:
    (choice,) = answered(ask(tools=[WEATHER, TIME]), called()).choices
    calls = choice.message.tool_calls or []
    assert [call.function.name for call in calls if call.type == "function"] == ["weather", "time"]
    assert len({call.id for call in calls}) == 2
    assert choice.finish_reason == "tool_calls"
    (choice,) = answered(ask(tools=[WEATHER, TIME], parallel_tool_calls=False), called()).choices
    assert len(choice.message.tool_calls or []) == 1


def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage() -> None:
    asked = ask(stream=True, stream_options={"include_usage": True}, logprobs=True)
    first, *middle, last, used = chunks(asked, spoken())
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [each.choices[0].delta.content for each in middle] == [*TEXTS]
    assert all(each.choices[0].logprobs for each in middle)
    assert last.choices[0].finish_reason == "stop"
    assert not used.choices
    assert used.usage
    assert used.usage.total_tokens == 8
    assert len({each.id for each in (first, *middle, last, used)}) == 1
    assert all(each.usage is None for each in chunks(ask(stream=True), spoken()))


def test_a_streamed_call_has_its_number_and_its_id() -> None:
    deltas = [each.choices[0].delta for each in chunks(ask(tools=[WEATHER, TIME]), called())]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [
        (0, "weather"),
        (1, "time"),
    ]
    assert all((call.id or "").startswith("call_") for call in calls)


def test_a_fault_in_a_stream_is_openais_error() -> None:
    (told,) = data_of(b"".join(chat.ChatWriter(ask()).failed(Busy("Try again."))))
    assert told == {
        "error": {"message": "Try again.", "type": "server_error", "param": None, "code": "busy"}
    }


def test_a_conversation_is_asked_as_training_reads_one() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, part("brief.")]},
        HELLO | {"name": "ann"},
        {"role": "assistant", "content": None, "refusal": "No.", "tool_calls": []},
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [A_CALL], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [part("rain")]},
    ]
    asked = chat.asked_of("p", ask(messages=messages, tools=[WEATHER], tool_choice="none"))
    assert asked.prompt.type == "chat"
    assert asked.prompt.messages == [
        {"role": "system", "content": "Be brief."},
        HELLO | {"name": "ann"},
        {"role": "assistant", "content": "No."},
        HELLO,
        {"role": "assistant", "content": "", "tool_calls": [A_CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ]
    assert (asked.prompt.tools, asked.prompt.tool_choice) == ([WEATHER], "none")


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_settings_reach_the_model() -> None:
    asked = chat.asked_of(
        "p",
        ask(
            max_tokens=9,
            temperature=0,
            stop="\n",
            seed=3,
            n=2,
            logprobs=True,
            top_p=0.5,
            logit_bias={"7": -100},
            response_format={"type": "json_object"},
        ),
    )
    told = asked.sampling.model_dump(exclude_defaults=True)
    assert told == {
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["\n"],
        "seed": 3,
        "n": 2,
        "top_logprobs": 0,
        "top_p": 0.5,
        "logit_bias": {7: -100},
    }
    assert asked.response_format == {"type": "json_object"}


@pytest.mark.parametrize(
    ("choice", "told", "allowed"),
    [
        (None, "auto", [WEATHER, TIME]),
        ("required", "required", [WEATHER, TIME]),
        ({"type": "function", "function": {"name": "time"}}, "time", [WEATHER, TIME]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TIME]}},
            "required",
            [TIME],
        ),
    ],
)
def test_a_choice_among_tools_is_followed_in_each_of_its_forms(
    choice: Any, told: str, allowed: list[Any]
) -> None:
    asked = chat.asked_of("p", ask(tools=[WEATHER, TIME], tool_choice=choice))
    assert asked.prompt.type == "chat"
    assert (asked.prompt.tool_choice, asked.prompt.tools) == (told, allowed)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": [HELLO, HELLO, {"role": "robot", "content": ""}]}, "messages[2].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [part("a"), {"type": "image_url"}]}]},
            "messages[0].content[1].type",
        ),
        (
            {"messages": [HELLO, {"role": "tool", "tool_call_id": "x", "content": ""}]},
            "messages[1].tool_call_id",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": TIME}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_read_is_named(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat.asked_of("p", ask(**asked))
    assert refused.value.param == param
    assert refused.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"audio": {"voice": "x"}}, "models here write text"),
        ({"functions": []}, "send `tools`"),
        ({"reasoning_effort": "low"}, "thinks as it was trained"),
        ({"store": True}, "answers are not kept"),
        ({"n": 17}, "less than or equal to 16"),
        ({"n": "1"}, "valid integer"),
        ({"service_tier": "flex"}, "'auto' or 'default'"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "differ"),
        ({"top_logprobs": 2}, "needs `logprobs`"),
        ({"stop": ["a", ""]}, "up to 4 texts"),
        ({"response_format": {"type": "json_schema"}}, "`json_schema` goes with"),
        ({"stream_options": {"include_obfuscation": True}}, "not padded"),
        ({"modalities": ["text", "audio"]}, "at most 1 item"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ask(**asked)


def test_what_has_no_effect_is_taken_and_null_is_nothing() -> None:
    fields = dict.fromkeys(AskChat.model_fields.keys() - {"model", "messages"})
    assert ask(**fields) == ask()
    ask(
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
        parallel_tool_calls=True,
        modalities=["text"],
    )
