"""From one line's bytes to its row, or to the fault that keeps it from being one."""

import json
from typing import Any

import orjson

from tunery.data.formats import read_row
from tunery.data.rows import Fault, Faulty, Row, excerpt, kind

MAX_DEPTH = 100
EXAMPLES = 'Write {"messages": [...]} or {"prompt": "...", "completion": "..."}'


def row_of(line: int, record: bytes | Fault) -> Row | Fault:
    return record if isinstance(record, Fault) else parse_line(line, record)


def parse_line(line: int, raw: bytes) -> Row | Fault:
    """One line's row, or its first fault."""
    try:
        return read_row(line, decode(raw))
    except Faulty as fault:
        return fault.at(line)


def decode(raw: bytes) -> dict[str, Any]:
    """The line's JSON object.

    Raises:
        Faulty: it is none, or one that two readers would read differently.

    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise why_not_json(raw, error) from None
    if not isinstance(value, dict):
        raise Faulty(
            "", "not_an_object", f"expected a JSON object, found {kind(value)}", EXAMPLES, value
        )
    keys, exact = look_through(value, MAX_DEPTH)
    if not exact or keys != raw.count(b'":') - raw.count(b'\\":'):
        # A key twice, a number that orjson rounds, or nothing but unusual white space.
        pairs = json.loads(raw, object_pairs_hook=Pairs, parse_int=WholeNumber)
        look_at_pairs(pairs)
    return value


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
    else:
        return 0, not (isinstance(value, float) and abs(value) >= 2**63)
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
    try:
        text = raw.decode()
    except UnicodeDecodeError as bad:
        return not_utf8(f"byte {bad.start + 1} is not UTF-8, as in UTF-16 or Latin-1")
    if "\0" in text:
        return not_utf8("it has zero bytes, as in UTF-16 or a binary file")
    return Faulty(
        "",
        "invalid_json",
        f"not valid JSON ({error.msg} at column {error.colno})",
        "Write one complete JSON object on each line",
        text,
    )


def not_utf8(reason: str) -> Faulty:
    return Faulty("", "not_utf8", reason, "Save the file as UTF-8")
