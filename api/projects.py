"""Projects and their keys. A key is shown once; its SHA-256 is kept (it is random: no salt)."""

import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.ids import new_id
from api.tables import NOW, ApiKey, Project
from tunery.errors import InvalidRequest, NotFound

Scope = Literal["read", "write", "admin", "worker"]
PREFIX_LENGTH = 18
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Caller:
    """Who asks: the project a request acts in, and what its key may do."""

    project_id: str
    project: str
    scopes: frozenset[str]


def ensure_project(tx: Session, name: str) -> Project:
    """The project of this name, made if it is not there."""
    project = tx.scalars(select(Project).where(Project.name == name)).one_or_none()
    if project is None:
        project = Project(id=new_id("proj_"), name=name)
        tx.add(project)
        tx.flush()
    return project


def create_key(tx: Session, project: Project, scopes: list[Scope]) -> str:
    """A new key, in the clear for the only time."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"{scope!r} is not a scope; use some of {', '.join(SCOPES)}.")
    key = f"sk-tunery-{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=new_id("key_"),
        project_id=project.id,
        hash=hash_of(key),
        prefix=key[:PREFIX_LENGTH],
        scopes=list(scopes),
    )
    tx.add(row)
    tx.flush()
    return key


def revoke_key(tx: Session, key: str) -> None:
    """Ends the key, named whole or by its first 18 characters."""
    prefix = key[:PREFIX_LENGTH]
    keys = tx.scalars(
        select(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
    ).all()
    if not keys:
        raise NotFound(f"No live key begins with {prefix!r}.")
    for row in keys:
        row.revoked_at = tx.scalar(select(NOW))


def caller_of(tx: Session, key: str) -> Caller | None:
    """The caller behind a live key; None for an unknown or revoked one."""
    row = tx.execute(
        select(ApiKey.scopes, Project.id, Project.name)
        .join(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.hash == hash_of(key), ApiKey.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    return Caller(project_id=row.id, project=row.name, scopes=frozenset(row.scopes))


def hash_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()
