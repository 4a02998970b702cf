"""Calls of functions in what a model says, which a test puts in its mouth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.test_real_templates import TEMPLATES, says
from tests.engine.asking import Asking, Heard, complete
from tests.engine.conftest import TINY
from tunery.completions import ChatPrompt
from tunery.data.template import ChatTokenizer
from worker.engine.answers.sampling import Sampler
from worker.engine.model.base import Base, WarmBase

LOOK = {"type": "function", "function": {"name": "look", "description": "Looks."}}
HERMES = (TEMPLATES / "qwen2_5.jinja").read_text()
BARE = (TEMPLATES / "llama3_1.jinja").read_text()
CALL = '{"name": "look", "arguments": {"at": "sea"}}'

Ask = Callable[..., Heard]


@pytest.fixture
def ask(bases: WarmBase, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Has the model say a text, and asks it."""
    assert base

    def asked(said: str, template: str = HERMES, **prompt: Any) -> Heard:
        tokens = ChatTokenizer(TINY).tokenizer.encode(f"{said}<|im_end|>").ids
        rest = iter(tokens[1:])  # the tokenizer opens a text

        def following(_: Sampler, logits: Tensor) -> Tensor:
            return torch.tensor(next(rest), device=logits.device)

        monkeypatch.setattr(Sampler, "next", following)
        chat = ChatPrompt(messages=says("u:Where?"), tools=[LOOK], **prompt)
        command = complete(TINY, chat, chat_template=template, max_tokens=99, cache=tmp_path)
        return Asking(bases).all(command)[0]

    return asked


def calls_in(heard: Heard) -> list[tuple[str, str]]:
    pieces = [piece for part in heard.parts for piece in part.pieces]
    return [(call.name, call.arguments) for piece in pieces for call in piece.tool_calls]


def test_calls_come_whole_and_no_part_of_them_is_text(ask: Ask) -> None:
    called = f"<tool_call>\n{CALL}\n</tool_call>"
    heard = ask(f"Let me see. {called}\n{called}")
    assert heard.text().strip() == "Let me see."
    assert calls_in(heard) == [("look", '{"at": "sea"}')] * 2
    assert heard.reasons == ["tool_calls"]
    assert any(part.pieces for part in heard.parts[:5]), "the text before them comes at once"


def test_a_call_without_an_opening_is_all_of_an_answer(ask: Ask) -> None:
    assert calls_in(ask(CALL, BARE)) == [("look", '{"at": "sea"}')]
    heard = ask(f"As in {CALL}", BARE)
    assert (heard.text(), heard.reasons) == (f"As in {CALL}", ["stop"])


def test_what_only_looks_like_a_call_is_text(ask: Ask) -> None:
    for said in ("<tool", "<tool_call>\nno", CALL, "<tool_call>\n{}"):
        heard = ask(said)
        assert (heard.text(), calls_in(heard), heard.reasons) == (said, [], ["stop"])


def test_a_named_function_is_called_once_and_nothing_else_is_said(ask: Ask) -> None:
    heard = ask(' {"at": "sea"}} and more', tool_choice="look")
    assert (heard.text(), calls_in(heard)) == ("", [("look", '{"at": "sea"}')])
    assert heard.reasons == ["tool_calls"]
    assert len(heard.parts) == 1
