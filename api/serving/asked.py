"""A completion that is asked for, before it is known what computes it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.models import tuned
from api.models.tuned import Tuned
from api.tables import BaseModel
from tunery.completions import ChatPrompt, Sampling, TextPrompt


@dataclass(frozen=True)
class Asked:
    """`model` is the name that was asked for; `response_format` OpenAI's, of a chat, None: text."""

    project_id: str
    model: str
    prompt: ChatPrompt | TextPrompt
    sampling: Sampling
    response_format: dict[str, Any] | None = None


def model_of(tx: Session, asked: Asked) -> BaseModel | Tuned:
    """Raises `NotFound`: this project has no such model."""
    return tuned.get(tx, asked.model)
