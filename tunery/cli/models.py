"""`tunery models`: register a base model, list what there is."""

import sys
from pathlib import Path

from openai import OpenAI, OpenAIError
from rich.console import Console

from tunery.base_model import describe
from tunery.errors import InvalidRequest


def add(folder: Path, *, name: str, revision: str | None, licence: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    try:
        facts = describe(folder, id_=name, revision=revision, licence=licence)
        OpenAI().post("/admin/models", body=facts.model_dump(), cast_to=object)
    except InvalidRequest as error:
        sys.exit(f"tunery: {error.message}")
    except OpenAIError as error:
        sys.exit(f"tunery: {error}")
    console.print(
        f"{facts.id} at revision {facts.revision}: {facts.architecture}, context "
        f"{facts.context_length:,} tokens, {sum(file.bytes for file in facts.files):,} bytes"
    )


def show() -> None:
    try:
        for model in OpenAI().models.list().data:
            Console(highlight=False, soft_wrap=True).print(f"{model.id}  ({model.owned_by})")
    except OpenAIError as error:
        sys.exit(f"tunery: {error}")
