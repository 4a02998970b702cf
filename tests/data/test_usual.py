"""What is taken many rows at once is what the reader of single rows takes, whatever is damaged."""

import json
import random
from collections import Counter
from io import BytesIO

from tunery.data.jsonl import Lines
from tunery.data.lines import row_of
from tunery.data.rows import Chat
from tunery.data.usual import usual_rows

MUTATIONS = 4_000
ROLES = ("system", "developer", "user", "assistant")
TEXTS = ("", "Hi", "role", 'say "x": y', "日本", "a\nb", "end\\", "\x7f", '","role":"user')
# Put somewhere into a line, or in the place of what stands there.
DAMAGES = (
    *(b'"role":"user",', b'"role" : "user", ', b'"r\\u006fle":"user",', b'"content":"",'),
    *(b'"messages":[],', b'"weight":0,', b'"name":"x",', b"null", b"1", b",", b":", b'"', b"\\"),
    *(b"{", b"}", b"[", b"]", b" ", b"\t", b"\r", b"\n", b"\0", b"\x01", b"\x0b", b"\x7f"),
    *(b"\\u0000", b"\\ud800", b"\\x", b"\xed\xa0\x80", b"\xff", b"\xc3", b"\xc2\xa0"),
    b"\xef\xbb\xbf",
)


def written_rows(chance: random.Random) -> list[bytes]:
    spacing = chance.choice([(",", ":"), (", ", ": ")])
    end = chance.choice([b"\n", b"\r\n", b"   \n"])
    rows = []
    for _ in range(chance.randint(1, 3)):
        roles = [chance.choice(ROLES) for _ in range(chance.randint(0, 3))]
        messages = [{"role": r, "content": chance.choice(TEXTS)} for r in (*roles, "assistant")]
        plain = chance.random() < 0.5
        row = json.dumps({"messages": messages}, separators=spacing, ensure_ascii=plain)
        rows.append(row.encode() + (end if chance.random() < 0.9 else b"\n"))
    return rows


def damaged(chance: random.Random, row: bytes) -> bytes:
    places = [at + 1 for at, byte in enumerate(row) if byte in b'{,[:"}']
    at = chance.choice(places)
    damage = chance.choice(DAMAGES)
    gone = chance.choice([0, 0, 1, len(damage)])
    return row[:at] + chance.choice([damage, damage, b""]) + row[at + gone :]


def roles_one_by_one(lines: Lines) -> Counter[str] | None:
    roles: Counter[str] = Counter()
    for raw in lines.each:
        row = row_of(1, raw)
        if not isinstance(row, Chat):
            return None
        roles.update(message.role for message in row.messages)
    return roles


def test_what_is_taken_at_once_is_taken_one_by_one() -> None:
    chance = random.Random(5)
    taken = 0
    for _ in range(MUTATIONS):
        rows = written_rows(chance)
        for _ in range(chance.choice([0, 1, 1, 2])):
            which = chance.randrange(len(rows))
            rows[which] = damaged(chance, rows[which])
        written = b"".join(rows)
        lines = Lines(written, BytesIO(written).readlines())
        if usual := usual_rows(lines):
            taken += 1
            assert roles_one_by_one(lines) == Counter(usual.roles), written
    assert taken > MUTATIONS / 10


def test_keys_that_come_twice_where_blanks_might_have_been_are_seen() -> None:
    """Two of them are as long as the blanks that json.dumps adds to seven messages."""
    messages = [{"role": "assistant", "content": ""}] * 7
    row = json.dumps({"messages": messages}, separators=(",", ":")).encode() + b"\n"
    assert usual_rows(Lines(row, [row]))
    row = row.replace(b'"role"', b'"role":"user","role"', 2)
    assert usual_rows(Lines(row, [row])) is None
