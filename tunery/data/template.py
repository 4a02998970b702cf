"""From a row to token ids and loss mask, by the base model's own tokenizer and chat template.

One path for preview, `tunery validate` and training. Rules:

- A chat row is exactly what the template renders; special tokens come from it alone, so nothing
  is added twice, and a message that holds the text of one holds text.
- Trained are an assistant message's own tokens, its tool calls, and the token that ends its turn,
  not what the template writes around them, and nothing of a message with weight 0. What it thought
  before is trained, or not (`train_on_reasoning`): then only what is said after it. Where the
  template marks its answers (`{% generation %}`), trained is what it marks.
- A chat is one sequence of tokens; but an answer that the template writes otherwise once others
  follow is one by itself (`tunery.data.answers`).
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from tunery.data.answers import Answer, Conversation, Span
from tunery.data.bounds import TemplateTooCostly, rendering
from tunery.data.control_tokens import ControlTokens
from tunery.data.jinja import Rendered, TemplateError, compile_template, template_sources
from tunery.data.panics import panics_as
from tunery.data.rows import (
    THOUGHT,
    Chat,
    Completion,
    Preference,
    Row,
    Text,
    holds_reasoning,
    quoted,
)
from tunery.data.said import Said, forms

# Ids, and where each token stands in the text.
Tokens = tuple[list[int], list[tuple[int, int]]]

THOUGHT_AND_SPACE = re.compile(THOUGHT.pattern + r"\s*", re.DOTALL)
LIKE_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|<\uff5c[^\uff5c<>\s]{1,64}\uff5c>|<(?:start|end)_of_turn>|\[/?INST\]"
)
# Those of GPT-2, BERT and RoBERTa, whose folders name none at all.
SPECIAL_UNLESS_NAMED = {
    "eos_token": ("<|endoftext|>", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


@dataclass(frozen=True)
class Example:
    """One row as the model sees it. `ids` and `mask` have the same length, at most `max_length`;
    mask 1 marks a trained token. `tokens` counts the row before the cut. `lost` names what the row
    says and the template leaves out, `adapted` what was changed so that the template takes it.
    `reasoning`: it has a thought before an answer.
    """

    line: int
    ids: list[int]
    mask: list[int]
    tokens: int
    lost: tuple[str, ...] = ()
    adapted: str | None = None
    reasoning: bool = False

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

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        """With another template than the folder's, if one is given in Jinja.

        Raises:
            TemplateError: it is not a template.

        """
        self.train_on_reasoning = True
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
        self.given = chat_template is not None
        sources = template_sources(folder, config)
        if chat_template is not None:
            sources = {"default": chat_template}
        templates = {name: compile_template(source) for name, source in sources.items()}
        self.template = templates.get("default")
        self.tool_template = templates.get("tool_use", self.template)

    def written_in_pieces(self) -> list[str]:
        """What a template that was given writes like control tokens, and the tokenizer does not
        have as one token each.
        """
        turns = ("system", "user", "assistant")
        talk = [{"role": role, "content": "?"} for role in turns]
        for messages in (talk, talk[1:]) if self.given else ():
            with suppress(TemplateError, TemplateTooCostly):
                text = self.write(Said(messages, None, (False,) * len(messages))).text
                found = dict.fromkeys(LIKE_CONTROL.findall(text))
                return [
                    each
                    for each in found
                    if len(self.tokenizer.encode(each, add_special_tokens=False).ids) != 1
                ]
        return []

    def text_of(self, ids: list[int]) -> str:
        """As it came in: control tokens written out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def encode(self, row: Row, max_length: int) -> list[Example]:
        """Ids and mask of one row, cut to `max_length` tokens: one sequence, or of a chat several,
        whose answers the template does not write as they are asked for.

        Raises:
            TemplateError: the template refuses the row, or its answers cannot be told from the
                rest.

        """
        match row:
            case Chat():
                found = self.encode_chat(row, max_length)
                if holds_reasoning(row):
                    found = [replace(example, reasoning=True) for example in found]
                return found
            case Completion():
                ids, mask = self.encode_text(row.prompt, row.completion)
            case Text():
                ids, mask = self.encode_text("", row.text)
            case Preference():
                raise TemplateError("it is a pair of answers, which only the method dpo compares")
        ids_, mask_ = ids[:max_length], mask[:max_length]
        return [Example(row.line, ids_, mask_, len(ids), reasoning=holds_reasoning(row))]

    def encode_pair(self, row: Preference, max_length: int) -> tuple[Example, Example]:
        """The preferred answer behind its input, and the other: each a chat whose answer alone is
        trained. Raises as `encode`.
        """
        pair = []
        for answer in (row.preferred, row.non_preferred):
            found = self.encode(Chat(row.line, (*row.input, *answer), row.tools), max_length)
            if len(found) > 1:
                raise TemplateError(
                    "the base model's chat template writes the messages of an answer otherwise "
                    "once others follow, so that they cannot be compared as one"
                )
            pair += found
        return pair[0], pair[1]

    def encode_throughout(self, row: Row, max_length: int) -> Example:
        """The whole row in one sequence, all of it trained. Raises as `encode`."""
        if isinstance(row, Chat):
            said = Said.of(row)
            typed = self.control_tokens.are_in([said.messages, said.tools])
            text = self.write(self.hidden(said) if typed else said).text
            ids, _ = self.tokens_of(text, typed=typed)
        else:
            [example] = self.encode(row, sys.maxsize)
            ids = example.ids
        return Example(row.line, ids[:max_length], [1] * len(ids[:max_length]), len(ids))

    def encode_parts(self, row: Text, max_length: int) -> list[Example]:
        """All of a text, in parts of at most `max_length` tokens. Each but the first begins with
        the last token of the one before, so that each token but the text's first is trained once.
        """
        [whole] = self.encode(row, sys.maxsize)
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
        start = len(prompt)
        if not self.train_on_reasoning and (thought := THOUGHT_AND_SPACE.match(completion)):
            start += thought.end()
        mask = [int(end > start) for _, end in encoding.offsets]
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

    def encode_chat(self, row: Chat, max_length: int) -> list[Example]:
        """In the form nearest to the row that the template takes. Raises what the template says of
        the row as it is, if it takes none.
        """
        said = Said.of(row)
        typed = self.control_tokens.are_in([said.messages, said.tools])
        if typed:
            said = self.hidden(said)
        try:
            return self.encode_said(row.line, said, max_length, typed=typed)
        except TemplateError as error:
            for words, form in forms(said):
                with suppress(TemplateError):
                    found = self.encode_said(row.line, form, max_length, typed=typed)
                    return [replace(example, adapted=words) for example in found]
            raise error from error.__cause__

    def encode_said(self, line: int, said: Said, max_length: int, *, typed: bool) -> list[Example]:
        """The mask is that of the first `max_length` tokens: each answer costs a rendering of all
        before it, so those that are cut off are not looked at.
        """
        talk = Conversation(said, self.write, self.control_tokens.pattern)
        if said.tools and not talk.differs(said._replace(tools=None)):
            raise TemplateError(
                "the base model's chat template does not show a row's tools to the model"
            )
        whole = self.tokens_of(talk.whole.text, typed=typed)
        answers = talk.answers(kept=max((end for _, end in whole[1][:max_length]), default=0))
        talk.require_calls(answers)
        lost = tuple(talk.lost(answers))

        def example(tokens: Tokens, text: str, here: list[Answer]) -> Example:
            spans = [(answer, self.trained_span(said, answer, text)) for answer in here]
            ids, mask = tokens[0], self.mask(text, *tokens, spans)
            return Example(line, ids[:max_length], mask[:max_length], len(ids), lost)

        within = [answer for answer in answers if answer.text is None]
        apart = [(answer, answer.text) for answer in answers if answer.text is not None]
        examples = [example(whole, talk.whole.text, within)] if within or not apart else []
        for answer, text in apart:
            examples.append(example(self.tokens_of(text, typed=typed), text, [answer]))
        return examples

    def tokens_of(self, text: str, *, typed: bool) -> Tokens:
        """Ids and offsets of what a template wrote."""
        with panics_as(TemplateError):
            if typed:
                return self.control_tokens.encode(text)
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            return encoding.ids, encoding.offsets

    def trained_span(self, said: Said, answer: Answer, text: str) -> Span:
        start, end = answer.span
        if not self.train_on_reasoning:
            start = said.behind_thought(answer.index, text, start, end)
        return start, end

    def mask(
        self,
        text: str,
        ids: list[int],
        offsets: list[tuple[int, int]],
        answers: list[tuple[Answer, Span]],
    ) -> list[int]:
        mask = [0] * len(ids)
        starts, ends = [a for a, _ in offsets], [b for _, b in offsets]
        for answer, (start, end) in answers:
            inside = range(bisect_right(ends, start), bisect_left(starts, end))
            own = len(inside) if answer.marked else self.turn_length(ids, offsets, inside, text)
            for i in inside[:own]:
                mask[i] = 1
        return mask

    def hidden(self, said: Said) -> Said:
        """With the texts of control tokens hidden."""
        try:
            messages, tools = self.control_tokens.hide([said.messages, said.tools])
        except ValueError as error:
            raise TemplateError(f"the row cannot be told from the template: {error}") from error
        return said._replace(messages=messages, tools=tools)

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

    def write(self, said: Said, *, add_generation_prompt: bool = False) -> Rendered:
        """What the template makes of a conversation.

        Raises:
            TemplateError: the template refuses it.
            TemplateTooCostly: it took more than it may.

        """
        template = self.tool_template if said.tools else self.template
        if template is None:
            raise TemplateError(
                "the base model has no chat template; train it on prompt/completion rows"
            )
        try:
            with rendering:
                written = template.render(
                    messages=said.messages,
                    tools=said.tools,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **self.special,
                )
        except Exception as error:  # a template is a program: it may raise anything
            raise TemplateError(
                f"the base model's chat template refuses the row: {error}"
            ) from error
        return Rendered.of(written)


def in_pieces(tokens: Sequence[str]) -> str:
    """For people."""
    return (
        f"The chat template writes {quoted(tuple(tokens[:8]))}, which the base's tokenizer does "
        "not have as one token each: they are trained in pieces, as plain text. Choose a template "
        "of the base's own family if you do not mean that."
    )


def token_text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
