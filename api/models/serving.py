"""How a model is served elsewhere: the commands in full."""

from sqlalchemy.orm import Session

from api.models import tuned
from api.models.tuned import Tuned
from api.tables import BaseModel
from tunery.base_model import served_base, where_served
from tunery.errors import InvalidRequest
from tunery.exports import vllm_serve


def refusal(tx: Session, name: str, *, url: str) -> InvalidRequest:
    """Why the model of this name makes no embeddings, and how it is served by a server that may.
    `url` is this API's.

    Raises:
        NotFound: no such model.

    """
    model = tuned.get(tx, name)
    if isinstance(model, BaseModel):
        served = served_base(model.id, model.revision, model.source)
        command = f"vllm serve {served}"
        how = f"Serve it with vLLM: `{command}`.{where_served(model.id, command)}"
    elif model.permission:
        how = "It is another project's; ask that one for its files."
    elif model.checkpoint and tuned.is_whole(model.job):
        how = "A checkpoint of a whole model cannot be downloaded: use its job's tuned model."
    elif model.checkpoint:
        how = (
            f"Fetch its adapter: `tunery export {model.job.id} --format peft --checkpoint "
            f"{model.step}`, which says how to serve it."
        )
    else:
        command = serve(tx, model)
        how = (
            f"Download its {folder_of(model)}: `{download(tx, model, url)}`. "
            f"Then serve it with vLLM: `{command}`.{where_served(model.job.base_model_id, command)}"
        )
    return InvalidRequest(
        f"{name} makes no embeddings here. To serve it elsewhere: {how}",
        param="model",
        code="embeddings_not_offered",
    )


def folder_of(model: Tuned) -> str:
    return "model" if tuned.is_whole(model.job) else "adapter"


def download(tx: Session, model: Tuned, url: str) -> str:
    folder = folder_of(model)
    return (
        f"for file in {' '.join(tuned.model_files(tx, model.job))}; do "
        f'curl --fail --create-dirs -o {folder}/$file -H "Authorization: Bearer $OPENAI_API_KEY" '
        f"{url}/fine_tuning/jobs/{model.job.id}/artifacts/$file; done"
    )


def serve(tx: Session, model: Tuned) -> str:
    folder = folder_of(model)
    if tuned.is_whole(model.job):
        return f"vllm serve {folder} --dtype bfloat16 --served-model-name {model.name}"
    r = tuned.source_of(tx, model).r
    base = tx.get_one(BaseModel, model.job.base_model_id)
    served = served_base(base.id, base.revision, base.source)
    return vllm_serve(served, name=model.name, folder=folder, r=r)
