"""Tuned models and checkpoints that a project shares with others: each may see the model and start
jobs from it, and nothing else.
"""

from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.db.session import across_projects
from api.ids import new_id
from api.models import tuned
from api.models.tuned import Tuned
from api.tables import CheckpointPermission, Project
from tunery.errors import InvalidRequest, NotFound


@dataclass(frozen=True)
class Wanted:
    """A page: up to `limit` + 1 permissions after the one of the id `after`, of a project alone if
    it is named.
    """

    limit: int
    after: str | None
    ascending: bool
    project_id: str | None


def share(tx: Session, name: str, project_ids: list[str]) -> list[CheckpointPermission]:
    """The permissions of these projects, in their order. Idempotent."""
    model = own(tx, name, lock=True)
    refuse_unknown(tx, model, project_ids)
    rows = [
        {
            "id": new_id("cp_"),
            "project_id": model.job.project_id,
            "job_id": model.job.id,
            "step": model.step,
            "model": name,
            "shared_with": project_id,
        }
        for project_id in project_ids
    ]
    tx.execute(insert(CheckpointPermission).values(rows).on_conflict_do_nothing())
    found = {row.shared_with: row for row in tx.scalars(of(name))}
    return [found[project_id] for project_id in dict.fromkeys(project_ids)]


def own(tx: Session, name: str, *, lock: bool = False) -> Tuned:
    found = tuned.own(tx, name, lock=lock)
    if found is None:
        raise NotFound(
            f"This project has no tuned model or checkpoint {name!r}. GET /v1/models lists the "
            "models, GET /v1/fine_tuning/jobs/{id}/checkpoints those of a job.",
            code="model_not_found",
        )
    return found


def refuse_unknown(tx: Session, model: Tuned, project_ids: list[str]) -> None:
    with across_projects(tx):
        known = set(tx.scalars(select(Project.id).where(Project.id.in_(project_ids))))
    for index, project_id in enumerate(project_ids):
        if project_id not in known:
            why = "is no project's id; one begins with proj_, and an operator knows them"
        elif project_id == model.job.project_id:
            why = "is the model's own project, which needs no permission"
        else:
            continue
        raise InvalidRequest(f"{project_id!r} {why}.", param=f"project_ids.{index}")


def list_some(tx: Session, name: str, wanted: Wanted) -> list[CheckpointPermission]:
    own(tx, name)
    query, sequence = of(name), CheckpointPermission.sequence
    if wanted.project_id:
        query = query.where(CheckpointPermission.shared_with == wanted.project_id)
    if wanted.after:
        cursor = tx.scalar(
            select(sequence).where(
                CheckpointPermission.id == wanted.after, CheckpointPermission.model == name
            )
        )
        if cursor is None:
            raise InvalidRequest(
                f"No permission {wanted.after!r} to continue after.", param="after"
            )
        query = query.where(sequence > cursor if wanted.ascending else sequence < cursor)
    query = query.order_by(sequence.asc() if wanted.ascending else sequence.desc())
    return list(tx.scalars(query.limit(wanted.limit + 1)))


def take_back(tx: Session, name: str, permission_id: str) -> None:
    """Jobs that have begun go on."""
    own(tx, name)
    permission = tx.scalars(of(name).where(CheckpointPermission.id == permission_id)).one_or_none()
    if permission is None:
        raise NotFound(f"{name} has no permission {permission_id!r}.")
    tx.delete(permission)


def of(name: str) -> Select[CheckpointPermission]:
    return select(CheckpointPermission).where(CheckpointPermission.model == name)
