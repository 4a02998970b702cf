"""Which linear layers adapters are put on."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from tunery.errors import InvalidRequest
from tunery.plan.shape import Shape

ALL_LINEAR = "all-linear"
PARAM = "lora.target_modules"
OF_EXPERTS = "lora.target_parameters"


@lru_cache(maxsize=64)
def targeted(shape: Shape, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """Raises `InvalidRequest`, see `matching`."""
    return tuple(matching(shape.linear_layers, targets))


def matching(names: Iterable[str], targets: str | tuple[str, ...]) -> list[str]:
    """Those of the linear layers' whole `names` that PEFT adapts for these `target_modules`.

    Raises:
        InvalidRequest: one of the targets is none of them, or no regular expression.

    """
    names = list(names)
    if targets == ALL_LINEAR:
        return names
    if isinstance(targets, str):
        found = of_expression(names, targets)
        if not found:
            raise InvalidRequest(
                f"{PARAM} {targets!r} is a regular expression that no linear layer's whole name "
                f"matches; such a name is {names[0]}. The ends of names are given as a list.",
                param=PARAM,
            )
        return found
    for target in targets:
        if not any(ends(name, target) for name in names):
            # In the order of the model, each once.
            ours = dict.fromkeys(name.rpartition(".")[2] for name in names)
            raise InvalidRequest(
                f"{PARAM} has {target!r}, which is no linear layer of the model's blocks. Choose "
                f'from {", ".join(ours)}, or "{ALL_LINEAR}".',
                param=PARAM,
            )
    return [name for name in names if any(ends(name, target) for target in targets)]


def experts_matching(names: Iterable[str], targets: tuple[str, ...]) -> list[str]:
    """Those of the experts' parameters that PEFT adapts for these `target_parameters`.

    Raises:
        InvalidRequest: one of the targets is none of them.

    """
    names = list(names)
    for target in targets:
        if not any(ends(name, target) for name in names):
            ours = dict.fromkeys(".".join(name.split(".")[-2:]) for name in names)
            choice = (
                f"Choose from {', '.join(ours)}." if ours else "Leave it out: it has no experts."
            )
            raise InvalidRequest(
                f"{OF_EXPERTS} has {target!r}, which is no parameter of the model's experts. "
                f"{choice}",
                param=OF_EXPERTS,
            )
    return [name for name in names if any(ends(name, target) for target in targets)]


def refuse_no_experts(shape: Shape, targets: tuple[str, ...]) -> None:
    """Raises `InvalidRequest` as `experts_matching`, by the last parts of their names: files have
    what is before them otherwise than the model that a worker loads.
    """
    last = [target.rpartition(".")[2] for target in targets]
    names = [name for name, *_ in shape.experts_read]
    if names:  # without a gate it is
        names.append("experts.up_proj")
    for target, each in zip(targets, last, strict=True):
        try:
            experts_matching(names, (each,))
        except InvalidRequest as error:
            message = error.message.replace(repr(each), repr(target))
            raise InvalidRequest(message, param=OF_EXPERTS) from error


def ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def of_expression(names: list[str], expression: str) -> list[str]:
    """In time linear in a name's length, which Python's own expressions do not promise: a user's
    may not hold up anybody.
    """
    try:
        TypeAdapter(Annotated[str, Field(pattern=expression)])  # else "a)|(b" would be two
        whole = TypeAdapter(Annotated[str, Field(pattern=f"^(?:{expression})$")])
    except SchemaError as error:
        reason = str(error).rpartition("rror: ")[2].strip()  # of "error: " or "SchemaError: "
        raise InvalidRequest(
            f"{PARAM} {expression!r} cannot be read as a regular expression: {reason} Give one "
            "without look-around and back-references, a list of names, or "
            f'"{ALL_LINEAR}".',
            param=PARAM,
        ) from error
    return [name for name in names if matches(whole, name)]


def matches(whole: TypeAdapter[str], name: str) -> bool:
    try:
        whole.validate_python(name)
    except ValidationError:
        return False
    return True
