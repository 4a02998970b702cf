"""`--chat-template`: by its name, or in a file of Jinja."""

from pathlib import Path
from typing import Annotated

import typer

WantedTemplate = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        help="Chat template to use instead of the base's own: a known name, or a file.",
    ),
]


def written(template: str) -> str:
    """What is in the file, if it is one; else a template's name."""
    return Path(template).read_text() if Path(template).is_file() else template


def jinja_of(wanted: str) -> str:
    """Raises InvalidRequest if there is no template by that name."""
    from tunery.data.named_templates import template_of  # noqa: PLC0415 - help comes at once

    return template_of(written(wanted), param="--chat-template")
