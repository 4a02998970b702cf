"""From a row to token ids and loss mask, by the base model's own tokenizer and chat template.

One path for preview, `tunery validate` and training. Rules:

- A chat row is exactly what the template renders; special tokens come from it alone, so nothing
  is added twice.
- Trained are an assistant message's own tokens and the token that ends its turn, not what the
  template writes around them, and nothing of a message with weight 0.
- A prompt/completion row is the two texts joined, with the tokenizer's own opening tokens and the
  end-of-sequence token; trained are the completion and that end.
- A row longer than `max_length` is cut at its end. If the cut leaves no trained token the row is
  left out of the training. Both are counted.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tunery.data.rows import Chat, Completion, Row

# Some templates print today's date. Training must not depend on the day it runs.
TEMPLATE_DATE = datetime(2024, 7, 26, tzinfo=UTC)


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


class ChatTokenizer:
    """The tokenizer and chat template of a base model's folder (tokenizer.json,
    tokenizer_config.json, chat_template.jinja), without transformers.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file may say how somebody once cut or padded texts.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.special = {
            name: token_text(config[name])
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if config.get(name)
        }
        self.special_ids = {
            id_ for id_, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        }
        template = folder / "chat_template.jinja"
        source = template.read_text() if template.exists() else config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = {each["name"]: each["template"] for each in source}.get("default")
        self.template = compile_template(source) if source else None

    def encode(self, row: Row, max_length: int) -> Example:
        """Ids and mask of one row, cut to `max_length` tokens.

        Raises:
            TemplateError: the template refuses the row, or does not render a conversation's
                beginning as the beginning of the conversation.

        """
        match row:
            case Chat() if not any(m.tool_calls or m.role == "tool" for m in row.messages):
                ids, mask = self.encode_chat(row)
            case Completion():
                ids, mask = self.encode_text(row)
            case _:
                raise TemplateError("such a row cannot be trained on yet")
        return Example(row.line, ids[:max_length], mask[:max_length], len(ids))

    def encode_text(self, row: Completion) -> tuple[list[int], list[int]]:
        text = row.prompt + row.completion
        encoding = self.tokenizer.encode(text)
        # A token across the seam counts as completion: it is the model that must produce it.
        # A token of spaces may have no width, its place is then its end; an added one ends at 0.
        mask = [int(end > len(row.prompt)) for _, end in encoding.offsets]
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

    def encode_chat(self, row: Chat) -> tuple[list[int], list[int]]:
        messages = [
            # OpenAI's newer word for the system role; templates know the older one.
            {"role": "system" if m.role == "developer" else m.role, "content": m.content}
            for m in row.messages
        ]
        text = self.render(messages)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        mask = [0] * len(encoding.ids)
        for index, message in enumerate(row.messages):
            if not message.trained:
                continue
            start = self.answer_start(messages[:index], text)
            end = self.answer_end(messages[: index + 1], text, start)
            inside = [i for i, (a, b) in enumerate(encoding.offsets) if b > start and a < end]
            for i in inside[: self.turn_length(encoding.ids, encoding.offsets, inside, text)]:
                mask[i] = 1
        return list(encoding.ids), mask

    def turn_length(
        self, ids: list[int], offsets: list[tuple[int, int]], inside: list[int], text: str
    ) -> int:
        """How many of a turn's tokens are its own: up to its end token, where the template only
        adds white space behind that.
        """
        for length in range(len(inside), 0, -1):
            position = inside[length - 1]
            if ids[position] in self.special_ids:
                return length
            start, end = offsets[position]
            if text[start:end].strip():
                break
        return len(inside)

    def answer_start(self, before: list[dict[str, str]], text: str) -> int:
        """Where the model takes over in `text`: behind the messages before and the prompt to
        answer.
        """
        start = self.render(before, add_generation_prompt=True)
        if not text.startswith(start):
            raise rendered_otherwise(len(before) + 1)
        return len(start)

    def answer_end(self, until: list[dict[str, str]], text: str, start: int) -> int:
        """Where the last of the messages `until` ends in `text`, with what closes its turn."""
        whole = self.render(until)
        if text.startswith(whole):
            return len(whole)
        # Thinking models: an answer has its (empty) thoughts before it only while it is the last.
        content = until[-1]["content"].strip()
        answer = whole[whole.rfind(content) :]
        if content and answer.startswith(content) and text.startswith(answer, start):
            return start + len(answer)
        raise rendered_otherwise(len(until))

    def render(self, messages: list[dict[str, str]], **flags: bool) -> str:
        """The text of a conversation, special tokens written out."""
        if self.template is None:
            raise TemplateError(
                "the base model has no chat template; train it on prompt/completion rows"
            )
        flags.setdefault("add_generation_prompt", False)
        try:
            return self.template.render(
                messages=messages, tools=None, documents=None, **self.special, **flags
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


def compile_template(source: str) -> jinja2.Template:
    """A chat template as transformers compiles one: sandboxed, trimmed blocks.

    Raises:
        TemplateError: it is not a template.

    """

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:  # noqa: ANN401
        return json.dumps(value, ensure_ascii=False, indent=indent)

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
