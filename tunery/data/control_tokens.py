"""What a tokenizer reads as control tokens (such as a turn's end) and a message may hold as text.

A chat template and the messages end up in one string, in which a tokenizer cannot tell who wrote
`<|im_end|>`. So where a message holds such a text, it goes through the template hidden as
characters that nobody writes; what the rendered string then has of control tokens is the
template's own, and is in turn marked for a second tokenizer, which takes marks for control tokens
and the messages' texts for text. Everything keeps its place and length, and all else its tokens.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer

# Unicode's private planes 15 and 16: one character for each control token, and for each text.
MARKS = 0xF0000
HIDDEN = 0x100000
PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
HIDDEN_RUN = re.compile("([\U00100000-\U0010ffff])\\1*")


class ControlTokens:
    """Those that the tokenizer's file calls special. Other tokens that were added to it, such as
    `<think>` or `<tool_call>`, are tokens in a message too: who writes them means them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.ids = {id_ for id_, token in added.items() if token.special and token.content}
        # The longest first, as the tokenizer takes them.
        self.tokens = sorted(
            ((id_, added[id_]) for id_ in self.ids), key=lambda each: -len(each[1].content)
        )
        self.number = {token.content: number for number, (_, token) in enumerate(self.tokens)}
        self.pattern = re.compile("|".join(map(re.escape, self.number)) or "(?!)")
        # Few texts have one of these few pairs: looking for them first costs next to nothing.
        self.beginnings = {content[:2] for content in self.number}
        self.marked: tuple[Tokenizer, dict[int | None, int]] | None = None

    def are_in(self, value: object) -> bool:
        """Whether a text within the value (of lists and objects, as of JSON) has one."""
        whole = "\0".join(texts(value))
        if not any(beginning in whole for beginning in self.beginnings):
            return False
        return self.pattern.search(whole) is not None

    def hide(self, value: Any) -> Any:  # noqa: ANN401 - the same as comes in
        """The value with every control token's text hidden.

        Raises:
            ValueError: it has characters of the private planes itself.

        """
        for text in texts(value):
            if found := PRIVATE.search(text):
                raise ValueError(
                    f"it holds the text of a control token ({self.first_in(value)}) and a "
                    f"character of Unicode's private planes (U+{ord(found[0]):X}), which would be "
                    "taken for one; remove one of the two"
                )
        return changed(value, lambda text: self.pattern.sub(self.hidden, text))

    def first_in(self, value: object) -> str:
        return next(found[0] for text in texts(value) if (found := self.pattern.search(text)))

    def hidden(self, found: re.Match[str]) -> str:
        return chr(HIDDEN + self.number[found[0]]) * len(found[0])

    def shown(self, found: re.Match[str]) -> str:
        """Of a run of one hidden character: a template may have cut it."""
        content = self.tokens[ord(found[0][0]) - HIDDEN][1].content
        return (content * (len(found[0]) // len(content) + 1))[: len(found[0])]

    def mark(self, found: re.Match[str]) -> str:
        return chr(MARKS + self.number[found[0]]) * len(found[0])

    def encode(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets of what a template made of hidden texts."""
        tokenizer, real = self.of_marks()
        text = HIDDEN_RUN.sub(self.shown, self.pattern.sub(self.mark, rendered))
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return [real.get(id_, id_) for id_ in encoding.ids], encoding.offsets

    def of_marks(self) -> tuple[Tokenizer, dict[int | None, int]]:
        """A tokenizer that takes marks for control tokens and these for text, and the control
        token's id for each mark's. Made for the first text that needs it.
        """
        if self.marked is None:
            tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
            tokenizer.encode_special_tokens = True
            real: dict[int | None, int] = {}
            for number, (id_, token) in enumerate(self.tokens):
                mark = chr(MARKS + number) * len(token.content)
                alike = AddedToken(
                    mark,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=False,
                )
                tokenizer.add_tokens([alike])
                real[tokenizer.token_to_id(mark)] = id_
            self.marked = tokenizer, real
        return self.marked


def texts(value: object) -> Iterator[str]:
    """All within it, an object's keys too, in no order."""
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            rest += each.keys()
            rest += each.values()
        elif isinstance(each, list):
            rest += each


def changed(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - as `hide`
    """The value with each text in it changed, an object's keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): changed(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each, change) for each in value]
    return value
