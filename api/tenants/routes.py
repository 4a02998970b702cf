"""/v1/project: one's own. /v1/admin/projects, their keys, and the audit: for those who run the
service; an admin key reaches every project.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session

from api.http.dependencies import Admin, After, AServer, Limit, Reader
from api.http.routing import Route
from api.http.shapes import Deleted, Page, page, seconds
from api.settings import Settings
from api.tables import Project
from api.tenants import audit, budgets, keys, people, projects, quotas, sessions
from api.tenants.schemas import (
    AuditObject,
    CreateKey,
    CreateProject,
    KeyId,
    KeyObject,
    MeObject,
    MyProjectObject,
    NewKeyObject,
    PersonId,
    PersonObject,
    ProjectObject,
    RotateKey,
    SetLimits,
    SignInCodeObject,
)
from tunery.errors import InvalidRequest
from tunery.fields import ProjectId

router = APIRouter(prefix="/v1", route_class=Route, tags=["Projects"])


@router.get("/me")
def me(caller: Reader) -> MeObject:
    """Who the key acts as, and what it may do."""
    return MeObject.of(caller)


@router.get("/me/projects")
def my_projects(
    server: AServer, caller: Reader, limit: Limit = 20, after: After = None
) -> Page[MyProjectObject]:
    """The projects that the caller may act in, by name: of a person who has signed in, those that
    their groups give; of a key, its own.
    """

    def shown_to(project: Project) -> MyProjectObject:
        scopes = people.scopes_in(person.rights, project.id) if person else sorted(caller.scopes)
        return MyProjectObject(id=project.id, name=project.name, scopes=scopes)

    with server.db.as_control() as tx:
        in_person = caller.person_id if not caller.has_key else None
        person = people.get(tx, in_person) if in_person else None
        only = people.only_of(person) if person else [caller.project_id]
        rows = projects.list_by_name(tx, limit=limit, after=after, only=only)
        return page(rows, limit, shown_to)


@router.post("/sign_in_codes")
def create_sign_in_code(server: AServer, caller: Reader) -> SignInCodeObject:
    """Creates a code that opens the console once, without showing the key to a browser."""
    with server.db.as_control() as tx:
        row, code = sessions.make_code(tx, caller)
        return SignInCodeObject(code=code, expires_at=seconds(row.expires_at))


@router.get("/project")
def own(server: AServer, caller: Reader) -> ProjectObject:
    """The project of the key: what it may have, and has."""
    with server.db.as_project(caller.project_id) as tx:
        return shown(tx, server.settings, projects.get(tx, caller.project_id))


@router.get("/admin/projects")
def list_projects(
    server: AServer, _: Admin, limit: Limit = 20, after: After = None
) -> Page[ProjectObject]:
    """By name."""
    with server.db.as_control() as tx:
        rows = projects.list_by_name(tx, limit=limit, after=after)
        return page(rows, limit, lambda project: shown(tx, server.settings, project))


@router.post("/admin/projects")
def create(asked: CreateProject, server: AServer, caller: Admin) -> ProjectObject:
    """Creates a project."""
    with server.db.as_control() as tx:
        project = projects.create(tx, asked.name)
        audit.record(tx, caller, "project.create", project.id, project_id=project.id)
        return shown(tx, server.settings, project)


@router.get("/admin/projects/{project_id}")
def retrieve(project_id: ProjectId, server: AServer, _: Admin) -> ProjectObject:
    """Returns one project, with its limits and usage."""
    with server.db.as_control() as tx:
        return shown(tx, server.settings, projects.get(tx, project_id))


@router.post("/admin/projects/{project_id}")
def set_limits(
    project_id: ProjectId, asked: SetLimits, server: AServer, caller: Admin
) -> ProjectObject:
    """Changes a project's limits. A limit that is left out stays."""
    with server.db.as_control() as tx:
        project = projects.get(tx, project_id, lock=True)
        if asked.limits.cost is not None and server.settings.currency is None:
            raise InvalidRequest(
                "No pool has a price, so nothing would ever cost anything. An operator sets "
                "price_per_hour in TUNERY_POOLS first.",
                param="limits.cost",
            )
        for name, most in asked.limits.model_dump(exclude_unset=True).items():
            setattr(project, f"most_{name}", most)
            budgets.again(project, name)
        audit.record(tx, caller, "project.set_limits", project_id, project_id=project_id)
        return shown(tx, server.settings, project)


def shown(tx: Session, settings: Settings, project: Project) -> ProjectObject:
    limits = quotas.limits_of(settings, project)
    answered = quotas.answers_of(tx, project.id)
    used = quotas.used_by(tx, settings, project)
    warnings = [
        found.in_words(project.name) for _, found in budgets.near(tx, settings, [project.id])
    ]
    return ProjectObject.of(project, limits, used, answered, settings.currency, warnings)


@router.get("/admin/projects/{project_id}/keys")
def list_keys(project_id: ProjectId, server: AServer, _: Admin) -> Page[KeyObject]:
    """Newest first, those that have ended too."""
    with server.db.as_control() as tx:
        projects.get(tx, project_id)
        rows = keys.list_all(tx, project_id)
    return page(rows, len(rows), KeyObject.of)


@router.post("/admin/projects/{project_id}/keys")
def create_key(
    project_id: ProjectId, asked: CreateKey, server: AServer, caller: Admin
) -> NewKeyObject:
    """Creates an API key. The key itself is shown this once."""
    with server.db.as_control() as tx:
        row, key = keys.create(
            tx,
            projects.get(tx, project_id),
            list(asked.scopes),
            name=asked.name,
            expires_days=asked.expires_days,
        )
        audit.record(tx, caller, "key.create", row.id, project_id=project_id)
    return NewKeyObject.made(row, key)


@router.post("/admin/projects/{project_id}/keys/{key_id}/rotate")
def rotate_key(
    project_id: ProjectId,
    key_id: KeyId,
    server: AServer,
    caller: Admin,
    asked: RotateKey | None = None,
) -> NewKeyObject:
    """A new key in place of this one, which ends at once or after the grace."""
    grace_seconds = asked.grace_seconds if asked else 0
    with server.db.as_control() as tx:
        old = keys.get(tx, project_id, key_id)
        row, key = keys.rotate(tx, old, grace_seconds=grace_seconds)
        audit.record(tx, caller, "key.rotate", key_id, project_id=project_id)
        audit.record(tx, caller, "key.create", row.id, project_id=project_id)
    return NewKeyObject.made(row, key)


@router.delete("/admin/projects/{project_id}/keys/{key_id}")
def revoke_key(project_id: ProjectId, key_id: KeyId, server: AServer, caller: Admin) -> Deleted:
    """Revokes a key."""
    with server.db.as_control() as tx:
        keys.revoke(tx, keys.get(tx, project_id, key_id))
        audit.record(tx, caller, "key.revoke", key_id, project_id=project_id)
    return Deleted(id=key_id, object="api_key")


@router.get("/admin/people")
def list_people(
    server: AServer, _: Admin, limit: Limit = 20, after: After = None
) -> Page[PersonObject]:
    """Who signs in at the provider, who was here last first."""
    with server.db.as_control() as tx:
        rows = people.list_newest(tx, limit=limit, after=after)
    return page(rows, limit, PersonObject.of)


@router.post("/admin/people/{person_id}/sign_out")
def sign_person_out(person_id: PersonId, server: AServer, caller: Admin) -> PersonObject:
    """Ends all sessions and keys of a person. What they may do is asked of the provider when they
    sign in again.
    """
    with server.db.as_control() as tx:
        person = people.get(tx, person_id, lock=True)
        people.sign_out(tx, person)
        audit.record(tx, caller, "person.sign_out", person_id)
    return PersonObject.of(person)


@router.get("/admin/audit")
def list_audit(
    server: AServer,
    _: Admin,
    limit: Limit = 20,
    after: After = None,
    project_id: Annotated[str | None, Query(description="Only changes in this project.")] = None,
    action: Annotated[
        str | None, Query(description="Only this action, such as `job.cancel`.")
    ] = None,
) -> Page[AuditObject]:
    """Who changed what, newest first."""
    with server.db.as_control() as tx:
        rows = audit.list_newest(
            tx,
            limit=limit,
            after=None if after is None else audit.number_of(after),
            project_id=project_id,
            action=action,
        )
    return page(rows, limit, AuditObject.of)
