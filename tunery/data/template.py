"""From a row to token ids and loss mask, by the base model's own tokenizer and chat template.

One path for preview, `tunery validate` and training. Rules:

- A chat row is exactly what the template renders; special tokens come from it alone, so nothing
  is added twice, and a message that holds the text of one holds text.
- Trained are an assistant message's own tokens, its tool calls, and the token that ends its turn,
  not what the template writes around them, and nothing of a message with weight 0.
- A prompt/completion row is the two texts joined, with the tokenizer's own opening tokens and the
  end-of-sequence token; trained are the completion and that end. A text row is a completion
  without prompt. No template writes their special tokens, so theirs are special.
- A row longer than `max_length` is cut at its end, or a text split into parts. If the cut leaves no
  trained token the row is left out of the training. Both are counted.
"""

import json
import re
import sys
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import jinja2
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tunery.data.control_tokens import ControlTokens
from tunery.data.panics import panics_as
from tunery.data.rows import Chat, Completion, Preference, Row, Text
from tunery.data.said import Said, overlap

# Some templates print today's date. Training must not depend on the day it runs.
TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)


# Those of GPT-2, BERT and RoBERTa, whose folders name none at all.
SPECIAL_UNLESS_NAMED = {
    "eos_token": ("<|endoftext|>", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class TemplateError(ValueError):
    """The base model's template cannot render this row, or not in a way that can be trained on."""


@dataclass(frozen=True)
class Example:
    """One row as the model sees it. `ids` and `mask` have the same length, at most `max_length`;
    mask 1 marks a trained token. `tokens` counts the row before the cut.
    """

    line: int
    ids: list[int]
    mask: list[int]
    tokens: int

    @property
    def cut(self) -> bool:
        return self.tokens > len(self.ids)

    @property
    def trained_tokens(self) -> int:
        """Tokens that are predicted and count in the loss: the first token has no predecessor."""
        return sum(self.mask[1:])

    def trained_throughout(self) -> Self:
        return replace(self, mask=[1] * len(self.ids))


class ChatTokenizer:
    """The tokenizer and chat template of a base model's folder, without transformers. It reads
    `tunery.facts.TOKENIZER_FILES` and no other.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file may say how somebody once cut or padded texts.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.control_tokens = ControlTokens(self.tokenizer)
        self.special = {
            name: token_text(config[name])
            for name in ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
            if config.get(name)
        } or {
            name: token
            for name, tokens in SPECIAL_UNLESS_NAMED.items()
            for token in tokens
            if token in self.control_tokens.number
        }
        templates = {
            name: compile_template(source)
            for name, source in template_sources(folder, config).items()
        }
        self.template = templates.get("default")
        self.tool_template = templates.get("tool_use", self.template)

    def text_of(self, ids: list[int]) -> str:
        """As it came in: control tokens written out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def encode(self, row: Row, max_length: int) -> Example:
        """Ids and mask of one row, cut to `max_length` tokens.

        Raises:
            TemplateError: the template refuses the row, or does not render a conversation's
                beginning as the beginning of the conversation.

        """
        match row:
            case Chat():
                ids, mask = self.encode_chat(row, max_length)
            case Completion():
                ids, mask = self.encode_text(row.prompt, row.completion)
            case Text():
                ids, mask = self.encode_text("", row.text)
            case Preference():
                raise TemplateError("it is a pair of answers, which only the method dpo compares")
        return Example(row.line, ids[:max_length], mask[:max_length], len(ids))

    def encode_pair(self, row: Preference, max_length: int) -> tuple[Example, Example]:
        """The preferred answer behind its input, and the other: each a chat whose answer alone is
        trained. Raises as `encode`.
        """
        first, second = (
            self.encode(Chat(row.line, (*row.input, *answer), row.tools), max_length)
            for answer in (row.preferred, row.non_preferred)
        )
        return first, second

    def encode_parts(self, row: Text, max_length: int) -> list[Example]:
        """All of a text, in parts of at most `max_length` tokens. Each but the first begins with
        the last token of the one before, so that each token but the text's first is trained once.
        """
        whole = self.encode(row, sys.maxsize)
        starts = range(0, max(1, whole.tokens - 1), max_length - 1)
        parts = [slice(start, start + max_length) for start in starts]
        return [
            Example(row.line, ids := whole.ids[part], whole.mask[part], len(ids)) for part in parts
        ]

    def encode_enclosed(self, row: Text, max_length: int) -> list[Example]:
        """All of a text for an encoder, in parts of at most `max_length` tokens, each within the
        tokenizer's own opening and closing tokens. The mask is 1 for tokens that are not special.
        """
        around = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        with panics_as(TemplateError):
            encoding = self.tokenizer.encode(row.text, add_special_tokens=False)
        encoding.truncate(max_length - around)
        parts = (self.tokenizer.post_process(part) for part in [encoding, *encoding.overflowing])
        special = self.control_tokens.ids
        return [
            Example(row.line, part.ids, [int(id_ not in special) for id_ in part.ids], len(part))
            for part in parts
        ]

    def encode_text(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        with panics_as(TemplateError):
            encoding = self.tokenizer.encode(prompt + completion)
        # A token across the seam counts as completion: it is the model that must produce it.
        # A token of spaces may have no width, its place is then its end; an added one ends at 0.
        mask = [int(end > len(prompt)) for _, end in encoding.offsets]
        ids = list(encoding.ids)
        end_id = self.tokenizer.token_to_id(self.special.get("eos_token", ""))
        if end_id is None:
            raise TemplateError("the base model's tokenizer names no eos_token")
        if ids[-1:] != [end_id]:
            ids.append(end_id)
            mask.append(1)
        else:
            mask[-1] = 1
        return ids, mask

    def encode_chat(self, row: Chat, max_length: int) -> tuple[list[int], list[int]]:
        """The mask is that of the first `max_length` tokens: each message costs a rendering of all
        before it, so those that are cut off are not looked at.
        """
        said = Said.of(row)
        typed = self.control_tokens.are_in([said.messages, said.tools])
        if typed:
            said = self.hidden(said)
        text = self.render(said)
        if said.tools and not self.differs(text, said._replace(tools=None)):
            raise TemplateError(
                "the base model's chat template does not show a row's tools to the model"
            )
        with panics_as(TemplateError):
            if typed:
                ids, offsets = self.control_tokens.encode(text)
            else:
                encoding = self.tokenizer.encode(text, add_special_tokens=False)
                ids, offsets = encoding.ids, encoding.offsets
        mask = [0] * len(ids)
        starts, ends = [a for a, _ in offsets], [b for _, b in offsets]
        kept = max(ends[:max_length], default=0)
        shown = self.calls_shown(row, said, text)
        for index, message in enumerate(row.messages):
            if message.trained:
                start = self.answer_start(said.until(index), text)
                if start >= kept:
                    break
                end = self.answer_end(said.until(index + 1), text, start)
                inside = range(bisect_right(ends, start), bisect_left(starts, end))
                for i in inside[: self.turn_length(ids, offsets, inside, text)]:
                    mask[i] = 1
                answer = text[start:end]
                written = all(name in answer for name in set(said.called(index)))
            else:
                written = (
                    not message.tool_calls
                    or index in shown
                    or self.differs(text, said.without_calls(index))
                )
            if not written:
                raise TemplateError(
                    "the base model's chat template does not write the tool calls of message "
                    f"{index + 1}"
                )
        return ids, mask

    def hidden(self, said: Said) -> Said:
        """With the texts of control tokens hidden."""
        try:
            messages, tools = self.control_tokens.hide([said.messages, said.tools])
        except ValueError as error:
            raise TemplateError(f"the row cannot be told from the template: {error}") from error
        return Said(messages, tools)

    def differs(self, text: str, other: Said) -> bool:
        """Whether another conversation has another text, or none."""
        try:
            return text != self.render(other)
        except TemplateError:
            return True

    def calls_shown(self, row: Chat, said: Said, text: str) -> set[int]:
        """Of the untrained messages that call tools, those whose calls the template writes: other
        names in their place are found in what it makes of all of them at once.
        """
        calling = [i for i, each in enumerate(row.messages) if each.tool_calls and not each.trained]
        if not calling:
            return set()
        other = "call"
        while other in text:
            other += "x"
        try:
            renamed = self.render(said.renamed({index: f"{other}{index}_" for index in calling}))
        except TemplateError:
            return set()
        return {int(index) for index in re.findall(f"{other}([0-9]+)_", renamed)} & set(calling)

    def turn_length(
        self, ids: list[int], offsets: list[tuple[int, int]], inside: range, text: str
    ) -> int:
        """How many of a turn's tokens are its own: up to its end token, where the template only
        adds white space behind that.
        """
        for length in range(len(inside), 0, -1):
            position = inside[length - 1]
            if ids[position] in self.control_tokens.ids:
                return length
            start, end = offsets[position]
            if text[start:end].strip():
                break
        return len(inside)

    def answer_start(self, before: Said, text: str) -> int:
        """Where the model takes over in `text`: behind the messages before and the prompt to
        answer.
        """
        start = self.render(before, add_generation_prompt=True)
        if not text.startswith(start):
            raise rendered_otherwise(len(before.messages) + 1)
        return len(start)

    def answer_end(self, until: Said, text: str, start: int) -> int:
        """Where the last of the messages `until` ends in `text`, with what closes its turn."""
        whole = self.render(until)
        if text.startswith(whole):
            return len(whole)
        # Thinking models: an answer has its (empty) thoughts before it only while it is the last.
        parts = {until.messages[-1]["content"].strip(), *until.called(-1)}
        if any(parts):
            length = overlap(whole[start:], text[start : start + len(whole)])
            answer = text[start : start + length]
            if length and all(part in answer for part in parts):
                return start + length
        raise rendered_otherwise(len(until.messages))

    def render(self, said: Said, **flags: bool) -> str:
        """The text of a conversation, special tokens written out."""
        template = self.tool_template if said.tools else self.template
        if template is None:
            raise TemplateError(
                "the base model has no chat template; train it on prompt/completion rows"
            )
        flags.setdefault("add_generation_prompt", False)
        try:
            return template.render(
                messages=said.messages, tools=said.tools, documents=None, **self.special, **flags
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise TemplateError(
                f"the base model's chat template refuses the row: {error}"
            ) from error


def rendered_otherwise(message: int) -> TemplateError:
    return TemplateError(
        "the base model's chat template does not render the beginning of a conversation as it does "
        f"within the whole (message {message}), so its turns cannot be told apart"
    )


class Generation(Extension):
    """`{% generation %}` around an answer, which transformers knows: here just what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def token_text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def template_sources(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """By name. Most models have one, `default`; some another for rows with tools, `tool_use`."""
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.exists() else config.get("chat_template")
    if isinstance(source, list):
        return {each["name"]: each["template"] for each in source}
    return {"default": source} if source else {}


def compile_template(source: str) -> jinja2.Template:
    """A chat template as transformers compiles one: sandboxed, trimmed blocks.

    Raises:
        TemplateError: it is not a template.

    """

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,  # noqa: ANN401
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"the base model's chat template is broken: {error}") from error
