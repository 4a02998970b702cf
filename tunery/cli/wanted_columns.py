"""`--columns prompt=question,completion=answer`: a data set's own names for a row's fields."""

from typing import Annotated

import orjson
import typer

from tunery.data.columns import Columns, checked

WantedColumns = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Names of the file's columns: prompt=question,completion=answer."
    ),
]


def columns_of(written: str | None) -> Columns | None:
    """Of pairs, or of JSON where a name has a comma or an equals sign in it."""
    if written is None:
        return None
    try:
        if written.lstrip().startswith("{"):
            columns = {ours: str(theirs) for ours, theirs in orjson.loads(written).items()}
        else:
            pairs = (pair.split("=", 1) for pair in written.split(","))
            columns = {ours.strip(): theirs.strip() for ours, theirs in pairs}
    except ValueError as error:
        raise typer.BadParameter(
            "--columns cannot be read. Write prompt=question,completion=answer, or JSON."
        ) from error
    try:
        return checked(columns)
    except ValueError as error:
        raise typer.BadParameter(f"--columns {error}.") from error
