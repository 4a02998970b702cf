"""What a grader needs besides its shape."""

from tunery.errors import InvalidRequest
from tunery.grading.grade import validator_of
from tunery.grading.graders import Grader, JsonSchema, judges_of, parts_of


def require_usable(grader: Grader, *, param: str = "grader") -> None:
    """Raises `InvalidRequest` for a schema that is none, and for judges."""
    for name, part in parts_of(grader).items():
        if isinstance(part, JsonSchema):
            try:
                validator_of(part.json_schema)
            except ValueError as error:
                raise InvalidRequest(f"{param} {name!r}: {error}.", param=param) from error
    if judges := judges_of(grader):
        raise InvalidRequest(
            f"{param} {min(judges)!r} asks a model, which graders cannot do here yet.", param=param
        )
