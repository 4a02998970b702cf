"""OpenAI's responses: what is read, what is refused, and what is answered."""

from typing import Any, get_args

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from api.serving import responses
from api.serving.response_schemas import AskResponse
from tests.api.serving.said import TEXTS, called, data_of, events_of, parts_of, spoken
from tunery.completions import ChatPrompt, CompletionPart
from tunery.errors import Busy, InvalidRequest

FLAT = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}},
}
EVENTS: TypeAdapter[Any] = TypeAdapter(get_args(ResponseStreamEvent)[0])


def ask(**asked: Any) -> AskResponse:
    return AskResponse.model_validate({"model": "m", "input": "Hello", **asked})


def streamed(request: AskResponse, parts: list[CompletionPart]) -> list[Any]:
    events = events_of(responses.ResponseWriter(request), parts)
    assert [each["sequence_number"] for each in events] == [*range(len(events))]
    return [EVENTS.validate_python(each, strict=True) for each in events]


def answered(request: AskResponse, parts: list[CompletionPart]) -> Response:
    writer = responses.ResponseWriter(request)
    events_of(writer, parts)
    return Response.model_validate_json(writer.response.model_dump_json(), strict=True)


def test_an_answer_has_openais_shape_and_says_what_was_asked() -> None:
    asked = ask(instructions="Be brief.", tools=[FLAT], temperature=0.5, metadata={"a": "b"})
    found = answered(asked, spoken())
    assert (found.status, found.output_text) == ("completed", "Ahoy, mate")
    assert (found.instructions, found.temperature, found.top_p) == ("Be brief.", 0.5, 1)
    assert found.tools[0].type == "function"
    assert found.metadata == {"a": "b"}
    assert found.usage
    assert (found.usage.input_tokens, found.usage.total_tokens) == (5, 8)
    assert found.model_extra == {"store": False}


def test_numbers_in_a_tool_are_as_large_as_they_like() -> None:
    large = FLAT | {"parameters": {"type": "object", "maxProperties": 10**25}}
    begun = streamed(ask(stream=True, tools=[large]), spoken())[0]
    assert begun.response.tools[0].parameters["maxProperties"] == 10**25


def test_an_answer_without_more_room_is_incomplete() -> None:
    found = answered(ask(max_output_tokens=2), spoken(reason="length"))
    assert found.status == "incomplete"
    assert found.incomplete_details
    assert found.incomplete_details.reason == "max_output_tokens"
    assert answered(ask(), parts_of()).output_text == ""


def test_the_events_of_a_text_come_in_openais_order() -> None:
    events = streamed(ask(stream=True, top_logprobs=1), spoken())
    kinds = [each.type.removeprefix("response.") for each in events]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    deltas = [each for each in events if each.type == "response.output_text.delta"]
    assert [each.delta for each in deltas] == [*TEXTS]
    assert [each.logprobs[0].token for each in deltas] == [*TEXTS]
    assert events[-1].response.output_text == "Ahoy, mate"
    assert events[0].response.output == []


def test_calls_are_items_of_their_own_behind_the_text() -> None:
    events = streamed(ask(tools=[FLAT]), called())
    assert [each.item.type for each in events if each.type == "response.output_item.done"] == [
        "message",
        "function_call",
        "function_call",
    ]
    done = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert [(each.output_index, each.arguments) for each in done] == [
        (1, '{"city": "Oslo"}'),
        (2, "{}"),
    ]
    assert len(answered(ask(tools=[FLAT], parallel_tool_calls=False), called()).output) == 2


def test_a_fault_in_a_stream_is_an_error_and_a_failed_response() -> None:
    writer = responses.ResponseWriter(ask())
    written = b"".join([*writer.said(spoken()[0]), *writer.failed(Busy("Try again."))])
    *_, error, failed = (EVENTS.validate_python(each, strict=True) for each in data_of(written))
    assert (error.type, error.code, error.message) == ("error", "busy", "Try again.")
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.error.message == "Try again."


def test_items_become_the_messages_of_a_conversation() -> None:
    call = {"type": "function_call", "id": "fc_1", "name": "weather", "arguments": "{}"}
    given = {"type": "function_call_output", "output": [{"type": "input_text", "text": "rain"}]}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
        },
        call | {"call_id": "a"},
        call | {"call_id": "b"},
        given | {"call_id": "a"},
        given | {"call_id": "b"},
    ]
    asked = responses.asked_of("p", ask(input=items, instructions="Be brief.", tools=[FLAT]))
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": each, "type": "function", "function": function} for each in "ab"]
    assert asked.prompt == ChatPrompt(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
            {"role": "tool", "content": "rain", "tool_call_id": "a"},
            {"role": "tool", "content": "rain", "tool_call_id": "b"},
        ],
        tools=[WEATHER],
    )


def test_a_form_is_asked_for_as_in_a_chat() -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    asked = responses.asked_of("p", ask(text={"format": form}))
    schema = {"name": "x", "schema": {"type": "object"}, "strict": True}
    assert asked.response_format == {"type": "json_schema", "json_schema": schema}
    assert responses.asked_of("p", ask(text={"format": {"type": "text"}})).response_format is None


CALL = {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "?"}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "x"}, CALL]}, "input[1].arguments"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "x", "images": []}]}, "input[0].images"),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
            "input[0].call_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [FLAT], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_read_is_named(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        responses.asked_of("p", ask(**asked))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"previous_response_id": "resp_1"}, "answers are not kept here"),
        ({"conversation": "conv_1"}, "answers are not kept here"),
        ({"store": True}, "answers are not kept here"),
        ({"background": True}, "answers are not kept here"),
        ({"include": ["file_search_call.results"]}, "only 'message.output_text.logprobs' is"),
        ({"reasoning": {"effort": "low"}}, "thinks as it was trained"),
        ({"truncation": "auto"}, "'disabled'"),
        ({"prompt": {"id": "x"}}, "send it in `input`"),
        ({"input": []}, "must be a text, or a list"),
        ({"text": {"format": {"type": "json_schema"}}}, "`name` and `schema` go with"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ask(**asked)


def test_null_is_nothing() -> None:
    fields = dict.fromkeys(AskResponse.model_fields.keys() - {"model", "input"})
    assert ask(**fields) == ask()
