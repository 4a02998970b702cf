"""What a row becomes for the model, on the demo base and on templates of other families."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tunery.data.jinja import Rendered, TemplateError
from tunery.data.rows import Chat, ChatMessage, Completion, Row
from tunery.data.said import Said
from tunery.data.template import ChatTokenizer, Example

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"
ROLES = ("user", "assistant")

LLAMA_3 = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'
    + message['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
{{- content }}{% endfor %}
{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}
{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}
"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{% endfor %}"""

CHATML = """{% if messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

# As Qwen3: only the last answer gets its thoughts, empty ones where the row has none.
THINKING = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- message['content'] + '<|im_end|>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

MARKED = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}
{{- message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

NO_SPECIALS = """{% for message in messages %}
{{ '### ' + message['role'] + ':\n' + message['content'] + '\n\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"""


def byte_level(*specials: str) -> Tokenizer:
    """As of Llama 3 and Qwen: the demo's vocabulary, offsets without the spaces around a token."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    tokenizer.add_special_tokens(list(specials))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{specials[0]} $A",
                special_tokens=[(specials[0], tokenizer.token_to_id(specials[0]))],
            ),
        ]
    )
    return tokenizer


def metaspace(*specials: str, prepend: bool) -> Tokenizer:
    """As of Mistral (with a space put before the text) and Gemma: spaces as "▁", bytes for what
    the vocabulary lacks.
    """
    words = ["ere", "▁is", "▁it", "▁th", "▁f", "ine"]
    letters = sorted(set("▁" + "".join(words) + "abcdefghijklmnopqrstuvwxyzHWTIASNOUR,.?!'[]/\n"))
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    parts = ["er", "▁t", "in", "▁i"]
    vocab = {t: i for i, t in enumerate(["<unk>", *bytes_, *letters, *parts, *words])}
    merges = [("e", "r"), ("▁", "t"), ("i", "n"), ("▁", "i"), ("er", "e"), ("▁i", "s")]
    merges += [("▁i", "t"), ("▁t", "h"), ("▁", "f"), ("in", "e")]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁(?=▁*[^▁])"), "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return tokenizer


def save(
    folder: Path, tokenizer: Tokenizer, template: str | None, bos: str, eos: str
) -> ChatTokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": bos, "special": True},
        "eos_token": eos,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ChatTokenizer(folder)


def with_template(folder: Path, template: str | None) -> ChatTokenizer:
    specials = ("<|begin_of_text|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>")
    return save(folder, byte_level(*specials), template, *specials[:2])


def chat(*contents: str, system: str | None = None, untrained: tuple[int, ...] = ()) -> Chat:
    """User and assistant in turn."""
    messages = [
        ChatMessage(ROLES[i % 2], content, trained=i % 2 == 1 and i not in untrained)
        for i, content in enumerate(contents)
    ]
    first = [ChatMessage("system", system, trained=False)] if system else []
    return Chat(1, (*first, *messages))


def decode(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    text: str = tokenizer.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def trained(tokenizer: ChatTokenizer, example: Example) -> list[str]:
    """The text of each run of trained tokens."""
    runs: list[list[int]] = [[]]
    for id_, mask in zip(example.ids, example.mask, strict=True):
        if mask:
            runs[-1].append(id_)
        elif runs[-1]:
            runs.append([])
    return [decode(tokenizer, run) for run in runs if run]


def one(base: ChatTokenizer, row: Row, max_length: int) -> Example:
    """A row that is one sequence."""
    [example] = base.encode(row, max_length)
    return example


@pytest.fixture(scope="module")
def demo() -> ChatTokenizer:
    return ChatTokenizer(DEMO)


TALK = chat("Who is there?", "It is fine.", "Is it?", "Here it is, there.")
CODE = chat("A loop?", "for x in y:\n    print(x)\n", "  Again ", "  while 1:\n      go()  ")


@pytest.mark.parametrize(
    "row",
    [
        TALK,
        CODE,
        chat("Tell me about 1,234 cows.", "Ahoy! 🦜 naïve", system="You are brief.\n"),
        chat("", "Something."),
    ],
)
def test_a_chat_has_the_ids_that_transformers_gives(demo: ChatTokenizer, row: Chat) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    messages = [{"role": m.role, "content": m.content} for m in row.messages]
    reference = AutoTokenizer.from_pretrained(DEMO).apply_chat_template(
        messages, tokenize=True, return_dict=False
    )
    assert one(demo, row, 10_000).ids == reference


def test_a_chat_opens_with_one_bos_token(demo: ChatTokenizer) -> None:
    text = decode(demo, one(demo, TALK, 10_000).ids)
    assert text.startswith("<|begin_of_text|><|im_start|>user")
    assert text.count("<|begin_of_text|>") == 1


def test_only_the_answers_and_their_end_tokens_are_trained(demo: ChatTokenizer) -> None:
    example = one(demo, TALK, 10_000)
    assert trained(demo, example) == ["It is fine.<|im_end|>", "Here it is, there.<|im_end|>"]
    assert example.trained_tokens == sum(example.mask)


def test_an_answer_of_weight_0_is_read_but_not_trained(demo: ChatTokenizer) -> None:
    example = one(demo, chat("One?", "Wrong.", "Two?", "Right.", untrained=(1,)), 10_000)
    assert trained(demo, example) == ["Right.<|im_end|>"]
    assert "Wrong." in decode(demo, example.ids)


def test_an_empty_answer_trains_its_end_token(demo: ChatTokenizer) -> None:
    assert trained(demo, one(demo, chat("Say nothing.", ""), 10_000)) == ["<|im_end|>"]


def test_a_developer_message_is_the_system_message(demo: ChatTokenizer) -> None:
    row = chat("Hi", "Ahoy", system="Be brief.")
    developer = Chat(1, (ChatMessage("developer", "Be brief.", trained=False), *row.messages[1:]))
    assert one(demo, developer, 10_000) == one(demo, row, 10_000)


def test_a_row_too_long_is_cut_at_its_end_and_says_so(demo: ChatTokenizer) -> None:
    whole = one(demo, TALK, 10_000)
    exact, cut = one(demo, TALK, whole.tokens), one(demo, TALK, whole.tokens - 3)
    assert (whole.cut, exact.cut, cut.cut) == (False, False, True)
    assert (cut.ids, cut.mask) == (whole.ids[:-3], whole.mask[:-3])
    assert cut.tokens == whole.tokens
    assert cut.trained_tokens == whole.trained_tokens - 2  # the end token; the newline never was


def test_a_cut_before_the_answer_leaves_no_trained_token(demo: ChatTokenizer) -> None:
    assert one(demo, chat("word " * 50, "An answer."), 20).trained_tokens == 0


def test_what_is_cut_off_is_not_rendered_message_by_message(
    demo: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a row of a mebibyte takes an hour."""
    pair = (ChatMessage("user", "Hi", trained=False), ChatMessage("assistant", "Ho", trained=True))
    row = Chat(1, pair * 50)
    rendered: list[Any] = []
    whole = one(demo, row, 9_999)
    render = demo.write

    def counted(said: Any, **flags: bool) -> Rendered:
        rendered.append(said)
        return render(said, **flags)

    monkeypatch.setattr(demo, "write", counted)
    cut = one(demo, row, 30)
    assert (cut.ids, cut.mask) == (whole.ids[:30], whole.mask[:30])
    assert len(rendered) < 10


def test_the_first_token_of_a_row_is_not_counted_as_trained() -> None:
    assert Example(line=1, ids=[5, 6, 7], mask=[1, 1, 0], tokens=3).trained_tokens == 1


def test_a_completion_has_the_tokenizers_bos_and_trains_its_text_and_eos(
    demo: ChatTokenizer,
) -> None:
    example = one(demo, Completion(1, "Bread is", " baked."), 10_000)
    assert decode(demo, example.ids) == "<|begin_of_text|>Bread is baked.<|end_of_text|>"
    assert trained(demo, example) == [" baked.<|end_of_text|>"]


def test_a_completion_without_prompt_trains_all_but_the_bos(demo: ChatTokenizer) -> None:
    example = one(demo, Completion(1, "", "Bread."), 10_000)
    assert trained(demo, example) == ["Bread.<|end_of_text|>"]


def test_a_token_across_the_seam_is_completion(demo: ChatTokenizer) -> None:
    assert len(demo.tokenizer.encode("What", add_special_tokens=False).ids) == 1
    assert trained(demo, one(demo, Completion(1, "Wh", "at"), 99)) == ["What<|end_of_text|>"]


def test_an_eos_that_the_tokenizer_adds_is_trained_once(tmp_path: Path) -> None:
    tokenizer = byte_level("<s>", "</s>")
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    base = save(tmp_path, tokenizer, None, "<s>", "</s>")
    assert trained(base, one(base, Completion(1, "a", " b"), 99)) == [" b</s>"]


def test_indentation_is_trained_where_offsets_leave_spaces_out(tmp_path: Path) -> None:
    tokenizer = byte_level("<s>", "</s>", "    ")
    base = save(tmp_path, tokenizer, NO_SPECIALS, "<s>", "</s>")
    code = "if x:\n      y = 1\n        z = 2  "
    assert trained(base, one(base, Completion(1, "Code:\n", code), 999)) == [code + "</s>"]
    assert trained(base, one(base, chat("Code?", code), 999)) == [code + "\n\n"]


def test_a_tokenizer_saved_while_cutting_and_padding_does_neither(tmp_path: Path) -> None:
    tokenizer = byte_level("<s>", "</s>")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    base = save(tmp_path, tokenizer, CHATML, "<s>", "</s>")
    example = one(base, Completion(1, "One two three four five", " six."), 999)
    assert decode(base, example.ids) == "<s>One two three four five six.</s>"


def test_a_completion_is_refused_where_no_eos_is_named(tmp_path: Path) -> None:
    base = save(tmp_path, byte_level("<s>", "</s>"), None, "<s>", "<missing>")
    with pytest.raises(TemplateError, match="names no eos_token"):
        one(base, Completion(1, "a", "b"), 99)


@pytest.mark.parametrize(
    ("template", "tokenizer", "bos_eos", "expected"),
    [
        pytest.param(
            LLAMA_3,
            byte_level(
                "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"
            ),
            ("<|begin_of_text|>", "<|eot_id|>"),
            ["It is fine.<|eot_id|>", "Here it is, there.<|eot_id|>"],
            id="Llama 3",
        ),
        pytest.param(
            GEMMA,
            metaspace("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", prepend=False),
            ("<bos>", "<eos>"),
            ["It is fine.<end_of_turn>", "Here it is, there.<end_of_turn>"],
            id="Gemma",
        ),
        pytest.param(
            MISTRAL,
            metaspace("<s>", "</s>", prepend=True),
            ("<s>", "</s>"),
            # The space is the template's, and the model must say it: it comes behind [/INST].
            [" It is fine.</s>", " Here it is, there.</s>"],
            id="Mistral",
        ),
        pytest.param(
            CHATML,
            byte_level("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
            ("<|endoftext|>", "<|im_end|>"),
            ["It is fine.<|im_end|>", "Here it is, there.<|im_end|>"],
            id="ChatML with a default system message",
        ),
        pytest.param(
            THINKING,
            byte_level("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"),
            ("<|endoftext|>", "<|im_end|>"),
            ["It is fine.<|im_end|>", "<think>\n\n</think>\n\nHere it is, there.<|im_end|>"],
            id="Qwen3",
        ),
        pytest.param(
            MARKED,
            byte_level("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
            ("<|endoftext|>", "<|im_end|>"),
            ["It is fine.<|im_end|>", "Here it is, there.<|im_end|>"],
            id="with {% generation %}",
        ),
        pytest.param(
            NO_SPECIALS,
            byte_level("<s>", "</s>"),
            ("<s>", "</s>"),
            # What ends a turn is then the white space that the template writes.
            ["It is fine.\n\n", "Here it is, there.\n\n"],
            id="no special tokens",
        ),
    ],
)
def test_each_family_trains_the_answers_and_what_ends_them(
    tmp_path: Path,
    template: str,
    tokenizer: Tokenizer,
    bos_eos: tuple[str, str],
    expected: list[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer
    base = save(tmp_path, tokenizer, template, *bos_eos)
    example = one(base, TALK, 10_000)
    assert trained(base, example) == expected
    messages = [{"role": m.role, "content": m.content} for m in TALK.messages]
    reference = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages, tokenize=True, return_dict=False
    )
    assert example.ids == reference


@pytest.mark.parametrize(
    ("template", "answers", "expected"),
    [
        pytest.param(
            THINKING,
            ("", "Ahoy"),
            ["<think>\n\n</think>\n\nAhoy<|im_end|>", "<think>\n\n</think>\n\n<|im_end|>"],
            id="thoughts before the last alone, which hide the end of an empty one",
        ),
        pytest.param(
            "{% for message in messages %}{{ message['content'] }}"
            "{% if loop.last and loop.length > 1 %}!{% else %}?{% endif %}{% endfor %}",
            ("One", "Ahoy"),
            ["Ahoy!", "One!"],
            id="another end for the last",
        ),
    ],
)
def test_an_answer_that_is_written_otherwise_once_others_follow_is_trained_by_itself(
    tmp_path: Path, template: str, answers: tuple[str, str], expected: list[str]
) -> None:
    base = with_template(tmp_path, template)
    row = chat("Hi", answers[0], "Again", answers[1])
    examples = {trained(base, each)[0]: decode(base, each.ids) for each in base.encode(row, 999)}
    assert examples.keys() == set(expected)
    assert examples[expected[1]] == base.write(Said.of(row).until(2)).text


def test_a_token_across_the_start_of_an_answer_is_trained(tmp_path: Path) -> None:
    base = with_template(
        tmp_path,
        "{% for message in messages %}{{ '(Wh' + message['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '(Wh' }}{% endif %}",
    )
    assert trained(base, one(base, chat("at", "at"), 99)) == ["What<|im_end|>"]


def test_the_template_named_default_is_taken_of_several(tmp_path: Path) -> None:
    several: Any = [
        {"name": "tool_use", "template": "{{ raise_exception('not this one') }}"},
        {"name": "default", "template": CHATML},
    ]
    base = with_template(tmp_path, several)
    assert trained(base, one(base, chat("Hi", "Ahoy"), 99)) == ["Ahoy<|im_end|>"]


def test_a_template_does_not_know_what_day_it_is(tmp_path: Path) -> None:
    base = with_template(tmp_path, "{{ strftime_now('%d %b %Y') }}" + CHATML)
    assert decode(base, one(base, chat("Hi", "Ahoy"), 99).ids).startswith("26 Jul 2024")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param(
            "{{ messages | length }}" + CHATML,
            r"does not render the beginning of a conversation as it does within the whole",
            id="a count of the messages first",
        ),
        pytest.param(None, "has no chat template; train it on prompt/completion", id="none"),
        pytest.param("{{ raise_exception('No!') }}", "refuses the row: No!", id="raises in words"),
        pytest.param("{{ messages[0]['content'] + 1 }}", "refuses the row", id="raises TypeError"),
        pytest.param("{{ 1 // 0 }}", "refuses the row", id="raises ZeroDivisionError"),
        pytest.param("{{ range(10 ** 9) | list }}", "refuses the row", id="counts too far"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses", id="recurses"),
        pytest.param("{{ messages[0].name.first }}", "refuses the row", id="an undefined name"),
    ],
)
def test_a_chat_that_the_template_cannot_render_is_refused_in_words(
    tmp_path: Path, template: str | None, reason: str
) -> None:
    with pytest.raises(TemplateError, match=reason):
        one(with_template(tmp_path, template), TALK, 10_000)


def test_a_broken_template_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"broken: .*endfor"):
        with_template(tmp_path, "{% for message in messages %}")


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__self__.replace(year=1) }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(content='x') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox_or_change_the_row(tmp_path: Path, escape: str) -> None:
    with pytest.raises(TemplateError):
        one(with_template(tmp_path, escape + CHATML), TALK, 10_000)


# As Hermes and Qwen2.5: looks at the message before, writes calls as JSON.
TOOLS = """{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}
{%- for call in message.tool_calls or [] %}
{{ '<call>' + call.function.name + (call.function.arguments | tojson) }}{% endfor %}
{{ '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def test_what_the_tokenizer_breaks_off_with_is_the_rows_unless_it_is_the_machines(
    demo: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """As pyo3 has it."""

    class Broken:
        def __init__(self, words: str) -> None:
            self.words = words

        def encode(self, *_: object, **__: object) -> None:
            raise PanicException(self.words)

    monkeypatch.setattr(demo, "tokenizer", Broken("index out of bounds"))
    with pytest.raises(TemplateError, match="tokenizer breaks on the row: index out of bounds"):
        one(demo, TALK, 99)
    with pytest.raises(TemplateError, match="breaks on the row"):
        one(demo, Completion(1, "a", "b"), 99)
    monkeypatch.setattr(demo, "tokenizer", Broken("memory allocation of 9 bytes failed"))
    with pytest.raises(MemoryError, match="memory allocation"):
        one(demo, TALK, 99)
