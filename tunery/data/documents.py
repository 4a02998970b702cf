"""Data sets that are one JSON document, and plain texts."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from tunery.data.columns import Columns, make_rows
from tunery.data.jsonl import MAX_LINE_BYTES, Lines, too_long
from tunery.data.lines import Fields, in_other_encodings, not_utf8, why_not_json
from tunery.data.rows import Fault, Faulty, kind

CHUNK_BYTES = 1 << 17
# A document that is not a list is read as a whole.
MOST_DOCUMENT_BYTES = 32 << 20
# A longer paragraph is several rows.
PARAGRAPH_CHARACTERS = 1 << 19
SPACE = re.compile(r"[ \t\r\n]*")

Numbered = Iterator[tuple[int, Fields | Fault]]


class Items:
    """The items of one JSON list as they are written, one in memory at a time; `number` counts."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decoder = json.JSONDecoder()  # finds where an item ends, and no more
        self.text = codecs.getincrementaldecoder("utf-8")()
        self.buffer, self.at, self.number = "", 0, 0

    def more(self) -> bool:
        """Twice as much each time: an item is looked at from its beginning."""
        chunk = self.file.read(max(CHUNK_BYTES, len(self.buffer) - self.at))
        self.buffer = self.buffer[self.at :] + self.text.decode(chunk, final=not chunk)
        self.at = 0
        return bool(chunk)

    def sign(self) -> str:
        """Takes the next character that is no white space; empty at the end."""
        while True:
            space = SPACE.match(self.buffer, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.buffer):
                self.at += 1
                return self.buffer[self.at - 1]
            if not self.more():
                return ""

    def item(self) -> bytes:
        while True:
            try:
                _, end = self.decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.at > MAX_LINE_BYTES:
                    raise too_long() from None
                if not self.more():
                    raise broken(self.number, str(error)) from None
                continue
            except RecursionError:
                raise broken(self.number, "it is nested too deep") from None
            if end == len(self.buffer) and self.more():  # a number may go on
                continue
            written, self.at = self.buffer[self.at : end].encode(), end
            self.number += 1
            return written

    def __iter__(self) -> Iterator[bytes]:
        self.sign()  # the bracket
        last = self.sign()
        while last != "]":
            if not last:
                raise broken(self.number, "it ends within the list")
            self.at -= 1  # where the item begins
            yield self.item()
            last = self.sign()
            if last == ",":
                last = self.sign()
                if last == "]":
                    raise broken(self.number, "a comma stands before the closing bracket")
            elif last not in {"", "]"}:
                raise broken(self.number, "a comma is missing")
        if self.sign():
            raise broken(self.number, "more stands behind the list")


def list_rows(file: BinaryIO) -> Iterator[tuple[int, Lines | Fault]]:
    """(number from 1, what is written there) of each item of one JSON list, which is judged as a
    line of JSONL is.
    """
    items = Items(file)
    try:
        for written in items:
            fits = len(written) <= MAX_LINE_BYTES
            found = Lines(written, [written]) if fits else too_long().at(items.number)
            yield items.number, found
    except UnicodeDecodeError as error:
        yield items.number + 1, not_utf8_within(error).at(items.number + 1)
    except Faulty as fault:
        yield items.number + 1, fault.at(items.number + 1)


def not_utf8_within(error: UnicodeDecodeError) -> Faulty:
    return not_utf8(in_other_encodings(error.object, error))


def broken(number: int, reason: str) -> Faulty:
    return Faulty(
        "",
        "invalid_json",
        f"the file is one JSON list, which is not valid JSON behind its row {number} ({reason})",
        "Write the file with json.dump(rows), or each row as JSON on a line of its own",
    )


def row(number: int, value: object) -> Fields | Fault:
    if isinstance(value, dict):
        return value
    found = f"expected a JSON object, found {kind(value)}"
    mend = 'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}'
    return Faulty("", "not_an_object", found, mend, value).at(number)


def document_rows(written: bytes, ours: Columns | None = None) -> Numbered:
    """Of one JSON object: the row that it is, the list that it holds, or pandas' columns."""
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError as error:
        yield 1, why_not_json(written, error).at(1)
        return
    columns = columns_of(value, ours)
    if columns is not None:
        names = list(value)
        for number, cells in enumerate(zip(*columns, strict=True), 1):
            yield number, dict(zip(names, cells, strict=True))
        return
    lists = [each for each in value.values() if is_rows(each)]
    if len(lists) == 1 and not make_rows(value, ours):
        for number, each in enumerate(lists[0], 1):
            yield number, row(number, each)
        return
    yield 1, value


def columns_of(value: Fields, ours: Columns | None) -> list[list[Any]] | None:
    """Each column's cells, if they are columns: pandas' `to_json()`, or lists of one length."""
    each = list(value.values())
    if each and all(isinstance(one, dict) for one in each):
        keys = each[0].keys()
        numbered = bool(keys) and all(key.isdigit() for key in keys)
        if numbered and all(one.keys() == keys for one in each):
            return [list(one.values()) for one in each]
    if len(each) > 1 and all(isinstance(one, list) for one in each) and make_rows(value, ours):
        lengths = {len(one) for one in each}
        if len(lengths) == 1 and not is_rows(each[0]):
            return each
    return None


def is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def paragraphs(file: BinaryIO) -> Numbered:
    """(line where it begins, the text) of each paragraph of a text; an empty line ends one."""
    begun, lines, size = 1, list[str](), 0
    number, text = 1, codecs.getincrementaldecoder("utf-8")()
    try:
        while raw := file.readline(PARAGRAPH_CHARACTERS):
            line = text.decode(raw)
            if line.strip() and size < PARAGRAPH_CHARACTERS:
                begun = begun if lines else number
                lines.append(line)
                size += len(line)
            else:
                if lines:
                    yield begun, {"text": "".join(lines).strip("\r\n")}
                begun, lines, size = number, [line] if line.strip() else [], len(line)
            number += raw.endswith(b"\n")
        text.decode(b"", final=True)
        if lines:
            yield begun, {"text": "".join(lines).strip("\r\n")}
    except UnicodeDecodeError as error:
        yield begun, not_utf8_within(error).at(begun)
