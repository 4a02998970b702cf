"""What a JSON Schema refers to within itself, followed once before anything is checked by it: a few
lines that double each other would keep a checker busy for years, and nothing could stop it.
"""

from typing import Any
from urllib.parse import unquote

# Objects of a schema, with what each reference stands for in its place.
MOST_OBJECTS = 2_000
DEFINITIONS = frozenset({"$defs", "definitions"})
# What is below them is checked twice, and what is below that four times.
DOUBLING = frozenset({"unevaluatedItems", "unevaluatedProperties"})


def require_few(schema: dict[str, Any]) -> None:
    """Raises `ValueError` for a schema that is too large with its references followed, refers to
    itself in a circle, refers to anything by another form than `#/...`, or has what doubles.
    """
    base = "id" if "draft-04" in str(schema.get("$schema")) else "$id"
    # By the references: the objects of what they stand for; None while they are being followed.
    known: dict[str, int | None] = {}

    def objects_in(value: Any) -> int:  # noqa: ANN401 (of any JSON)
        if isinstance(value, list):
            return sum(map(objects_in, value))
        if not isinstance(value, dict):
            return 0
        for name in ("$dynamicRef", "$recursiveRef", base):
            if isinstance(value.get(name), str) and not (name == base and value is schema):
                raise ValueError(f"it has {name}; refer with $ref to a place of the schema, as #/…")
        for name in DOUBLING & value.keys():
            raise ValueError(f"it has {name}, which takes too long; use another keyword")
        address = value.get("$ref")
        behind = objects_behind(address) if isinstance(address, str) else 0
        # The schema's own definitions are checked where something refers to them.
        idle = DEFINITIONS if value is schema else ()
        inner = (objects_in(child) for name, child in value.items() if name not in idle)
        return 1 + behind + sum(inner)

    def objects_behind(address: str) -> int:
        if address not in known:
            known[address] = None
            known[address] = objects_in(found_at(schema, address))
        count = known[address]
        if count is None:
            raise ValueError(f"{address[:64]} refers to itself, and such schemas are not offered")
        return count

    try:
        count = objects_in(schema)
    except RecursionError:
        raise ValueError("its references follow each other too deep") from None
    if count > MOST_OBJECTS:
        raise ValueError(
            f"with its references followed it has more than {MOST_OBJECTS:,} objects; make it "
            "smaller"
        )


def found_at(schema: Any, address: str) -> Any:  # noqa: ANN401
    """What a reference stands for. Raises `ValueError`."""
    root, *steps = address.split("/")
    if root != "#":
        raise ValueError(f"it refers to {address[:64]}; refer to a place of the schema, as #/…")
    for step in steps:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        try:
            schema = schema[int(name) if isinstance(schema, list) else name]
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"it refers to {address[:64]}, which it does not have") from None
    return schema
