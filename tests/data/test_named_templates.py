"""The chat templates that a base without one may be given."""

from pathlib import Path

import pytest

from tests.data.test_template import byte_level, chat, one, save, trained
from tunery.data.named_templates import NAMED, template_of
from tunery.data.template import ChatTokenizer
from tunery.errors import InvalidRequest


@pytest.mark.parametrize("name", NAMED)
def test_a_named_template_trains_each_answer_with_its_end_in_one_sequence(
    name: str, tmp_path: Path
) -> None:
    tokens = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
    save(tmp_path, byte_level(*tokens), None, "<s>", "</s>")
    base = ChatTokenizer(tmp_path, NAMED[name])
    example = one(base, chat("Hi", "One.", "So?", "Two.", system="Be brief."), 9_999)
    assert (example.lost, example.adapted) == ((), None)
    first, second = trained(base, example)
    end = first.strip().removeprefix("One.")
    assert end in {*tokens, "</s>"}
    assert second.strip() == f"Two.{end}"


def test_a_template_is_asked_for_by_its_name_or_by_itself() -> None:
    assert template_of("Llama-3") == NAMED["llama3"]
    assert template_of("{{ messages }}") == "{{ messages }}"
    with pytest.raises(InvalidRequest, match="take one of alpaca, chatml, gemma"):
        template_of("wizard")
