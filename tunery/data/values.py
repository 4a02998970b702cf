"""What holds for every value in a row, wherever it stands."""

import math
from typing import Any

from tunery.data.rows import Faulty, excerpt, kind

MAX_DEPTH = 100


def look_through(value: object, depth: int = MAX_DEPTH) -> tuple[int, bool]:
    """How many keys are in it, and whether all its numbers are sure to be those that are written.

    Raises:
        Faulty: it is nested too deep, a text has a NUL, or it is nothing that JSON has.

    """
    keys, exact = 0, True
    inside: Any
    if isinstance(value, dict):
        inside = value.items()
        keys = len(value)
    elif isinstance(value, list | tuple):
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


def joined(key: str | int, path: str) -> str:
    """`messages` and `[2].content`: `messages[2].content`."""
    at = f"[{key}]" if isinstance(key, int) else excerpt(key)
    return f"{at}{path}" if not path or path.startswith("[") else f"{at}.{path}"
