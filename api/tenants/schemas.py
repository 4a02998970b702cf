"""Projects, their keys, and the audit."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.http.shapes import Request, Word, seconds
from api.tables import ApiKey, AuditEntry, Person, Project
from api.tenants.projects import Caller, Scope
from api.tenants.quotas import (
    COST,
    DEVICE_HOURS,
    FILES,
    RUNNING_JOBS,
    STORED_BYTES,
    UNFINISHED_JOBS,
    Amounts,
    Answers,
)
from tunery.fields import CreatedAt, Described, Kind, ProjectId, UnixTime

# Postgres holds no larger number.
Limit = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
Money = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]

ProjectName = Annotated[
    str, Field(description="Name of the project. It is unique.", examples=["dairy"])
]


KeyId = Annotated[
    str, Field(description="Id of the API key.", examples=["key_zbJYAxyL1aCcTlN99mhWp708"])
]


PersonId = Annotated[
    str, Field(description="Id of the person.", examples=["person_kV3yqT0b8uXcPm5LhWnZrD2s"])
]
PersonLabel = Annotated[str, Field(examples=["ada@example.com"])]


BudgetWarnings = Annotated[
    list[str],
    Field(
        description="Budgets of this month of which 80 % or more is spent, in words.",
        examples=[
            [
                (
                    "Project 'dairy' has used 412.50 of its 500.00 USD of this month (UTC), 82 %. "
                    "When it is spent, no more jobs start."
                )
            ]
        ],
    ),
]


class CreateProject(Request):
    """A project to create."""

    name: Annotated[Word, Field(max_length=63, examples=["dairy"])]
    """Name of the project, which must be unique: 1 to 63 letters, digits, `.`, `_` and `-`,
    beginning with a letter or digit.
    """


class Limits(Request):
    """A project's own limits; null: the service's. One that is left out stays as it is."""

    files: Annotated[Limit | None, FILES] = None
    stored_bytes: Annotated[Limit | None, STORED_BYTES] = None
    unfinished_jobs: Annotated[Limit | None, UNFINISHED_JOBS] = None
    running_jobs: Annotated[Limit | None, RUNNING_JOBS] = None
    device_hours: Annotated[Limit | None, DEVICE_HOURS] = None
    cost: Annotated[Money | None, COST] = None


class SetLimits(Request):
    """A change of a project's own limits."""

    limits: Limits
    """The limits to change."""


class ProjectObject(Described):
    """A project, with its limits and what it uses of them."""

    object: Kind[Literal["project"]] = "project"
    id: ProjectId
    name: ProjectName
    created_at: CreatedAt
    own_limits: Amounts
    """The project's own limits, null where the service's hold."""
    limits: Amounts
    """The limits that hold, null where there is none."""
    usage: Amounts
    """What the project uses now."""
    currency: Annotated[str, Field(examples=["USD"])] | None
    """What `cost` is in; null: no pool has a price, and nothing costs anything."""
    answered: Answers
    """What models have answered the project in this month (UTC)."""
    warnings: BudgetWarnings

    @classmethod
    def of(
        cls,
        project: Project,
        limits: Amounts,
        usage: Amounts,
        answered: Answers,
        currency: str | None,
        warnings: list[str],
    ) -> "ProjectObject":
        own = Amounts(
            files=project.most_files,
            stored_bytes=project.most_stored_bytes,
            unfinished_jobs=project.most_unfinished_jobs,
            running_jobs=project.most_running_jobs,
            device_hours=project.most_device_hours,
            cost=project.most_cost,
        )
        return cls(
            id=project.id,
            name=project.name,
            created_at=seconds(project.created_at),
            own_limits=own,
            limits=limits,
            usage=usage,
            currency=currency,
            answered=answered,
            warnings=warnings,
        )


class MeObject(Described):
    """Who a key, or a session of the console, acts as."""

    object: Kind[Literal["me"]] = "me"
    project_id: ProjectId
    project: ProjectName
    key_id: KeyId
    person_id: PersonId | None
    """Whose key or session it is; null: nobody's in particular."""
    person: PersonLabel | None
    """What that person is called: their email address, name, or the provider's id for them."""
    scopes: Annotated[list[Scope], Field(examples=[["read", "write"]])]
    """What it may do."""

    @classmethod
    def of(cls, caller: Caller) -> "MeObject":
        return cls(
            project_id=caller.project_id,
            project=caller.project,
            key_id=caller.key_id,
            person_id=caller.person_id,
            person=caller.person,
            scopes=sorted(caller.scopes),
        )


class MyProjectObject(Described):
    """A project that a person may act in."""

    object: Kind[Literal["my_project"]] = "my_project"
    id: ProjectId
    name: ProjectName
    scopes: Annotated[list[Scope], Field(examples=[["read", "write"]])]
    """What the person may do there."""


class PersonObject(Described):
    """Somebody who has signed in at the provider of this service."""

    object: Kind[Literal["person"]] = "person"
    id: PersonId
    issuer: Annotated[str, Field(examples=["https://login.example.com/"])]
    """The OpenID Connect provider."""
    subject: Annotated[str, Field(examples=["f81d4fae-7dec-11d0-a765-00a0c91e6bf6"])]
    """The provider's id for the person, which does not change."""
    email: Annotated[str, Field(examples=["ada@example.com"])] | None
    """Email address; null: the provider did not say it."""
    name: Annotated[str, Field(examples=["Ada Lovelace"])] | None
    """Name; null: the provider did not say it."""
    rights: Annotated[
        dict[str, list[Scope]],
        Field(examples=[{"proj_NCiia3anXn9k3ksu9mI4ROnl": ["read", "write"]}]),
    ]
    """Scopes by ids of projects, `*` for all, as the person's groups gave them last."""
    created_at: CreatedAt
    signed_in_at: UnixTime
    """When the person signed in last, in Unix seconds (UTC)."""

    @classmethod
    def of(cls, person: Person) -> "PersonObject":
        return cls(
            id=person.id,
            issuer=person.issuer,
            subject=person.subject,
            email=person.email,
            name=person.name,
            rights=person.rights,
            created_at=seconds(person.created_at),
            signed_in_at=seconds(person.signed_in_at),
        )


class SignInCodeObject(Described):
    """Opens the console once, as whoever asked for it."""

    object: Kind[Literal["sign_in_code"]] = "sign_in_code"
    code: Annotated[str, Field(examples=["Gy8jv0Vq7SxX3u4sLJ7mOZp1h8Vb2a6dKcTfWnRqE5Y"])]
    """The code. The console takes it at `/#/sign-in?code=CODE` of the service's address."""
    expires_at: UnixTime
    """When it ends, in Unix seconds (UTC)."""


class CreateKey(Request):
    """An API key to create."""

    name: Annotated[Word, Field(max_length=100, examples=["CI"])] | None = None
    """Name of the key, for people; null: it has none."""
    scopes: Annotated[tuple[Scope, ...], Field(max_length=16)] = ("read", "write")
    """What the key may do: `read`, `write` (create, change and delete), `admin` (run the service),
    `worker` (claim jobs). No scope includes another.
    """
    expires_days: Annotated[float, Field(examples=[90])] | None = None
    """Days until the key expires, above 0 and up to 3,650; null: it does not expire."""


class RotateKey(Request):
    """How an old key ends."""

    grace_seconds: Annotated[float, Field(ge=0, le=30 * 86_400, examples=[3600])] = 0
    """Seconds for which the old key is good beside the new one, up to 30 days."""


def moment(time: datetime | None) -> int | None:
    return None if time is None else seconds(time)


class KeyObject(Described):
    """An API key, without its secret."""

    object: Kind[Literal["api_key"]] = "api_key"
    id: KeyId
    prefix: Annotated[str, Field(examples=["sk-tunery-zbJYAxyL"])]
    """First characters of the key. They hold none of its secret."""
    name: Annotated[str, Field(examples=["CI"])] | None
    """Name of the key, for people; null: it has none."""
    scopes: Annotated[list[str], Field(examples=[["read", "write"]])]
    """What the key may do: some of `read`, `write`, `admin` and `worker`."""
    created_at: CreatedAt
    person_id: PersonId | None
    """Whose key it is, which ends when they lose what it may do; null: nobody's in particular."""
    expires_at: UnixTime | None
    """When the key expires, in Unix seconds (UTC); null: it does not expire."""
    last_used_at: UnixTime | None
    """When the key was last used, in Unix seconds (UTC), to the minute; null: never."""
    revoked_at: UnixTime | None
    """When the key was revoked, in Unix seconds (UTC); null: it is not revoked."""

    @classmethod
    def of(cls, key: ApiKey) -> "KeyObject":
        return cls(
            id=key.id,
            prefix=key.prefix,
            name=key.name,
            scopes=key.scopes,
            created_at=seconds(key.created_at),
            person_id=key.person_id,
            expires_at=moment(key.expires_at),
            last_used_at=moment(key.last_used_at),
            revoked_at=moment(key.revoked_at),
        )


class NewKeyObject(KeyObject):
    """A new API key, with its secret."""

    key: Annotated[
        str,
        Field(
            examples=[
                "sk-tunery-zbJYAxyL1aCcTlN99mhWp708_33SCx9vHjHkm1x72EsSfUQUAkNX7LHQ7AtNJX3OrUbm9feafc59"
            ]
        ),
    ]
    """The key itself, shown this once."""

    @classmethod
    def made(cls, row: ApiKey, key: str) -> "NewKeyObject":
        return cls(**KeyObject.of(row).model_dump(), key=key)


class AuditObject(Described):
    """Who changed what."""

    object: Kind[Literal["audit_entry"]] = "audit_entry"
    id: Annotated[str, Field(examples=["audit-1729"])]
    """Id of the entry."""
    created_at: UnixTime
    """When it was changed, in Unix seconds (UTC)."""
    action: Annotated[str, Field(examples=["job.cancel"])]
    """What was done: a thing, and what was done with it."""
    subject: Annotated[str, Field(examples=["ftjob-NqVwYS81VP7Hb1DX8pPd5khx"])]
    """Id of what was changed."""
    project_id: ProjectId
    key_id: KeyId | None
    """Id of the API key, or of a person's session; null: an operator's command on the database."""
    person_id: PersonId | None
    """Id of the person whose key or session it was; null: nobody's in particular."""
    person: PersonLabel | None
    """What the person is called now."""
    request_id: Annotated[str, Field(examples=["req_txJTQr1FqXSTs98vPlL2aEJX"])] | None
    """Id of the request, which its answer has in a header; null: an operator's command."""
    address: Annotated[str, Field(examples=["203.0.113.7"])] | None
    """Address that the request came from; null: an operator's command, or it is not known."""

    @classmethod
    def of(cls, row: tuple[AuditEntry, Person | None]) -> "AuditObject":
        entry, person = row
        return cls(
            id=f"audit-{entry.id}",
            created_at=seconds(entry.created_at),
            action=entry.action,
            subject=entry.subject,
            project_id=entry.project_id,
            key_id=entry.key_id,
            person_id=entry.person_id,
            person=person.label if person else None,
            request_id=entry.request_id,
            address=entry.address,
        )
