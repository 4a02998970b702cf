"""Which weights answer, and how they reach whoever computes the answer."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db.session import across_projects
from api.models import bases, tuned
from api.models.tuned import Tuned
from api.serving.asked import Asked, model_of
from api.storage.kept import links_to
from api.storage.storage import Storage
from api.tables import Artifact, BaseModel, Checkpoint, Completion, Job
from tunery.base_model import revision_of
from tunery.completions import ChatPrompt
from tunery.errors import CannotAnswer, InvalidRequest
from tunery.facts import STORED, BaseModelFacts, FileFacts
from tunery.messages import BASE_BROKEN, AdapterLink
from tunery.plan.memory import Precision
from tunery.plan.shape import ENCODERS


@dataclass(frozen=True)
class Weights:
    """A base model, or what a job made of it: `job_id` is the job, `step` its checkpoint's, None at
    its end. `base` is what has to be in memory: the base model's id or, of a tuned model that is a
    model of its own, the job's. `quantization` None: as it is loaded.
    """

    base: str
    job_id: str | None = None
    step: int | None = None
    quantization: Precision | None = None
    double_quant: bool = True


def weights_of(tx: Session, asked: Asked) -> Weights:
    """Raises:
    NotFound: this project has no such model.
    InvalidRequest: it has, and the model cannot answer this.

    """
    model = model_of(tx, asked)
    job = model.job if isinstance(model, Tuned) else None
    base = model if isinstance(model, BaseModel) else tx.get_one(BaseModel, model.job.base_model_id)
    if base.architecture in ENCODERS:
        raise CannotAnswer(
            f"{asked.model} is an encoder, which fills gaps in texts and gives no answers. Choose "
            "a model that writes.",
            param="model",
        )
    with across_projects(tx):
        is_open = bases.is_open(tx, base)
    if not is_open:
        raise InvalidRequest(
            f"{asked.model} cannot answer, because its base model {base.id} is broken: "
            f"{base.broken} An operator repairs it, and runs `tunery models add` again.",
            param="model",
            code=BASE_BROKEN,
        )
    template = template_of(base, job)
    if isinstance(asked.prompt, ChatPrompt) and not (template or base.has_chat_template):
        raise CannotAnswer(
            f"{asked.model} has no chat template, so it knows no conversations. Ask it to go on "
            "with a text: POST /v1/completions.",
            param="model",
        )
    return Weights(base.id) if isinstance(model, BaseModel) else weights_of_tuned(model)


def weights_of_tuned(model: Tuned) -> Weights:
    job = model.job
    if not tuned.is_whole(job):
        plan, spec = job.plan or {}, job.spec or {}
        return Weights(
            base=job.base_model_id,
            job_id=job.id,
            step=model.step,
            quantization=plan.get("quantization"),
            double_quant=plan.get("double_quant", spec.get("double_quant", True)),
        )
    if model.checkpoint:
        raise CannotAnswer(
            f"{model.name} is a checkpoint of a whole model, which cannot answer before it is "
            "published. Ask its job's tuned model, or continue the training from it.",
            param="model",
        )
    return Weights(base=job.id, job_id=job.id)


def template_of(base: BaseModel, job: Job | None) -> str | None:
    """In Jinja; None: the one in the base's folder, if any."""
    own: str | None = (job.spec or {}).get("chat_template") if job else None
    return own or base.chat_template


def lent(tx: Session, storage: Storage, completion: Completion) -> dict[str, Any] | None:
    """The fields of a lease that say what computes it; None if its model has been deleted. Needs
    the control role.
    """
    if completion.job_id is None:
        base = tx.get(BaseModel, completion.base)
        if base is None:
            return None
        return of_base(storage, base) | {"chat_template": base.chat_template}
    job = tx.get_one(Job, completion.job_id)
    base = tx.get_one(BaseModel, job.base_model_id)
    template = {"chat_template": template_of(base, job)}
    if completion.base == job.id:
        files = whole_files(tx, job)
        whole = bases.facts_of(base).model_copy(
            update={
                "id": job.id,
                "revision": revision_of([file for _, file in files]),
                "source": STORED,
                "files": [file for _, file in files],
            }
        )
        model = {"base_model": bare(whole), "base_files": links_to(storage, files)}
    else:
        files = adapter_files(tx, completion.job_id, completion.step)
        model = of_base(storage, base) | {"adapter": AdapterLink(files=links_to(storage, files))}
    return model | template if files else None


def of_base(storage: Storage, base: BaseModel) -> dict[str, Any]:
    facts = bases.facts_of(base)
    return {"base_model": bare(facts), "base_files": bases.links_of(storage, facts)}


def bare(facts: BaseModelFacts) -> BaseModelFacts:
    """As a worker is told it; the lease has the template."""
    without = {"not_for_ollama": None, "chat_template": None, "examined": None}
    return facts.model_copy(update=without)


def whole_files(tx: Session, job: Job) -> list[tuple[str, FileFacts]]:
    """What a program loads a tuned model from that is a model of its own, with the keys."""
    names = tuned.model_files(tx, job)
    artifacts = tx.scalars(
        select(Artifact).where(Artifact.job_id == job.id, Artifact.name.in_(names))
    )
    return [
        (one.key, FileFacts(name=one.name, bytes=one.bytes, sha256=one.sha256))
        for one in artifacts.all()
    ]


def adapter_files(tx: Session, job_id: str, step: int | None) -> list[tuple[str, FileFacts]]:
    """None of a checkpoint that is gone."""
    if step is not None and tx.get(Checkpoint, (job_id, step)) is None:
        return []
    return tuned.adapter_files(tx, job_id, step)
