"""From tokens to text, piece by piece."""

import pytest

from tests.data.test_template import DEMO, metaspace
from tunery.data.spoken import Spoken, token_text
from tunery.data.template import ChatTokenizer


@pytest.fixture(scope="module")
def base() -> ChatTokenizer:
    return ChatTokenizer(DEMO)


def pieces(spoken: Spoken, base: ChatTokenizer, text: str) -> list[str]:
    found = []
    for token in base.tokenizer.encode(text, add_special_tokens=False).ids:
        spoken.say(token)
        found.append(spoken.take()[0])
        if spoken.stopped:
            break
    spoken.finish()
    found.append(spoken.until(len(spoken.text))[0])
    return found


def test_the_pieces_are_the_text_and_none_has_half_a_character(base: ChatTokenizer) -> None:
    text = "The sea is \N{WATER WAVE}\N{FIRE} déjà vu."
    found = pieces(Spoken(base), base, text)
    assert "".join(found) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in found)
    assert sum(map(bool, found)) > 5


def test_half_a_character_at_the_end_is_told_as_such(base: ChatTokenizer) -> None:
    [first, *_] = base.tokenizer.encode("\N{WATER WAVE}", add_special_tokens=False).ids
    spoken = Spoken(base)
    spoken.say(first)
    assert spoken.take()[0] == ""
    spoken.finish()
    assert spoken.take()[0] == "\N{REPLACEMENT CHARACTER}"
    assert (
        token_text(base, first)[1]
        == list("\N{WATER WAVE}".encode())[: len(token_text(base, first)[1])]
    )


def test_a_text_that_goes_on_keeps_the_space_before_its_first_word() -> None:
    base = ChatTokenizer.__new__(ChatTokenizer)
    base.tokenizer = metaspace("<s>", "</s>", prepend=True)
    ids = base.tokenizer.encode("this is it", add_special_tokens=False).ids
    spoken = Spoken(base, ids[:-2])
    for token in ids[-2:]:
        spoken.say(token)
    whole = base.text_of(ids[:-2]) + spoken.take()[0]
    assert whole == base.text_of(ids)


def test_a_stop_text_ends_the_answer_before_it_and_its_beginning_is_held_back(
    base: ChatTokenizer,
) -> None:
    spoken = Spoken(base, stops=["sea is", "zzz"])
    found = pieces(spoken, base, "The sea was. The sea is deep.")
    assert "".join(found) == "The sea was. The "
    assert spoken.stopped
    assert not any(piece.endswith("s") for piece in found[:1])
    open_end = Spoken(base, stops=["sea is"])
    assert "".join(pieces(open_end, base, "The sea i")) == "The sea i"


def test_a_stop_text_within_what_an_answer_begins_with_ends_nothing(base: ChatTokenizer) -> None:
    spoken = Spoken(base, stops=['": "'], text='{"name": "')
    assert "".join(pieces(spoken, base, "sea, water")) == '{"name": "sea, water'
