"""The tuned models that came of jobs: used by their names, as base models are, and as what a next
job goes on from; shared and deleted.
"""

import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.orm import Session

from api.db.session import across_projects
from api.storage.kept import files_of, kept_keys
from api.tables import (
    NOW,
    Artifact,
    BaseModel,
    Checkpoint,
    CheckpointPermission,
    EvaluationRow,
    Job,
    SampleSet,
)
from tunery.errors import Conflict, Forbidden, InvalidRequest, NotFound
from tunery.facts import FileFacts
from tunery.spec import Quantization
from tunery.states import UNFINISHED

CHECKPOINT_NAME = re.compile(r"(ft:.+):ckpt-step-([0-9]{1,18})")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Listed:
    """A tuned model as a list shows it. `job_id` is None of another project's."""

    name: str
    created_at: datetime
    base_model: str
    went_on_from: str | None
    job_id: str | None


@dataclass(frozen=True)
class Tuned:
    """A tuned model, or with a `checkpoint` that one of its job, under its whole name. With a
    `permission` it is another project's.
    """

    name: str
    job: Job
    checkpoint: Checkpoint | None = None
    permission: CheckpointPermission | None = None

    @property
    def created_at(self) -> datetime:
        made = self.permission or self.checkpoint
        return made.created_at if made else self.job.finished_at or self.job.created_at

    @property
    def step(self) -> int | None:
        return self.checkpoint.step if self.checkpoint else None

    @property
    def listed(self) -> Listed:
        return Listed(
            name=self.name,
            created_at=self.created_at,
            base_model=self.job.base_model_id,
            went_on_from=(self.job.source or {}).get("model") if not self.permission else None,
            job_id=None if self.permission else self.job.id,
        )


@dataclass(frozen=True)
class Source:
    """What a job goes on from, as its row keeps it: a tuned model, or a job's checkpoint of a
    `step`. `sha256` is that of the weights, `quantization` what the base was trained in, and
    `chat_template` its own if it had one; the rest is the shape of its adapter, as in
    `tunery.spec.Lora`.
    """

    model: str
    job_id: str
    step: int | None
    sha256: str
    r: int
    alpha: int
    quantization: Quantization
    double_quant: bool = True
    target_modules: str | list[str] = "all-linear"
    target_parameters: list[str] = field(default_factory=list)
    rslora: bool = False
    chat_template: str | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """What the adapter of a job that goes on from it has as well."""
        names = ("r", "alpha", "target_modules", "target_parameters", "rslora")
        return {name: getattr(self, name) for name in names}


def list_all(tx: Session) -> tuple[list[BaseModel], list[Listed]]:
    """Base models; this project's tuned ones, newest first, then those shared with it, since they
    are.
    """
    bases = tx.scalars(select(BaseModel).order_by(BaseModel.id))
    # They may be many, and their jobs are heavy.
    own = tx.execute(
        select(
            Job.model_name, Job.finished_at, Job.base_model_id, Job.source["model"].astext, Job.id
        )
        .where(Job.fine_tuned_model.is_not(None), Job.model_deleted_at.is_(None))
        .order_by(Job.sequence.desc())
    )
    with across_projects(tx):
        shared = tx.execute(
            select(CheckpointPermission.model, CheckpointPermission.created_at, Job.base_model_id)
            .join(Job, Job.id == CheckpointPermission.job_id)
            .where(for_this_project())
            .order_by(CheckpointPermission.sequence.desc())
        ).all()
    found = [Listed(*row) for row in own] + [Listed(*row, None, None) for row in shared]
    return list(bases), found


def get(tx: Session, name: str, *, lock: bool = False) -> BaseModel | Tuned:
    """The model of this name that this project may use. `lock` keeps a tuned one, and its job's
    checkpoints, from being deleted until the transaction ends.
    """
    found = tx.get(BaseModel, name) or own(tx, name, lock=lock) or shared(tx, name, lock=lock)
    if found is None:
        raise unknown(name)
    return found


def unknown(name: str) -> NotFound:
    return NotFound(
        f"No model {name!r}. GET /v1/models lists those there are; an operator adds a base model "
        "with `tunery models add`.",
        param="model",
        code="model_not_found",
    )


def own(tx: Session, name: str, *, lock: bool = False) -> Tuned | None:
    """Among the rows that the transaction reaches."""
    named = CHECKPOINT_NAME.fullmatch(name)
    query = select(Job).where(
        Job.model_name == (named[1] if named else name), Job.model_deleted_at.is_(None)
    )
    if lock:
        query = query.with_for_update(read=True, key_share=True)
    job = tx.scalars(query).one_or_none()
    if job and named:
        checkpoint = tx.get(Checkpoint, (job.id, int(named[2])))
        return Tuned(name, job, checkpoint) if checkpoint else None
    return Tuned(name, job) if job and job.fine_tuned_model else None


def shared(tx: Session, name: str, *, lock: bool = False) -> Tuned | None:
    """Another project's model that this one may use, and no other."""
    query = select(CheckpointPermission).where(
        CheckpointPermission.model == name, for_this_project()
    )
    with across_projects(tx):
        permission = tx.scalars(query).one_or_none()
        found = own(tx, name, lock=lock) if permission else None
    return replace(found, permission=permission) if found else None


def for_this_project() -> ColumnElement[bool]:
    return CheckpointPermission.shared_with == func.current_setting("tunery.project")


def source_of(tx: Session, tuned: Tuned) -> Source:
    """Raises `InvalidRequest` for a model whose training had no adapter."""
    with across_projects(tx) if tuned.permission else nullcontext():
        weights = adapter_files(tx, tuned.job.id, tuned.step)
    spec, plan = tuned.job.spec or {}, tuned.job.plan or {}
    if is_whole(tuned.job):
        raise InvalidRequest(
            f"{tuned.name} is a whole model, not an adapter. To train on from it, download it and "
            "have it registered as a base model (`tunery models add`).",
            param="model",
        )
    return Source(
        model=tuned.name,
        job_id=tuned.job.id,
        step=tuned.step,
        sha256=next(file.sha256 for _, file in weights if file.name == WEIGHTS),
        quantization=plan.get("quantization", "auto"),
        double_quant=spec.get("double_quant", True),
        r=spec["lora"]["r"],
        alpha=spec["lora"]["alpha"],
        target_modules=spec["lora"].get("target_modules", "all-linear"),
        target_parameters=spec["lora"].get("target_parameters", []),
        rslora=spec["lora"].get("rslora", False),
        chat_template=spec.get("chat_template"),
    )


def is_whole(job: Job) -> bool:
    """Whether what comes of it is a model of its own, not an adapter."""
    return job.spec is not None and job.spec["lora"] is None


def model_files(tx: Session, job: Job) -> list[str]:
    """The names of what a program loads a tuned model from."""
    if not is_whole(job):
        return [CONFIG, WEIGHTS]
    names = tx.scalars(select(Artifact.name).where(Artifact.job_id == job.id))
    return sorted(name for name in names if name.endswith((".json", ".safetensors", ".jinja")))


def adapter_files(tx: Session, job_id: str, step: int | None) -> list[tuple[str, FileFacts]]:
    """The weights and PEFT's config of a tuned model, or of a checkpoint, with their keys."""
    if step is None:
        artifacts = tx.scalars(select(Artifact).where(Artifact.job_id == job_id))
        files = [
            (row.key, FileFacts(name=row.name, bytes=row.bytes, sha256=row.sha256))
            for row in artifacts
        ]
    else:
        files = files_of(tx.get_one(Checkpoint, (job_id, step)))
    return [(key, file) for key, file in files if file.name in {WEIGHTS, CONFIG}]


def delete(tx: Session, name: str) -> set[str]:
    """Deletes a tuned model with its job's checkpoints, samples and exports; returns their keys in
    storage, to be deleted after the commit. The job stays, and says what the model was called.

    Raises:
        NotFound: no such model.
        Forbidden: it is not this project's to delete, or not by itself.
        Conflict: an unfinished job goes on from it, or an export is being made of it.

    """
    found = get(tx, name)
    if isinstance(found, BaseModel):
        raise not_deletable(
            f"{name} is a base model, which all projects share, and which an operator removes with "
            "`tunery models remove`"
        )
    if found.permission:
        raise not_deletable(f"{name} belongs to another project, which shares it with yours")
    if found.checkpoint:
        raise not_deletable(f"{name} is a checkpoint, which goes when its job's model is deleted")
    job = tx.get_one(Job, found.job.id, with_for_update=True, populate_existing=True)
    if user := unfinished_user(tx, job):
        raise Conflict(
            f"{name} is in use: {user}. Cancel that or wait for its end.",
            code="model_in_use",
        )
    exports = tx.scalars(select(Job.id).where(Job.exported_job_id == job.id))
    files_of = [job.id, *exports]
    keys = set().union(*(kept_keys(tx, job_id) for job_id in files_of))
    for part in (Artifact, Checkpoint, CheckpointPermission, EvaluationRow, SampleSet):
        tx.execute(delete_from(part).where(part.job_id.in_(files_of)))
    tx.execute(update(Job).where(Job.id.in_(files_of)).values(model_deleted_at=NOW))
    # The verdict stays, without what the model said.
    tx.execute(
        update(Job)
        .where(Job.id == job.id, func.jsonb_typeof(Job.evaluation) == "object")
        .values(evaluation=Job.evaluation.op("-")("got_worse"))
    )
    return keys


def not_deletable(why: str) -> Forbidden:
    return Forbidden(f"{why}; it cannot be deleted here.", param="model", code="not_deletable")


def steps_in_use(tx: Session, job_id: str) -> set[int]:
    """Whose checkpoints must stay: those shared, and those that an unfinished job of any project
    goes on from or that is being exported. For the control role.
    """
    users = select(Job.source, Job.export).where(uses(job_id))
    steps = {(source or export or {})["step"] for source, export in tx.execute(users)}
    shared = select(CheckpointPermission.step).where(CheckpointPermission.job_id == job_id)
    return {step for step in steps.union(tx.scalars(shared)) if step is not None}


def uses(job_id: str) -> ColumnElement[bool]:
    """A job of any project that has begun to go on from this one's model and has not ended; or an
    export of it.
    """
    of_it = or_(Job.source_job_id == job_id, Job.exported_job_id == job_id)
    return of_it & Job.state.in_(UNFINISHED)


def unfinished_user(tx: Session, job: Job) -> str | None:
    """What uses the job's model, in words."""
    with across_projects(tx):
        user = tx.execute(
            select(Job.id, Job.project_id, Job.exported_job_id).where(uses(job.id)).limit(1)
        ).one_or_none()
    if user is None:
        return None
    if user.exported_job_id:
        return f"export {user.id} is being made of it"
    own = user.project_id == job.project_id
    return f"{f'job {user.id}' if own else 'a job of another project'} goes on from it"
