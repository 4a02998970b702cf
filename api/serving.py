"""Serving a model is not offered here. The commands that serve it elsewhere are said in full."""

from sqlalchemy.orm import Session

from api import tuned
from api.tables import BaseModel
from api.tuned import Tuned
from tunery.errors import InvalidRequest
from tunery.exports import vllm_serve


def refusal(tx: Session, name: str, *, url: str) -> InvalidRequest:
    """Why the model of this name does not answer, and how to have it answer. `url` is this API's.

    Raises:
        NotFound: no such model.

    """
    model = tuned.get(tx, name)
    if isinstance(model, BaseModel):
        how = f"Serve it with vLLM: `vllm serve {model.id}`."
    elif model.permission:
        how = "It is another project's; ask that one for its files."
    elif model.checkpoint:
        how = (
            f"Fetch its adapter: `tunery export {model.job.id} --format peft --checkpoint "
            f"{model.step}`, which says how to serve it."
        )
    else:
        how = (
            f"Download its adapter: `{download(model, url)}`. "
            f"Then serve it with vLLM: `{serve(tx, model)}`."
        )
    return InvalidRequest(
        f"{name} does not answer here: Tunery trains models and does not serve them. {how}",
        param="model",
        code="serving_not_offered",
    )


def download(model: Tuned, url: str) -> str:
    return (
        f"for file in {tuned.CONFIG} {tuned.WEIGHTS}; do "
        'curl --fail --create-dirs -o adapter/$file -H "Authorization: Bearer $OPENAI_API_KEY" '
        f"{url}/fine_tuning/jobs/{model.job.id}/artifacts/$file; done"
    )


def serve(tx: Session, model: Tuned) -> str:
    r = tuned.source_of(tx, model).r
    return vllm_serve(model.job.base_model_id, name=model.name, folder="adapter", r=r)
