"""Base models that jobs start from."""

from typing import Any

from sqlalchemy import ColumnElement, all_, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.storage.kept import (
    base_key,
    led_to,
    link_to,
    target_for,
    tokenizer_folder,
    tokenizer_of,
)
from api.storage.storage import Storage
from api.tables import AnsweringEndpoint, BaseModel, Job, Worker
from api.workers import workers
from tunery import messages
from tunery.data.jinja import TemplateError, compile_template
from tunery.data.named_templates import template_of
from tunery.errors import Conflict, InvalidRequest, NotFound
from tunery.facts import STORED, BaseModelFacts, Examined, FileFacts, FileLink


def register(tx: Session, facts: BaseModelFacts) -> BaseModel:
    """Adds a base model. The same again may change its folder and licence, and what is known of it
    for Ollama, which another version finds in other words or finds none, and what was found of its
    family; and it may add its shape, if an older command line did not tell. Another one under a
    known id is refused, because jobs name their base by id. One that is broken is taken for
    repaired, with other files or the same.
    """
    if facts.chat_template is not None:
        facts = facts.model_copy(update={"chat_template": in_jinja(facts.chat_template)})
    tx.execute(insert(BaseModel).values(facts.model_dump(mode="json")).on_conflict_do_nothing())
    known = tx.get_one(BaseModel, facts.id, with_for_update=True)
    if known.broken is not None:
        for name, value in facts.model_dump(mode="json").items():
            setattr(known, name, value)
        known.not_for_ollama, known.broken, known.broken_for = facts.not_for_ollama, None, []
        known.examined = written(facts.examined)
        tx.flush()
        return known
    free: dict[str, Any] = {"source": facts.source, "licence": facts.licence}
    free["not_for_ollama"], free["examined"] = facts.not_for_ollama, facts.examined
    free["chat_template"] = facts.chat_template
    if known.shape is None or facts.shape is None:
        free["shape"] = facts.shape
    if facts_of(known).model_copy(update=free) != facts:
        raise Conflict(
            f"{facts.id} is registered at revision {known.revision} with other files or facts. "
            "Register this one under another id.",
            param="id",
        )
    known.source, known.licence = facts.source, facts.licence
    known.not_for_ollama = facts.not_for_ollama
    if facts.chat_template is not None:
        known.chat_template = facts.chat_template
    if facts.shape is not None:
        known.shape = facts.shape.model_dump(mode="json")
    if facts.examined is not None:
        known.examined = written(facts.examined)
    tx.flush()
    return known


def remove(tx: Session, id_: str) -> set[str]:
    """Removes a base model that nothing names; returns the keys in storage of the files that were
    its alone, to be deleted after the commit. Workers drop what they fetched of it when they need
    the space.

    Raises:
        NotFound: no such base model.
        Conflict: a job, and so perhaps a tuned model, or an endpoint names it.

    """
    # A job that is being created waits for this lock, or this waits for the job.
    base = tx.get(BaseModel, id_, with_for_update=True)
    if base is None:
        raise NotFound(
            f"No base model {id_!r}. GET /v1/models lists those there are.", param="model"
        )
    if user := user_of(tx, id_):
        raise Conflict(f"{id_} cannot be removed: {user}", code="base_model_in_use")
    folder, tokenizer = tokenizer_of(base)
    keys = {f"{folder}/{file.name}" for file in tokenizer}
    if base.source == STORED:
        keys |= {base_key(FileFacts.model_validate(file)) for file in base.files}
    tx.delete(base)
    tx.flush()
    return keys - led_to(tx, keys)


def user_of(tx: Session, id_: str) -> str | None:
    """What names the base model, and what to do about it, in words."""
    jobs, models = tx.execute(
        select(
            func.count(),
            func.count().filter(Job.fine_tuned_model.is_not(None), Job.model_deleted_at.is_(None)),
        ).where(Job.base_model_id == id_)
    ).one()
    if models:
        return f"it stays for the tuned models that were made from it ({models:,})."
    if jobs:
        return (
            f"it stays for the jobs and exports that name it ({jobs:,}, with those that have ended "
            "or were deleted), because their records and the usage refer to it."
        )
    named = or_(AnsweringEndpoint.bases.contains([id_]), AnsweringEndpoint.names.has_key(id_))
    endpoint = tx.scalar(select(AnsweringEndpoint.id).where(named).limit(1))
    if endpoint:
        return (
            f"endpoint {endpoint} answers for it. Delete that first: DELETE "
            f"/v1/admin/endpoints/{endpoint}."
        )
    return None


def written(examined: Examined | None) -> dict[str, Any] | None:
    return None if examined is None else examined.model_dump()


def note_examined(tx: Session, id_: str, revision: str, examined: Examined) -> None:
    """What a worker found of a base model's family, unless it has other files by now."""
    found = written(examined)
    tx.execute(
        update(BaseModel)
        .where(BaseModel.id == id_, BaseModel.revision == revision)
        .where(BaseModel.examined.is_distinct_from(found))
        .values(examined=found)
    )


def require_stored(storage: Storage, facts: BaseModelFacts) -> None:
    """Of a base model that is in storage: all its files are there, and the API has its tokenizer.
    Raises `InvalidRequest` that names those missing.
    """
    missing = [file.name for file in facts.files if not storage.has(base_key(file), file.bytes)]
    if missing:
        raise InvalidRequest(
            f"Storage lacks {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''} of "
            f"{facts.id}. Send them first, as `tunery models push` does.",
            param="files",
        )
    for file in facts.tokenizer:
        storage.copy(base_key(file), f"{tokenizer_folder(facts.tokenizer)}/{file.name}")


def upload_target(storage: Storage, file: FileFacts) -> messages.UploadTarget:
    """Where to send a file of a base model, unless it is there already."""
    return target_for(storage, base_key(file), file)


def links_of(storage: Storage, base: BaseModelFacts) -> list[FileLink]:
    """To the files of a base model in storage; none of another."""
    if base.source != STORED:
        return []
    return [link_to(storage, base_key(file), file) for file in base.files]


def in_jinja(template: str) -> str:
    """Raises `InvalidRequest` for no template's name, and for no Jinja."""
    template = template_of(template, param="chat_template")
    try:
        compile_template(template)
    except TemplateError as error:
        raise InvalidRequest(f"chat_template: {error}.", param="chat_template") from error
    return template


def of(facts: BaseModelFacts) -> BaseModel:
    """As it would be registered."""
    return BaseModel(**facts.model_dump(mode="json"))


def facts_of(base: BaseModel) -> BaseModelFacts:
    return BaseModelFacts.model_validate(
        {name: getattr(base, name) for name in BaseModelFacts.model_fields}
    )


def not_loadable(tx: Session, worker: messages.WorkerFacts) -> list[str]:
    """The bases that are broken for a worker's build, and those that it lacks in the folders where
    it looked.
    """
    lacking = tuple_(BaseModel.id, BaseModel.source).in_(list(worker.lacks.items()))
    broken = BaseModel.broken_for.contains([worker.build or ""])
    query = select(BaseModel.id).where(or_(broken, lacking))
    return list(tx.scalars(query))


def is_open(tx: Session, base: BaseModel) -> bool:
    """Whether it is not broken, or a worker is there that is of another build."""
    return base.broken is None or bool(
        tx.scalar(select(opened()).select_from(BaseModel).where(BaseModel.id == base.id))
    )


def opened() -> ColumnElement[bool]:
    """As `is_open`, of the base model of a query."""
    other = func.coalesce(Worker.build, "") != all_(BaseModel.broken_for)
    there = select(Worker.id).where(workers.is_given_jobs(), other).correlate(BaseModel)
    return or_(BaseModel.broken.is_(None), there.exists())


def refuse_broken(tx: Session, base: BaseModel) -> None:
    """Raises `InvalidRequest` for a base that no job can start from."""
    if not is_open(tx, base):
        raise InvalidRequest(
            f"The base model {base.id} cannot be trained, so no job can start from it: "
            f"{base.broken} An operator repairs its folder, or upgrades the workers, and runs "
            "`tunery models add` again.",
            param="model",
            code=messages.BASE_BROKEN,
        )


def tokenizer_file(tx: Session, model: str, name: str) -> tuple[str, FileFacts]:
    """One of them, and its key."""
    base = tx.get(BaseModel, model)
    if base is None:
        raise NotFound(
            f"No base model {model!r}. Register it with POST /v1/admin/models.", param="model"
        )
    folder, files = tokenizer_of(base)
    for file in files:
        if file.name == name:
            return f"{folder}/{name}", file
    kept = ", ".join(file.name for file in files)
    raise NotFound(f"{name!r} is no file that is kept of {model}. Send {kept}.")
