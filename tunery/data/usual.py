"""The usual rows, recognised many at once: the check of a large file spends its time here.

Usual are chats of text alone, without weights. Each is a row for `tunery.data.lines`, too; of what
is not usual nothing is said here.
"""

from itertools import chain, filterfalse
from operator import attrgetter, itemgetter, methodcaller
from typing import Literal, NamedTuple

import msgspec
import orjson

from tunery.data.jsonl import Lines
from tunery.data.lines import written_keys
from tunery.data.rows import THOUGHT
from tunery.data.turns import FEW_MESSAGES

ROLES = ("system", "developer", "user", "assistant")


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[Message]


# Bytes beside the texts and roles, in the closest spacing: {"messages":[{"role":"","content":""}]}
ROW_BYTES = len('{"messages":[]}') - len(",")
MESSAGE_BYTES = len('{"role":"","content":""},')
# What json.dumps adds: a blank behind each colon and comma.
MESSAGE_BLANKS = 4

decoder = msgspec.json.Decoder(Chat)
begins_row = methodcaller("startswith", b'{"messages"')
messages_of = attrgetter("messages")
role_of = attrgetter("role")
content_of = attrgetter("content")
last = itemgetter(-1)


class UsualRows(NamedTuple):
    """`text_bytes` as in the report; `thinking` are the rows with reasoning."""

    chats: list[Chat]
    roles: dict[str, int]
    text_bytes: int
    thinking: int


def usual_rows(lines: Lines) -> UsualRows | None:
    """The lines as rows, if it is certain that each is one: it ends in an answer, no text has a
    NUL, no key comes twice.
    """
    try:
        chats = decoder.decode_lines(lines.written)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if len(chats) != len(lines.each) or not all(map(begins_row, lines.each)):
        return None
    talks = list(map(messages_of, chats))
    if max(map(len, talks), default=0) > FEW_MESSAGES:  # it may have too many turns
        return None
    if not all(talks) or set(map(role_of, map(last, talks))) != {"assistant"}:
        return None
    messages = list(chain.from_iterable(talks))
    texts = list(map(content_of, messages))
    plain = "".join(filter(str.isascii, texts))
    wide = list(filterfalse(str.isascii, texts))
    if "\0" in plain or any_in("\0", wide):
        return None
    said = list(map(role_of, messages))
    roles = {role: said.count(role) for role in ROLES}
    text_bytes = written_bytes([plain, *wide])
    # If what is decoded makes up all that is written, no key was written twice.
    known = text_bytes + sum(len(role) * count for role, count in roles.items())
    known += (ROW_BYTES + len("\n")) * len(chats) + MESSAGE_BYTES * len(messages)
    blanks = MESSAGE_BLANKS * len(messages) if b'": "' in lines.each[0] else 0
    keys = len(chats) + 2 * len(messages)
    if len(lines.written) != known + blanks and written_keys(lines.written) != keys:
        return None
    # The one sign is looked for much faster than the word.
    may_think = any("<" in text and "<think>" in text for text in (plain, *wide))
    thinking = sum(map(thinks, chats)) if may_think else 0
    return UsualRows(chats, roles, text_bytes, thinking)


def any_in(part: str, texts: list[str]) -> bool:
    return any(part in text for text in texts)


def thinks(chat: Chat) -> bool:
    return any(
        message.role == "assistant" and THOUGHT.match(message.content) for message in chat.messages
    )


def written_bytes(texts: list[str]) -> int:
    """Of the texts in JSON as UTF-8, without their quotes."""
    return len(orjson.dumps(texts)) - len("[]") - 3 * len(texts) + 1 if texts else 0
