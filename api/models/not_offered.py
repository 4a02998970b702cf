"""Routes of OpenAI's that are not offered: what they are is said, and what to do instead."""

from typing import Annotated

from fastapi import APIRouter, Request

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.http.shapes import Word
from api.models import serving
from tunery.fields import MODEL_NAME, Described

router = APIRouter(prefix="/v1", route_class=Route, tags=["Not offered"])


class Asked(Described):
    """The rest of it is for whoever serves the model elsewhere."""

    model: Annotated[Word, MODEL_NAME]


@router.post("/embeddings", response_model=None)
def refuse_to_embed(asked: Asked, request: Request, server: AServer, caller: Reader) -> None:
    """Refused: no model makes embeddings here. The error has the commands to serve it elsewhere."""
    with server.db.as_project(caller.project_id) as tx:
        raise serving.refusal(tx, asked.model, url=f"{request.base_url!s}v1")
