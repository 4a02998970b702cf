"""From one line's bytes to its row, or to the fault that keeps it from being one."""

import json
import re
from dataclasses import replace
from typing import Any

import orjson

from tunery.data import columns as named
from tunery.data.columns import Columns
from tunery.data.formats import read_row
from tunery.data.rows import Fault, Faulty, Row, excerpt, kind
from tunery.data.values import joined, look_through

Fields = dict[str, Any]

# A blank before a colon, or a backslash at the end of a key; a text may look like it.
UNUSUAL_KEY = re.compile(rb'"\s+:|\\\\":')
EXAMPLES = 'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}'


def row_of(
    line: int, record: bytes | Fields | Fault, columns: Columns | None = None
) -> Row | Fault:
    """The row that stands at a line, or its first fault. A table's row comes as its fields."""
    if isinstance(record, Fault):
        return record
    try:
        if isinstance(record, bytes):
            value = read_object(record.rstrip(b"\r\n"))
        else:
            look_through(value := record)
        return read_named(line, value, columns) if columns else read_row(line, value)
    except Faulty as fault:
        return fault.at(line)


def read_named(line: int, value: Fields, columns: Columns) -> Row:
    """Of a row whose fields have names of their own."""
    value, left_out = named.renamed(value, columns)
    try:
        row = read_row(line, value)
    except Faulty as fault:
        for each in (fault, *fault.others):
            each.field = named.own_path(each.field, columns)
        raise
    return replace(row, left_out=(*row.left_out, *left_out))


def read_object(raw: bytes) -> Fields:
    value = loads(raw)
    if not isinstance(value, dict):
        mend = f"{EXAMPLES}, one on each line and no list around them"
        raise Faulty(
            "", "not_an_object", f"expected a JSON object, found {kind(value)}", mend, value
        )
    must_mean_one_thing(value, raw)
    return value


def read_json(raw: bytes) -> object:
    """Raises Faulty for what is not JSON, or what two readers would read differently."""
    value = loads(raw)
    must_mean_one_thing(value, raw)
    return value


def loads(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise why_not_json(raw, error) from None


def must_mean_one_thing(value: object, raw: bytes) -> None:
    keys, exact = look_through(value)
    if not exact or keys != written_keys(raw):
        # A key twice, a number that orjson rounds, or nothing but unusual white space.
        look_at_pairs(json.loads(raw, object_pairs_hook=Pairs, parse_int=WholeNumber))


def written_keys(raw: bytes) -> int | None:
    """How many keys are written in this JSON; None where that is not plain to see."""
    if UNUSUAL_KEY.search(raw):
        return None
    return raw.count(b'":') - raw.count(b'\\":')


class Pairs(list[tuple[str, Any]]):
    """An object as it is written, each key as often as it comes."""


class WholeNumber(str):
    """An integer as it is written."""

    __slots__ = ()


def look_at_pairs(value: object) -> None:
    """Raises Faulty if a key comes twice, or a whole number needs more than 64 bits."""
    if isinstance(value, WholeNumber):
        if len(value) > 20 or not -(2**63) <= int(value) < 2**64:
            raise Faulty(
                "",
                "number_too_large",
                "a whole number must fit in 64 bits",
                "Write a smaller number, or write it as a string",
                value,
            )
    elif isinstance(value, Pairs):
        seen = set()
        for key, each in value:
            if key in seen:
                raise Faulty(
                    excerpt(key),
                    "duplicate_key",
                    "the object has this key twice, and only one of them would count",
                    "Keep one of them",
                )
            seen.add(key)
            look_inside(key, each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            look_inside(index, each)


def look_inside(key: str | int, value: object) -> None:
    try:
        look_at_pairs(value)
    except Faulty as fault:
        fault.field = joined(key, fault.field)
        raise


def why_not_json(raw: bytes, error: orjson.JSONDecodeError) -> Faulty:
    """What is wrong with it, where the mend is not the same for all."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as bad:
        return not_utf8(in_other_encodings(raw, bad))
    if "\0" in text:
        return not_utf8("it has zero bytes, as in UTF-16 or a binary file")
    text = text.rstrip()
    rest = text[error.pos :].lstrip()
    for rule, pattern, reason, mend in NOT_JSON:
        if re.match(pattern, f"{error.msg}\n{rest}"):
            return Faulty("", rule, f"{reason} (column {error.colno})", mend, text)
    return Faulty(
        "",
        "invalid_json",
        f"not valid JSON ({error.msg} at column {error.colno})",
        "Write one complete JSON object on each line",
        text,
    )


# (rule, pattern, reason, mend). The pattern is of orjson's message, a line break, and the rest of
# the line from where it stopped.
NOT_JSON = (
    (
        "lone_surrogate",
        r".*surrogate",
        "half of a surrogate pair (\\ud800 to \\udfff) stands alone",
        "Write the character itself, or both halves",
    ),
    (
        "number_too_large",
        r"number is infinity",
        "the number is too large",
        "Write a smaller one, or write it as a string",
    ),
    (
        "not_a_number",
        r".*\n-?(NaN|Infinity)",
        "NaN and Infinity are not JSON",
        "Write null, or leave the field out",
    ),
    (
        "python_notation",
        r".*\n('|True\b|False\b|None\b)",
        "it is written in Python's notation, not in JSON",
        "Write the row with json.dumps(row)",
    ),
    (
        "trailing_comma",
        r"trailing comma",
        "a comma stands before a closing bracket",
        "Remove the comma",
    ),
    (
        "trailing_comma",
        r".*content after.*\n,$",
        "a comma follows the row",
        "Remove it: only line breaks stand between rows",
    ),
    (
        "two_rows",
        r".*content after.*\n\{",
        "a second row begins on the line",
        "Put each row on a line of its own",
    ),
    (
        "control_character",
        r".*control character",
        "a tab or another control character stands in a text",
        "Write it as \\t or \\u0009",
    ),
    (
        "invalid_escape",
        r".*escape",
        "a backslash begins no escape that JSON knows",
        "Write the backslash twice",
    ),
    (
        "byte_order_mark",
        r".*byte order mark",
        "a byte order mark stands before the row, as where files were joined",
        "Remove it",
    ),
    ("comment", r".*\n(//|#)", "JSON has no comments", "Remove it"),
    ("unquoted_key", r".*string key\n\w", "a key has no quotes", 'Put it into "quotes"'),
)


def in_other_encodings(raw: bytes, error: UnicodeDecodeError) -> str:
    """Which byte is wrong, and what it may be."""
    place = f"byte {error.start + 1} is not UTF-8"
    if raw[error.start : error.start + 2] >= b"\xed\xa0" and raw[error.start] == 0xED:
        return f"{place} but half of a surrogate pair"
    letter = raw[error.start : error.start + 1].decode("latin-1")
    return f"{place}; in Latin-1 it is {letter!r}" if letter.isprintable() else place


def not_utf8(reason: str) -> Faulty:
    return Faulty("", "not_utf8", reason, "Save the file as UTF-8")
