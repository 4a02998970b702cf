"""From one line's bytes to its row, or to the fault that keeps it from being one."""

import json
import math
import re
from typing import Any

import orjson

from tunery.data.formats import read_row
from tunery.data.rows import Fault, Faulty, Row, excerpt, kind

MAX_DEPTH = 100
Fields = dict[str, Any]

EXAMPLES = 'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}'


def row_of(line: int, record: bytes | Fields | Fault) -> Row | Fault:
    """The row that stands at a line, or its first fault. A table's row comes as its fields."""
    if isinstance(record, Fault):
        return record
    try:
        if isinstance(record, bytes):
            return read_row(line, read_object(record.rstrip(b"\r\n")))
        look_through(record, MAX_DEPTH)
        return read_row(line, record)
    except Faulty as fault:
        return fault.at(line)


def read_object(raw: bytes) -> Fields:
    value = loads(raw)
    if not isinstance(value, dict):
        raise Faulty(
            "", "not_an_object", f"expected a JSON object, found {kind(value)}", EXAMPLES, value
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
    keys, exact = look_through(value, MAX_DEPTH)
    if not exact or keys != raw.count(b'":') - raw.count(b'\\":'):
        # A key twice, a number that orjson rounds, or nothing but unusual white space.
        look_at_pairs(json.loads(raw, object_pairs_hook=Pairs, parse_int=WholeNumber))


class Pairs(list[tuple[str, Any]]):
    """An object as it is written, each key as often as it comes."""


class WholeNumber(str):
    """An integer as it is written."""

    __slots__ = ()


def look_through(value: object, depth: int) -> tuple[int, bool]:
    """How many keys are in it, and whether all its numbers are sure to be those that are written.

    Raises:
        Faulty: it is nested too deep, or a text has a NUL.

    """
    keys, exact = 0, True
    inside: Any
    if isinstance(value, dict):
        inside = value.items()
        keys = len(value)
    elif isinstance(value, list):
        inside = enumerate(value)
    elif isinstance(value, str):
        if "\0" in value:
            raise Faulty(
                "",
                "nul_character",
                "the text has a NUL character (\\u0000)",
                "Remove it",
                value,
            )
        return 0, True
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Faulty("", "not_a_number", "NaN and infinity are not JSON", "Leave it out", value)
        return 0, abs(value) < 2**63
    elif value is None or isinstance(value, int):
        return 0, True
    else:  # of a Parquet column
        raise Faulty("", "not_json", f"JSON has no such value: {kind(value)}", "Write it as text")
    if depth == 0:
        raise Faulty("", "too_deep", f"it is nested over {MAX_DEPTH} levels deep", "Flatten it")
    for key, each in inside:
        try:
            if isinstance(key, str) and "\0" in key:
                look_through(key, depth)
            more, sure = look_through(each, depth - 1)
        except Faulty as fault:
            fault.field = joined(key, fault.field)
            raise
        keys += more
        exact &= sure
    return keys, exact


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


def joined(key: str | int, path: str) -> str:
    """`messages` and `[2].content`: `messages[2].content`."""
    at = f"[{key}]" if isinstance(key, int) else excerpt(key)
    return f"{at}{path}" if not path or path.startswith("[") else f"{at}.{path}"


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
