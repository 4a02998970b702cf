"""People: who signed in at the provider, and what their groups let them do here. A person's
session, and each key of theirs, ends when a later sign-in no longer gives what it may do.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.ids import new_id
from api.roles import EVERY_PROJECT, EVERYBODY, Roles
from api.tables import NOW, ApiKey, Person, Project
from api.tenants import audit, keys, projects
from api.tenants.projects import Caller
from api.tenants.provider import Known
from tunery.errors import Forbidden, InvalidRequest, NotFound

DEFAULT_PROJECT = "default"


def given_to(roles: Roles, groups: Iterable[str]) -> dict[str, set[str]]:
    """Scopes by the names of projects."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in {EVERYBODY, *groups}:
        for grant in roles.get(group, ()):
            found[grant.project].update(grant.scopes)
    return found


def scopes_in(rights: dict[str, list[str]], project_id: str) -> list[str]:
    return sorted({*rights.get(project_id, ()), *rights.get(EVERY_PROJECT, ())})


def remember(tx: Session, roles: Roles, known: Known, asked: Caller) -> Person | None:
    """The person, with the rights that their groups give now; what goes beyond these ends. Projects
    that are named and not there are made. None for somebody new without any right. `asked` says
    which request it was.
    """
    given = given_to(roles, known.groups)
    same = Person.issuer == known.issuer, Person.subject == known.subject
    values = {"email": known.email, "name": known.name, "signed_in_at": NOW}
    if given:
        ids = {"id": new_id("person_"), "issuer": known.issuer, "subject": known.subject}
        person = tx.scalars(
            insert(Person)
            .values(values | ids | {"rights": {}})
            .on_conflict_do_update(index_elements=[Person.issuer, Person.subject], set_=values)
            .returning(Person)
        ).one()
    elif there := tx.scalars(update(Person).where(*same).values(values).returning(Person)).all():
        (person,) = there
    else:
        return None
    rights: dict[str, list[str]] = {}
    for name, scopes in given.items():
        id_ = name
        if name != EVERY_PROJECT:
            project = projects.look_up(tx, name)
            id_ = (project or projects.ensure_project(tx, name)).id
            if project is None:
                who = replace(asked, person_id=person.id)
                audit.record(tx, who, "project.create", id_, project_id=id_)
        rights[id_] = sorted(scopes)
    person.rights = rights
    end_what_is_beyond(tx, person)
    return person


def end_what_is_beyond(tx: Session, person: Person) -> None:
    live = select(ApiKey).where(ApiKey.person_id == person.id, ApiKey.revoked_at.is_(None))
    for key in tx.scalars(live):
        if not set(key.scopes) <= set(scopes_in(person.rights, key.project_id)):
            keys.revoke(tx, key)


def project_of(tx: Session, person: Person) -> Project:
    """Where a person with rights begins: where they were last, else the first by name."""
    last = person.last_project_id
    if last and scopes_in(person.rights, last):
        return tx.get_one(Project, last)
    found = projects.list_by_name(tx, limit=1, after=None, only=only_of(person))
    return found[0] if found else projects.ensure_project(tx, DEFAULT_PROJECT)


def only_of(person: Person) -> list[str] | None:
    """The ids of the projects that the person has; None: all of them."""
    return None if EVERY_PROJECT in person.rights else list(person.rights)


def require_project(tx: Session, person: Person, project_id: str) -> list[str]:
    """The person's scopes there. Raises `NotFound`."""
    scopes = scopes_in(person.rights, project_id)
    if not scopes or tx.get(Project, project_id) is None:
        raise NotFound(
            f"You have no project {project_id!r}. GET /v1/me/projects lists those you have.",
            param="project_id",
        )
    return scopes


def require_in_person(caller: Caller) -> str:
    """The id of the person who has signed in. Raises `Forbidden` for whoever has a key, also one
    of theirs: what it made would outlive it.
    """
    if caller.person_id is None or caller.has_key:
        raise Forbidden(
            "Only a person who has signed in at the provider makes keys of their own, and goes "
            "from one project to another. An operator makes others with `tunery keys create`."
        )
    return caller.person_id


def of_nothing(known: Known) -> Forbidden:
    """What somebody is told who may do nothing here."""
    told = ", ".join(sorted(known.groups)[:20])[:400] or "none"
    return Forbidden(
        f"{known.issuer} knows you as {known.email or known.name or known.subject}, and your "
        f"groups there give no project here: {told}. Ask the operator of this service, who sets "
        "TUNERY_OIDC_ROLES and TUNERY_OIDC_GROUPS_CLAIM.",
        code="no_project",
    )


def get(tx: Session, person_id: str, *, lock: bool = False) -> Person:
    """The person; with `lock`, nobody else gives them or takes from them until this transaction
    ends. It is taken before the locks on keys of theirs. Raises `NotFound`.
    """
    person = tx.get(Person, person_id, with_for_update=lock or None, populate_existing=lock)
    if person is None:
        raise NotFound(f"No person {person_id!r}. GET /v1/admin/people lists those there are.")
    return person


def list_newest(tx: Session, *, limit: int, after: str | None) -> list[Person]:
    """Up to `limit` + 1 people, who signed in last first."""
    query = select(Person)
    if after:
        cursor = tx.get(Person, after)
        if cursor is None:
            raise InvalidRequest(f"No person {after!r} to continue after.", param="after")
        query = query.where(
            (Person.signed_in_at < cursor.signed_in_at)
            | ((Person.signed_in_at == cursor.signed_in_at) & (Person.id > cursor.id))
        )
    return list(tx.scalars(query.order_by(Person.signed_in_at.desc(), Person.id).limit(limit + 1)))


def sign_out(tx: Session, person: Person) -> None:
    """Ends every session and key of the person, who is locked. Idempotent."""
    mine = ApiKey.person_id == person.id, ApiKey.revoked_at.is_(None)
    tx.execute(update(ApiKey).where(*mine).values(revoked_at=NOW))
