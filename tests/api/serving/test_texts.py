"""Texts to go on with, in OpenAI's shape."""

import asyncio
from typing import Any

import pytest
from openai.types import Completion
from pydantic import ValidationError

from api.serving import texts
from api.serving.asked import Asked
from api.serving.said import whole
from api.serving.sse import Parts
from api.serving.text_schemas import AskText
from tests.api.serving.said import TEXTS, as_they_come, events_of, parts_of, spoken, token
from tunery.completions import CompletionPart, Piece, TextPrompt


def ask(**asked: Any) -> AskText:
    return AskText.model_validate({"model": "m", "prompt": "Once", **asked})


def answered(request: AskText, parts: list[CompletionPart]) -> Completion:
    async def open_(_: Asked) -> Parts:
        return as_they_come(parts)

    async def all_of_them() -> str:
        asked = texts.asked_of("p", request)
        opened = await texts.open_all(asked, open_)
        answers, usage = await whole(opened, n=len(asked) * (request.n or 1))
        return texts.completion_of(request, answers, usage).model_dump_json()

    return Completion.model_validate_json(asyncio.run(all_of_them()), strict=True)


def test_an_answer_has_openais_shape() -> None:
    found = answered(ask(logprobs=1), spoken(reason="length"))
    (choice,) = found.choices
    assert (choice.text, choice.finish_reason) == ("Ahoy, mate", "length")
    assert choice.logprobs
    assert choice.logprobs.tokens == [*TEXTS]
    assert choice.logprobs.token_logprobs == [-0.5, -0.5]
    assert choice.logprobs.top_logprobs == [{text: -0.5} for text in TEXTS]
    assert choice.logprobs.text_offset == [0, 4]
    assert answered(ask(), spoken()).choices[0].logprobs is None


def test_several_prompts_get_their_answers_in_their_order_and_one_usage() -> None:
    found = answered(ask(prompt=["a", "b", "c"], n=2), spoken(choices=(0, 1)))
    assert [(each.index, each.text) for each in found.choices] == [
        (index, "Ahoy, mate") for index in range(6)
    ]
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (15, 9)


def test_a_stream_tells_pieces_reasons_and_where_tokens_begin() -> None:
    asked = ask(stream=True, logprobs=0, stream_options={"include_usage": True})
    *said, last, used = events_of(texts.TextWriter(asked), spoken())
    assert [each["choices"][0]["text"] for each in said] == [*TEXTS]
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in said] == [[0], [4]]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert used["usage"]["total_tokens"] == 8
    for each in (last, used):
        Completion.model_validate(each, strict=True)


def test_the_first_token_of_an_echoed_prompt_has_no_probability() -> None:
    parts = parts_of(Piece(text="Once", tokens=[token("Once", None)]))
    answers, usage = asyncio.run(whole(as_they_come(parts), n=1))
    (choice,) = texts.completion_of(ask(echo=True, logprobs=1), answers, usage).choices
    assert choice.logprobs
    assert (choice.logprobs.token_logprobs, choice.logprobs.top_logprobs) == ([None], [None])


def test_a_prompt_is_asked_for_as_text_or_as_tokens() -> None:
    told = [each.prompt for each in texts.asked_of("p", ask(prompt=["a", "b"], echo=True))]
    assert told == [TextPrompt(text="a", echo=True), TextPrompt(text="b", echo=True)]
    (asked,) = texts.asked_of("p", ask(prompt=[1, 2], logprobs=2))
    assert asked.prompt == TextPrompt(ids=[1, 2])
    assert (asked.sampling.max_tokens, asked.sampling.top_logprobs) == (16, 2)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": []}, "must be a text, a list of texts"),
        ({"prompt": ["a", 1]}, "must be a text, a list of texts"),
        ({"prompt": ["a"] * 9, "n": 2}, "ask for 18 answers"),
        ({"best_of": 2}, "`best_of` is not offered"),
        ({"suffix": "end"}, "fill no gaps"),
        ({"max_tokens": 0}, "goes with `echo` alone"),
        ({"logprobs": 6}, "less than or equal to 5"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ask(**asked)
