"""Chat templates in Ollama's words."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tunery.data import ollama
from tunery.data.ollama import NotInOllamasWords, not_for_ollama, pieces_of, stops_of
from tunery.data.template import ChatTokenizer

TINY = ROOT / "models" / "tiny"

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}"
    "{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
OPENING_EACH = INSTRUCT.replace("{{ bos_token }}", "").replace("'[INST]", "bos_token + '[INST]")
IN_THE_QUESTION = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}"
    "{{ '<<' + messages[0]['content'] + '>>' }}{% endif %}{{ m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHOUTING = DEFAULT_SYSTEM.replace("m['content']", "m['content'] | upper")
COUNTING = DEFAULT_SYSTEM.replace(
    "{% endfor %}", "{% if messages | length > 4 %}{{ '!' }}{% endif %}{% endfor %}"
)


def tokenizer_with(template: str, folder: Path) -> ChatTokenizer:
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text(template)
    return ChatTokenizer(folder)


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        (LLAMA3, ["<|im_end|>", "<|end_of_text|>"]),
        (DEFAULT_SYSTEM, ["<|im_end|>", "<|end_of_text|>"]),
        (INSTRUCT, ["<|end_of_text|>"]),
    ],
)
def test_what_encloses_messages_by_their_roles_is_said(
    template: str, stops: list[str], tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(template, tmp_path / "base")
    pieces = pieces_of(tokenizer)
    talk = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
        {"role": "user", "content": "Why?"},
    ]
    compiled = tokenizer.template
    assert compiled
    theirs = compiled.render(messages=talk, add_generation_prompt=True, **tokenizer.special)
    assert pieces.say(talk) == theirs.removeprefix(tokenizer.special["bos_token"])
    assert stops_of(tokenizer, pieces)[: len(stops)] == stops


def test_the_template_is_what_its_pieces_say_in_strings_of_gos(tmp_path: Path) -> None:
    pieces = pieces_of(tokenizer_with(DEFAULT_SYSTEM, tmp_path / "base"))
    assert pieces.template() == (
        '{{ range $i, $_ := .Messages }}{{ if and (eq $i 0) (ne .Role "system") }}'
        '{{ "<|im_start|>system\\nHelp.<|im_end|>\\n" }}{{ end }}'
        '{{ if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}'
        '{{ "<|im_end|>\\n" }}{{ else if eq .Role "user" }}{{ "<|im_start|>user\\n" }}'
        '{{ .Content }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}'
        '{{ else if eq .Role "assistant" }}{{ .Content }}{{ "<|im_end|>\\n" }}{{ end }}{{ end }}'
    )


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (OPENING_EACH, "the first question is written"),
        (IN_THE_QUESTION, "a system message changes how the question"),
        (THINKING, "depends on which answer it is"),
        (SHOUTING, "does not write a user message as it is"),
        (COUNTING, "some conversations in another way"),
    ],
)
def test_a_template_that_does_more_is_refused(template: str, says: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(template, tmp_path / "base")
    with pytest.raises(NotInOllamasWords, match=says):
        pieces_of(tokenizer)


def test_a_model_without_a_chat_template_stops_at_its_eos() -> None:
    assert stops_of(ChatTokenizer(ROOT / "models" / "demo"), None) == ["<|end_of_text|>"]


def test_a_template_is_looked_at_in_a_process_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not_for_ollama(TINY) is None
    tokenizer_with(SHOUTING, tmp_path / "loud")
    assert "as it is" in (not_for_ollama(tmp_path / "loud") or "")
    monkeypatch.setattr(ollama, "SECONDS", 1)
    tokenizer_with("{% for a in range(9999) %}" * 2 + "{% endfor %}" * 2, tmp_path / "endless")
    assert "takes longer than" in (not_for_ollama(tmp_path / "endless") or "")
