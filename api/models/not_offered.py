"""Routes of OpenAI's that a fine-tuned model is for: what they are is said, and what to do."""

from typing import Annotated

from fastapi import APIRouter, Request

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.http.shapes import Word
from api.models import serving
from tunery.fields import MODEL_NAME, Described

router = APIRouter(prefix="/v1", route_class=Route, tags=["Not offered"])


class Asked(Described):
    """The rest of it is for whoever serves the model."""

    model: Annotated[Word, MODEL_NAME]


@router.post("/chat/completions", response_model=None)
@router.post("/completions", response_model=None)
@router.post("/responses", response_model=None)
@router.post("/embeddings", response_model=None)
def refuse_to_serve(asked: Asked, request: Request, server: AServer, caller: Reader) -> None:
    """Refused: Tunery serves no model. The error names the commands that do."""
    with server.db.as_project(caller.project_id) as tx:
        raise serving.refusal(tx, asked.model, url=f"{request.base_url!s}v1")
