"""Sessions of the console: somebody shows a key, or a link that was made with one, and from then on
the browser bears a key of its own. It acts as the one that was shown, ends after some hours, by
signing out, and with that key. The session of a person who signs in at the provider acts as that
person in one of their projects.
"""

import secrets
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.settings import Settings
from api.tables import NOW, ApiKey, Person, Project, SignInCode, from_now
from api.tenants import audit, keys, people
from api.tenants.projects import Caller
from api.tenants.provider import Known
from tunery import pkce
from tunery.errors import Forbidden, Unauthenticated

HOURS = 12
# Of one key: each more ends the oldest. Codes too.
MOST = 50
CODE_SECONDS = 15 * 60
# That somebody gives to a program.
PROGRAM_CODE_SECONDS = 5 * 60
# An ended session's key says why it is refused for this long.
KEPT_SECONDS = 7 * keys.DAY


class Opened(NamedTuple):
    """A session; `key` is the browser's, in the clear for the only time."""

    key: str
    caller: Caller


def redeem(tx: Session, code: str) -> Caller:
    """Whose code it is, which is used up with that. Raises `Unauthenticated`."""
    found = tx.execute(
        delete(SignInCode)
        .where(SignInCode.hash == keys.hash_of(code), SignInCode.expires_at > NOW)
        .returning(SignInCode.key_id)
    ).scalar()
    key = found and tx.get(ApiKey, found)
    if not key or keys.is_over(key, tx.scalars(select(NOW)).one()):
        raise Unauthenticated(
            "This sign-in link was used before, or is over 15 minutes old. `tunery open` makes a "
            "new one."
        )
    return Caller(
        project_id=key.project_id,
        project=tx.get_one(Project, key.project_id).name,
        scopes=frozenset(key.scopes),
        key_id=key.id,
        person_id=key.person_id,
        person=tx.get_one(Person, key.person_id).label if key.person_id else None,
    )


def open_(tx: Session, caller: Caller) -> Opened:
    """Raises `Forbidden` for a key that could see nothing, and for a session's key."""
    require_own_key(caller)
    if "read" not in caller.scopes:
        raise Forbidden(
            f"This key has {' and '.join(sorted(caller.scopes))} and lacks read: the console could "
            "show it nothing. Use a key with the scope 'read'."
        )
    row, key = keys.create(
        tx,
        tx.get_one(Project, caller.project_id),
        sorted(caller.scopes),
        expires_days=HOURS / 24,
        session_of=caller.key_id,
        person_id=caller.person_id,
    )
    audit.record(tx, caller, "session.open", row.id)
    tx.execute(delete(ApiKey).where(ApiKey.id.in_(beyond(ApiKey.id, ApiKey.session_of, caller))))
    return Opened(key, caller)


def open_for(tx: Session, settings: Settings, known: Known, asked: Caller) -> Opened | None:
    """A session of somebody whom the provider knows; None for one who may do nothing here. That has
    to be committed too: it ends what they had. `asked` says which request it was.
    """
    person = people.remember(tx, settings.oidc_roles, known, asked)
    if person is None or not person.rights:
        return None
    project = people.project_of(tx, person)
    days = settings.oidc_session_hours / 24
    opened = begin(tx, person, project, asked, expires_days=days)
    audit.record(tx, opened.caller, "session.open", opened.caller.key_id)
    mine = ApiKey.person_id == person.id, ApiKey.session_of.is_not(None)
    oldest = select(ApiKey.id).where(*mine).order_by(ApiKey.expires_at.desc(), ApiKey.id)
    tx.execute(delete(ApiKey).where(ApiKey.id.in_(oldest.offset(MOST))))
    return opened


def begin(
    tx: Session, person: Person, project: Project, asked: Caller, *, expires_days: float
) -> Opened:
    """A session of the person in a project that they have."""
    scopes = people.require_project(tx, person, project.id)
    row, key = keys.create(tx, project, scopes, expires_days=expires_days, person_id=person.id)
    row.session_of = row.id
    person.last_project_id = project.id
    caller = replace(
        asked,
        project_id=project.id,
        project=project.name,
        scopes=frozenset(scopes),
        key_id=row.id,
        in_session=True,
        has_key=False,
        person_id=person.id,
        person=person.label,
    )
    return Opened(key, caller)


def require_live(tx: Session, caller: Caller) -> ApiKey:
    """The row of a person's session, locked. Callers are remembered for a moment, in which theirs
    may have ended. Raises `Unauthenticated`.
    """
    row = tx.get(ApiKey, caller.key_id, with_for_update=True, populate_existing=True)
    if row is None or keys.is_over(row, tx.scalars(select(NOW)).one()):
        raise Unauthenticated("The session has ended. Sign in again.")
    return row


def switch(tx: Session, project_id: str, caller: Caller) -> tuple[Opened, float]:
    """The session of a person in another of their projects, and for how many seconds; the one that
    the caller is in ends.

    Raises:
        Forbidden: the caller is no person who has signed in.
        Unauthenticated: it has ended.
        NotFound: the person has no such project.

    """
    person = people.get(tx, people.require_in_person(caller), lock=True)
    old = require_live(tx, caller)
    now = tx.scalars(select(NOW)).one()
    assert old.expires_at  # noqa: S101
    people.require_project(tx, person, project_id)
    left = (old.expires_at - now).total_seconds()
    project = tx.get_one(Project, project_id)
    opened = begin(tx, person, project, caller, expires_days=left / keys.DAY)
    keys.revoke(tx, old)
    audit.record(tx, opened.caller, "session.switch", opened.caller.key_id)
    return opened, left


def require_own_key(caller: Caller) -> None:
    """A session opens no other: it would have no end, and signing out would not end it."""
    if caller.in_session:
        raise Forbidden("A session of the console opens no other. Use an API key.")


def beyond(
    id_: InstrumentedAttribute[str], key_id: InstrumentedAttribute[Any], caller: Caller
) -> Select[str]:
    """Those of the caller's key that are over the most it may have, the oldest of them."""
    ends = id_.class_.expires_at
    return select(id_).where(key_id == caller.key_id).order_by(ends.desc(), id_).offset(MOST)


def close(tx: Session, key: str, caller: Caller) -> None:
    """Ends the session of this key, if it is one. Calling it again changes nothing."""
    ended = tx.execute(
        update(ApiKey)
        .where(
            ApiKey.hash == keys.hash_of(key),
            ApiKey.session_of.is_not(None),
            ApiKey.revoked_at.is_(None),
        )
        .values(revoked_at=NOW)
        .returning(ApiKey.id)
    ).scalar()
    if ended:
        audit.record(tx, caller, "session.close", ended)


def make_code(tx: Session, caller: Caller) -> tuple[SignInCode, str]:
    """A code's row, and the code that opens one session as this caller, for the only time. Raises
    `Forbidden` for a session's key.
    """
    require_own_key(caller)
    code = secrets.token_urlsafe(32)
    row = SignInCode(
        hash=keys.hash_of(code),
        key_id=caller.key_id,
        expires_at=tx.scalars(select(from_now(CODE_SECONDS))).one(),
    )
    tx.add(row)
    tx.flush()
    old = beyond(SignInCode.hash, SignInCode.key_id, caller)
    tx.execute(delete(SignInCode).where(SignInCode.hash.in_(old)))
    audit.record(tx, caller, "sign_in_code.create", caller.key_id)
    return row, code


def let_in(tx: Session, caller: Caller, challenge: str) -> str:
    """A code with which the program that made the challenge (`tunery.pkce`) makes itself a key of
    this person's, once, while the session goes on.

    Raises:
        Forbidden: the caller is no person who has signed in.
        Unauthenticated: the session has ended.

    """
    people.require_in_person(caller)
    require_live(tx, caller)
    code = secrets.token_urlsafe(32)
    expires = tx.scalars(select(from_now(PROGRAM_CODE_SECONDS))).one()
    hash_ = keys.hash_of(f"{challenge} {code}")
    tx.add(SignInCode(hash=hash_, key_id=caller.key_id, expires_at=expires))
    tx.flush()
    old = beyond(SignInCode.hash, SignInCode.key_id, caller)
    tx.execute(delete(SignInCode).where(SignInCode.hash.in_(old)))
    return code


def make_key(tx: Session, code: str, verifier: str, name: str, asked: Caller) -> tuple[ApiKey, str]:
    """A key of the person's who gave the code to the program that has the verifier: it reads and
    writes, as far as they may, in the project that they are in. `asked` says which request it was.
    Raises `Unauthenticated`.
    """
    used = SignInCode.hash == keys.hash_of(f"{pkce.challenge_of(verifier)} {code}")
    found = tx.execute(
        delete(SignInCode).where(used, SignInCode.expires_at > NOW).returning(SignInCode.key_id)
    ).scalar()
    session = tx.get(ApiKey, found) if found else None
    if session is None or session.person_id is None:
        raise Unauthenticated(
            f"This code was used before, is over {PROGRAM_CODE_SECONDS // 60} minutes old, or is "
            "another program's. Run `tunery login` again."
        )
    person = people.get(tx, session.person_id, lock=True)
    caller = replace(asked, project_id=session.project_id, key_id=session.id, person_id=person.id)
    require_live(tx, caller)
    row, key = keys.create(
        tx,
        tx.get_one(Project, session.project_id),
        [scope for scope in keys.USUAL_SCOPES if scope in session.scopes],
        name=name,
        expires_days=keys.USUAL_DAYS,
        person_id=person.id,
    )
    audit.record(tx, caller, "key.create", row.id)
    return row, key


def sweep(tx: Session) -> None:
    """Deletes what ended long ago."""
    tx.execute(delete(SignInCode).where(SignInCode.expires_at < NOW))
    tx.execute(
        delete(ApiKey).where(
            ApiKey.session_of.is_not(None), ApiKey.expires_at < from_now(-KEPT_SECONDS)
        )
    )
