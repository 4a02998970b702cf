"""Projects: who is apart from whom."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.ids import new_id
from api.tables import Project
from tunery.errors import Conflict, InvalidRequest, NotFound

Scope = Literal["read", "write", "admin", "worker", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# It becomes a part of tuned models' names, between colons.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Caller:
    """Who asks: the project a request acts in, what its key may do, and for the audit which key, of
    whom, in which request from where.
    """

    project_id: str
    project: str
    scopes: frozenset[str]
    key_id: str
    # Of the console, opened with that key; a person's session has none, and its own id there.
    in_session: bool = False
    has_key: bool = True
    # Whose key or session it is, if it is somebody's, and what they are called.
    person_id: str | None = None
    person: str | None = None
    request_id: str | None = None
    address: str | None = None

    @property
    def own_key_id(self) -> str | None:
        """None for a person's session, which acts as no other key."""
        return self.key_id if self.has_key else None


def create(tx: Session, name: str) -> Project:
    """Raises `Conflict` for a name that is taken."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name a project: use 1 to 63 letters, digits, '.', '_' and '-', a "
            "letter or digit first.",
            param="name",
        )
    project = tx.scalars(
        insert(Project)
        .values(id=new_id("proj_"), name=name)
        .on_conflict_do_nothing(index_elements=[Project.name])
        .returning(Project)
    ).one_or_none()
    if project is None:
        raise Conflict(f"There is a project {name!r} already. Choose another name.", param="name")
    return project


def ensure_project(tx: Session, name: str) -> Project:
    """The project of this name, made if it is not there."""
    try:
        return look_up(tx, name) or create(tx, name)
    except Conflict:  # made by another request, just now
        return named(tx, name)


def look_up(tx: Session, name: str) -> Project | None:
    return tx.scalars(select(Project).where(Project.name == name)).one_or_none()


def named(tx: Session, name: str) -> Project:
    project = look_up(tx, name)
    if project is None:
        raise NotFound(f"No project is named {name!r}.")
    return project


def get(tx: Session, project_id: str, *, lock: bool = False) -> Project:
    project = tx.get(Project, project_id, with_for_update={"key_share": True} if lock else None)
    if project is None:
        raise NotFound(f"No project {project_id!r}. GET /v1/admin/projects lists those there are.")
    return project


def list_by_name(
    tx: Session, *, limit: int, after: str | None, only: list[str] | None = None
) -> list[Project]:
    """Up to `limit` + 1 projects; of these ids, if they are given."""
    query = select(Project)
    if only is not None:
        query = query.where(Project.id.in_(only))
    if after:
        # Of these only: whoever may not see a project is not told that it is there.
        known = only is None or after in only
        cursor = tx.scalar(select(Project.name).where(Project.id == after)) if known else None
        if cursor is None:
            raise InvalidRequest(f"No project {after!r} to continue after.", param="after")
        query = query.where(Project.name > cursor)
    return list(tx.scalars(query.order_by(Project.name).limit(limit + 1)))
