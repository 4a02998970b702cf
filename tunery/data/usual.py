"""The usual rows, recognised many at once: the check of a large file spends its time here.

Usual are chats of text alone, without weights. Each is a row for `tunery.data.lines`, too; of what
is not usual nothing is said here.
"""

from collections.abc import Sequence
from itertools import chain, filterfalse, repeat
from operator import attrgetter
from typing import Annotated, NamedTuple

import msgspec
import orjson

from tunery.data.jsonl import Lines
from tunery.data.lines import written_keys
from tunery.data.rows import THOUGHT
from tunery.data.turns import FEW_MESSAGES


class Message(msgspec.Struct, tag_field="role", tag="", forbid_unknown_fields=True, gc=False):
    """Its role is its type, which is read and counted faster than a text."""

    content: str


class System(Message, tag="system"): ...


class Developer(Message, tag="developer"): ...


class User(Message, tag="user"): ...


class Assistant(Message, tag="assistant"): ...


# But for developers, who are the rest.
ROLES = {System: "system", User: "user", Assistant: "assistant"}


class Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    # With more it may have too many turns.
    messages: Annotated[
        list[System | Developer | User | Assistant],
        msgspec.Meta(min_length=1, max_length=FEW_MESSAGES),
    ]


# Bytes beside the texts and roles, in the closest spacing: {"messages":[{"role":"","content":""}]}
ROW_BYTES = len('{"messages":[]}') - len(",")
MESSAGE_BYTES = len('{"role":"","content":""},')
# What json.dumps adds: a blank behind each colon and comma.
MESSAGE_BLANKS = 4

decoder = msgspec.json.Decoder(Chat)
messages_of = attrgetter("messages")
content_of = attrgetter("content")


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
    # The decoder would take two rows of one line, and one row of two lines.
    alone = map(bytes.startswith, lines.each, repeat(b'{"messages"'))
    if len(chats) != len(lines.each) or not all(alone):
        return None
    if {type(chat.messages[-1]) for chat in chats} != {Assistant}:
        return None
    messages = list(chain.from_iterable(map(messages_of, chats)))
    texts = list(map(content_of, messages))
    # One letter beyond ASCII makes a text several times as slow.
    plain = "".join(filter(str.isascii, texts))
    wide = "".join(filterfalse(str.isascii, texts))
    text_bytes = written_bytes((plain, wide))
    # As UTF-8, which `wide` has by now: a zero is looked for much faster there.
    if "\0" in plain or b"\0" in wide.encode():
        return None
    kinds = list(map(type, messages))
    roles = {role: kinds.count(kind) for kind, role in ROLES.items()}
    roles["developer"] = len(kinds) - sum(roles.values())
    # If what is decoded makes up all that is written, no key was written twice.
    known = text_bytes + sum([len(role) * count for role, count in roles.items()])
    known += (ROW_BYTES + len("\n")) * len(chats) + MESSAGE_BYTES * len(messages)
    blanks = MESSAGE_BLANKS * len(messages) if b'": "' in lines.each[0] else 0
    keys = len(chats) + 2 * len(messages)
    if len(lines.written) != known + blanks and written_keys(lines.written) != keys:
        return None
    # The one sign is looked for much faster than the word.
    may_think = any("<" in text and "<think>" in text for text in (plain, wide))
    thinking = sum(map(thinks, chats)) if may_think else 0
    return UsualRows(chats, roles, text_bytes, thinking)


def thinks(chat: Chat) -> bool:
    return any(
        isinstance(message, Assistant) and THOUGHT.match(message.content)
        for message in chat.messages
    )


def written_bytes(texts: Sequence[str]) -> int:
    """Of the texts in JSON as UTF-8, without their quotes."""
    return len(orjson.dumps(texts)) - len("[]") - 3 * len(texts) + 1 if texts else 0
