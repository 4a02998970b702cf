"""Data sets that are one JSON document, and plain texts."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from tunery.data.jsonl import MAX_LINE_BYTES, too_long
from tunery.data.lines import Fields, in_other_encodings, not_utf8, why_not_json
from tunery.data.rows import Fault, Faulty, excerpt, kind
from tunery.data.spellings import is_known

CHUNK_BYTES = 1 << 17
# A document that is not a list is read as a whole.
MOST_DOCUMENT_BYTES = 32 << 20
SPACE = " \t\r\n"

Numbered = Iterator[tuple[int, Fields | Fault]]


def no_key_twice(pairs: list[tuple[str, Any]]) -> Fields:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Faulty(
            excerpt(twice),
            "duplicate_key",
            "the object has this key twice, and only one of them would count",
            "Keep one of them",
        )
    return found


def list_rows(file: BinaryIO) -> Numbered:
    """(number from 1, the row) of each item of one JSON list; one in memory at a time."""
    decoder = json.JSONDecoder(object_pairs_hook=no_key_twice)
    text = codecs.getincrementaldecoder("utf-8")()
    buffer, number, ended = "", 0, False

    def more() -> bool:
        nonlocal buffer, ended
        chunk = file.read(CHUNK_BYTES)
        buffer += text.decode(chunk, final=not chunk)
        ended = not chunk
        return not ended

    try:
        more()
        buffer = buffer.lstrip(SPACE)[1:]
        while True:
            buffer = buffer.lstrip(SPACE + ",")
            if not buffer and more():
                continue
            if not buffer:
                raise broken(number, "it ends within the list")
            if buffer[0] == "]":
                while more():
                    pass
                if buffer[1:].strip(SPACE):
                    raise broken(number, "more stands behind the list")
                return
            try:
                value, end = decoder.raw_decode(buffer)
            except json.JSONDecodeError as error:
                if len(buffer) > MAX_LINE_BYTES:
                    raise too_long() from None
                if not more():
                    raise broken(number, str(error)) from None
                continue
            if end == len(buffer) and more():  # a number may go on
                continue
            number += 1
            buffer = buffer[end:]
            yield number, row(number, value)
    except UnicodeDecodeError as error:
        yield (
            number + 1,
            why_not_json(error.object, orjson.JSONDecodeError("", "", 0)).at(number + 1),
        )
    except Faulty as fault:
        yield number + 1, fault.at(number + 1)


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


def document_rows(written: bytes) -> Numbered:
    """Of one JSON object: the row that it is, the list that it holds, or pandas' columns."""
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError as error:
        yield 1, why_not_json(written, error).at(1)
        return
    columns = columns_of(value)
    if columns is not None:
        names = list(value)
        for number, cells in enumerate(zip(*columns, strict=True), 1):
            yield number, dict(zip(names, cells, strict=True))
        return
    lists = [each for each in value.values() if is_rows(each)]
    if len(lists) == 1 and not is_known(value):
        for number, each in enumerate(lists[0], 1):
            yield number, row(number, each)
        return
    yield 1, value


def columns_of(value: Fields) -> list[list[Any]] | None:
    """Each column's cells, if they are columns: pandas' `to_json()`, or lists of one length."""
    each = list(value.values())
    if each and all(isinstance(one, dict) for one in each):
        keys = each[0].keys()
        numbered = bool(keys) and all(key.isdigit() for key in keys)
        if numbered and all(one.keys() == keys for one in each):
            return [list(one.values()) for one in each]
    if len(each) > 1 and all(isinstance(one, list) for one in each) and is_known(value):
        lengths = {len(one) for one in each}
        if len(lengths) == 1 and not is_rows(each[0]):
            return each
    return None


def is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def paragraphs(file: BinaryIO) -> Numbered:
    """(line where it begins, the text) of each paragraph of a text; an empty line ends one."""
    begun, lines, size = 1, list[str](), 0
    text = codecs.getreader("utf-8")(file)
    try:
        for number, line in enumerate(text, 1):
            if line.strip() and size < MAX_LINE_BYTES // 2:
                begun = begun if lines else number
                lines.append(line)
                size += len(line)
                continue
            if lines:
                yield begun, {"text": "".join(lines).strip("\n")}
            begun, lines, size = number, [line] if line.strip() else [], 0
        if lines:
            yield begun, {"text": "".join(lines).strip("\n")}
    except UnicodeDecodeError as error:
        yield begun, not_utf8_within(error).at(begun)
