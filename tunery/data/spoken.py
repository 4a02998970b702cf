"""From the tokens that a model says to text, piece by piece: nothing is given out that the next
token may still change.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunery.completions import TokenSaid
from tunery.data.template import ChatTokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# A character has at most four bytes; one that is still none after so many tokens never will be.
MOST_HELD = 5
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


BYTES = byte_of()


def token_text(tokenizer: ChatTokenizer, token: int) -> tuple[str, list[int]]:
    """One token as text, and its UTF-8 bytes."""
    written = tokenizer.tokenizer.id_to_token(token) or ""
    text = tokenizer.text_of([token])
    if UNKNOWN in text:  # a part of a character
        if found := BYTE.fullmatch(written):
            return text, [int(found[1], 16)]
        if all(char in BYTES for char in written):
            return text, [BYTES[char] for char in written]
    elif written.startswith("\u2581") and not text.startswith(" "):
        text = f" {text}"  # by itself it is the beginning of a text
    return text, list(text.encode())


@dataclass
class Spoken:
    """`before` are the last tokens before the first: what is said may begin in the middle of a
    text. What follows one of the texts `stops` is not said, nor is it.
    """

    tokenizer: ChatTokenizer
    before: Sequence[int] = ()
    stops: Sequence[str] = ()
    text: str = ""
    stopped: bool = False
    given: int = 0
    tokens: deque[tuple[int, TokenSaid]] = field(default_factory=deque)
    ids: list[int] = field(init=False)
    decoded: str = field(init=False)

    def __post_init__(self) -> None:
        self.ids = list(self.before)
        self.decoded = self.tokenizer.text_of(self.ids).rstrip(UNKNOWN)
        self.fresh = 0

    def say(self, token: int, said: TokenSaid | None = None) -> None:
        """`said` is what is to be told of the token."""
        self.ids.append(token)
        self.fresh += 1
        whole = self.tokenizer.text_of(self.ids)
        if not whole.endswith(UNKNOWN) or self.fresh >= MOST_HELD:
            self.settle(whole)
        if said and not self.stopped:
            self.tokens.append((len(self.text), said))

    def settle(self, whole: str) -> None:
        """Takes in what its last tokens came to."""
        begun = len(self.text)
        self.text += whole[len(self.decoded) :]
        # The next one's spaces depend on what is before it, and on no more than that.
        self.ids = self.ids[-self.fresh :]
        self.decoded, self.fresh = self.tokenizer.text_of(self.ids), 0
        # With at least one new character: what an answer begins with is the prompt's.
        starts = {stop: max(self.given, begun + 1 - len(stop)) for stop in self.stops}
        places = [self.text.find(stop, start) for stop, start in starts.items()]
        if found := [at for at in places if at >= 0]:
            self.text = self.text[: min(found)]
            self.stopped = True

    def take(self, markers: Sequence[str] = ()) -> tuple[str, list[TokenSaid]]:
        """What is sure to be said next. Held back is what one of the stops may begin with, or one
        of the `markers`, and all that comes after a marker.
        """
        end = len(self.text)
        if not self.stopped:
            end = min([end, *(held_from(self.text, stop, self.given) for stop in self.stops)])
        for marker in markers:
            at = self.text.find(marker, self.given)
            end = min(end, at if at >= 0 else held_from(self.text, marker, self.given))
        return self.until(end)

    def finish(self) -> None:
        """No token follows: half a character stays one."""
        if self.fresh and not self.stopped:
            self.settle(self.tokenizer.text_of(self.ids))

    def until(self, end: int) -> tuple[str, list[TokenSaid]]:
        piece, self.given = self.text[self.given : end], max(self.given, end)
        tokens = []
        while self.tokens and self.tokens[0][0] <= end:
            tokens.append(self.tokens.popleft()[1])
        return piece, tokens


def held_from(text: str, marker: str, given: int) -> int:
    """Where the text's end begins that `marker` may begin with."""
    for length in range(min(len(marker) - 1, len(text) - given), 0, -1):
        if text.endswith(marker[:length]):
            return len(text) - length
    return len(text)
