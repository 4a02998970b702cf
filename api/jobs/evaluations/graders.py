"""What a grader needs besides its shape."""

from sqlalchemy.orm import Session

from api.models import tuned
from tunery.errors import InvalidRequest, NotFound
from tunery.grading.grade import validator_of
from tunery.grading.graders import Grader, JsonSchema, judges_of, parts_of


def require_usable(grader: Grader, *, param: str = "grader") -> None:
    """Raises `InvalidRequest` for a schema that is none."""
    for name, part in parts_of(grader).items():
        if isinstance(part, JsonSchema):
            try:
                validator_of(part.json_schema)
            except ValueError as error:
                raise InvalidRequest(f"{param} {name!r}: {error}.", param=param) from error


def require_judges(tx: Session, grader: Grader, *, param: str) -> None:
    """Raises `NotFound` for a judge that this project has not."""
    for judge in judges_of(grader).values():
        try:
            tuned.get(tx, judge.model)
        except NotFound as error:
            raise NotFound(error.message, param=param, code=error.code) from error
