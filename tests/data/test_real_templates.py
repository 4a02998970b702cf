"""The chat templates of models that people train, as TRL keeps them, against transformers."""

import importlib.util
import re
import warnings
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_template import byte_level, decode, save
from tunery.data.formats import read_row
from tunery.data.jinja import TemplateError
from tunery.data.template import ChatTokenizer, Example

TRL = importlib.util.find_spec("trl")
assert TRL
assert TRL.origin
TEMPLATES = Path(TRL.origin).parent / "chat_templates"
FAMILIES = (
    *("llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_6", "gemma", "gemma3", "phi3"),
    *("phi3_5", "deepseek_r1_distill", "gptoss", "glm4moe", "cohere", "lfm2", "mistral"),
)
MARKED = (
    *("llama3", "qwen2_5", "qwen3", "gemma", "gemma3", "phi3", "phi3_5", "deepseek_r1_distill"),
    *("glm4moe", "lfm2"),
)
CONTROL = re.compile(
    r"<\|[A-Za-z_]+\|>|<\uff5c[^\uff5c'\"]+\uff5c>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>"
)
ENDS = re.compile(
    r"(<\|(eot_id|im_end|end|return|call|END_OF_TURN_TOKEN|endoftext|user)\|>|"
    r"<\uff5cend\u2581of\u2581sentence\uff5c>|<end_of_turn>|</s>)\s*\Z"
)
DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d [A-Z][a-z]{2} \d{4}")

# TRL has none of Mistral's. As Nemo's: the system message is in the last question, and only while
# that is the last message; calls have ids of nine letters and digits.
MISTRAL = """{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- set ns = namespace(turn=0) %}
{%- for message in talk if message.role in ['user', 'assistant'] and not message.tool_calls %}
{%- if (message.role == 'user') != (ns.turn % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant') }}{% endif %}
{%- set ns.turn = ns.turn + 1 %}{% endfor %}{{- bos_token }}
{%- for message in talk %}
{%- if message.role == 'user' %}
{%- if tools and loop.first %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) }}{% endif %}
{{- '[INST]' + (system + '\n\n' if loop.last and system else '') + message.content + '[/INST]' }}
{%- elif message.tool_calls %}{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('Tool call IDs have length 9!') }}{% endif %}
{{- call.function | tojson + call.id }}{% endfor %}{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
{%- else %}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}{% endif %}
{%- endfor %}"""


def says(*turns: str) -> list[dict[str, Any]]:
    """Each turn begins with who says it."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


TALKS = {
    "one turn": says("u:Who is there?", "a:It is fine."),
    "a system message": says("s:Be kind.", "u:Who is there?", "a:It is fine."),
    "three turns": says("s:Be kind.", "u:Hi", "a:One.", "u:So?", "a:Two.", "u:And?", "a:Three."),
    "thoughts": says(
        "u:Hi",
        "a:<think>\nFirst thought.\n</think>\n\nOne.",
        "u:So?",
        "a:<think>\nSecond thought.\n</think>\n\nTwo.",
    ),
    "two answers in a row": says("u:Hi", "a:One.", "a:Two."),
    "the assistant opens": says("a:Welcome!", "u:Hi", "a:One."),
    "an empty answer": says("u:Hi", "a:"),
}


class Bases:
    """Each family's tokenizer with its template, ours and transformers', made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cache  # noqa: B019 - lives as long as the tests
    def ours(self, family: str) -> ChatTokenizer:
        source = MISTRAL if family == "mistral" else (TEMPLATES / f"{family}.jinja").read_text()
        specials = sorted(set(CONTROL.findall(source)))
        tokenizer = byte_level("<s>", "</s>", "[INST]", "[/INST]", *specials)
        tokenizer.add_tokens(["<think>", "</think>"])
        (self.folder / family).mkdir()
        return save(self.folder / family, tokenizer, source, "<s>", "</s>")

    @cache  # noqa: B019
    def theirs(self, family: str) -> Any:
        self.ours(family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers import AutoTokenizer
        return AutoTokenizer.from_pretrained(self.folder / family)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def runs(base: ChatTokenizer, example: Example) -> list[tuple[str, str]]:
    """(all that stands before it, the text) of each run of trained tokens."""
    found, at = [], 0
    for mask, group in groupby(example.mask):
        end = at + len(list(group))
        if mask:
            found.append((decode(base, example.ids[:at]), decode(base, example.ids[at:end])))
        at = end
    return found


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_answer_is_trained_as_the_model_is_asked_for_it(
    family: str, talk: str, bases: Bases
) -> None:
    base, messages = bases.ours(family), TALKS[talk]
    examples = base.encode(read_row(1, {"messages": messages}), 9_999)
    trained = [run for example in examples for run in runs(base, example)]
    plain = bases.theirs(family)
    assert not any(example.lost for example in examples)
    # GLM's answers have no end of their own: the next turn's beginning is it.
    assert all(ENDS.search(text) or family == "glm4moe" for _, text in trained)
    if examples[0].adapted:
        return
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = dateless(plain, messages[:index]) if index else ""
            parts = re.split(r"\s*</?think>\s*", message["content"])
            # A token may lie across the end of the prompt.
            fits = [
                text
                for before, text in trained
                if all(part in text for part in parts)
                and (not index or asked.startswith(DATE.sub("", before)))
            ]
            assert len(fits) == 1, (asked, trained)
    assert len(trained) == sum(message["role"] == "assistant" for message in messages)


def dateless(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return DATE.sub("", text)


@pytest.mark.parametrize("family", MARKED)
def test_where_the_template_marks_its_answers_the_mask_is_that_of_transformers(
    family: str, bases: Bases
) -> None:
    family = f"{family}_training"
    base = bases.ours(family)
    for messages in (TALKS["one turn"], says("u:Hi", "a:One.", "u:So?", "a:Two.")):
        [example] = base.encode(read_row(1, {"messages": messages}), 9_999)
        wanted = bases.theirs(family).apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert example.ids == wanted["input_ids"]
        assert example.mask == wanted["assistant_masks"]
        assert 0 < sum(example.mask) < len(example.mask)


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def test_what_the_assistant_writes_beside_a_call_and_names_are_told_where_they_are_lost(
    bases: Bases,
) -> None:
    messages = [
        *says("u:Where?"),
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "here"},
        *says("a:There."),
    ]
    messages[0]["name"] = "Anna"
    row = read_row(1, {"messages": messages, "tools": TOOLS})
    for family, beside in (("llama3_2", True), ("qwen2_5", False), ("mistral", True)):
        lost = bases.ours(family).encode(row, 9_999)[0].lost
        assert "names" in lost
        assert ("the assistant message's text beside a tool call" in lost) is beside


def test_a_thought_is_lost_only_where_the_template_never_writes_it(bases: Bases) -> None:
    messages = says("u:Hi", "a:One.", "u:So?", "a:Two.")
    for number in (1, 3):
        messages[number]["reasoning_content"] = f"Thought {number}."
    row = read_row(1, {"messages": messages})
    for family, lost in (("qwen3", ()), ("deepseek_r1_distill", ()), ("llama3", ("thoughts",))):
        examples = bases.ours(family).encode(row, 9_999)
        assert examples[0].lost == lost
        text = "".join(text for each in examples for _, text in runs(bases.ours(family), each))
        assert ("Thought 1." in text, "Thought 3." in text) == (not lost, not lost)


def test_tool_calls_ids_take_the_form_that_the_template_wants(bases: Bases) -> None:
    messages = [
        *says("u:Where?"),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "here"},
        *says("a:There."),
    ]
    [example] = bases.ours("mistral").encode(
        read_row(1, {"messages": messages, "tools": TOOLS}), 9_999
    )
    assert example.adapted == "tool calls' ids are rewritten"
    assert example.lost == ()


def test_a_template_that_refuses_a_row_in_every_form_is_quoted_on_the_row_as_it_is(
    bases: Bases,
) -> None:
    base = bases.ours("gemma")
    row = read_row(1, {"messages": says("s:One.", "s:Two.", "u:Hi", "a:Ahoy")})
    with pytest.raises(TemplateError, match="System role not supported"):
        base.encode(row, 9_999)
