"""Projects, their keys, and the audit."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.http.shapes import Request, Word, seconds
from api.tables import ApiKey, AuditEntry, Project
from api.tenants.projects import Scope
from api.tenants.quotas import Amounts

# Postgres holds no larger number.
Limit = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]


class CreateProject(Request):
    name: Annotated[Word, Field(max_length=63)]


class Limits(Request):
    """A project's own limits; null: the service's. One that is left out stays as it is."""

    files: Limit | None = None
    stored_bytes: Limit | None = None
    unfinished_jobs: Limit | None = None
    running_jobs: Limit | None = None
    device_hours: Limit | None = None


class SetLimits(Request):
    limits: Limits


class ProjectObject(BaseModel):
    """`own_limits` are its own, null where the service's hold; `limits` those that hold, null where
    there is none.
    """

    object: Literal["project"] = "project"
    id: str
    name: str
    created_at: int
    own_limits: Amounts
    limits: Amounts
    usage: Amounts

    @classmethod
    def of(cls, project: Project, limits: Amounts, usage: Amounts) -> "ProjectObject":
        own = Amounts(
            files=project.most_files,
            stored_bytes=project.most_stored_bytes,
            unfinished_jobs=project.most_unfinished_jobs,
            running_jobs=project.most_running_jobs,
            device_hours=project.most_device_hours,
        )
        return cls(
            id=project.id,
            name=project.name,
            created_at=seconds(project.created_at),
            own_limits=own,
            limits=limits,
            usage=usage,
        )


class CreateKey(Request):
    name: Annotated[Word, Field(max_length=100)] | None = None
    scopes: Annotated[tuple[Scope, ...], Field(max_length=16)] = ("read", "write")
    expires_days: float | None = None


class RotateKey(Request):
    """For how long the old key is good beside the new one."""

    grace_seconds: Annotated[float, Field(ge=0, le=30 * 86_400)] = 0


def moment(time: datetime | None) -> int | None:
    return None if time is None else seconds(time)


class KeyObject(BaseModel):
    """`prefix` is how the key begins; nothing of the secret is in it. `last_used_at` is exact to a
    minute.
    """

    object: Literal["api_key"] = "api_key"
    id: str
    prefix: str
    name: str | None
    scopes: list[str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyObject":
        return cls(
            id=key.id,
            prefix=key.prefix,
            name=key.name,
            scopes=key.scopes,
            created_at=seconds(key.created_at),
            expires_at=moment(key.expires_at),
            last_used_at=moment(key.last_used_at),
            revoked_at=moment(key.revoked_at),
        )


class NewKeyObject(KeyObject):
    """`key` is the key itself, shown this once."""

    key: str

    @classmethod
    def made(cls, row: ApiKey, key: str) -> "NewKeyObject":
        return cls(**KeyObject.of(row).model_dump(), key=key)


class AuditObject(BaseModel):
    """`key_id`, `request_id` and `address` are null for an operator's command on the database."""

    object: Literal["audit_entry"] = "audit_entry"
    id: str
    created_at: int
    action: str
    subject: str
    project_id: str
    key_id: str | None
    request_id: str | None
    address: str | None

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditObject":
        return cls(
            id=f"audit-{entry.id}",
            created_at=seconds(entry.created_at),
            action=entry.action,
            subject=entry.subject,
            project_id=entry.project_id,
            key_id=entry.key_id,
            request_id=entry.request_id,
            address=entry.address,
        )
