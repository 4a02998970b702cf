"""API keys: `sk-tunery-`, a public part, `_`, a secret of 256 bits and a checksum of it all.

A key is shown once. Its SHA-256 is kept, and looked up by: the secret is random, so no salt is
needed, and how long the look-up takes says nothing of any other key.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from zlib import crc32

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, aliased

from api.ids import LETTERS, new_id
from api.tables import NOW, ApiKey, Person, Project, from_now
from api.tenants.projects import SCOPES, Caller
from tunery.errors import Conflict, InvalidRequest, NotFound, Unauthenticated

PREFIX = "sk-tunery-"
PREFIX_LENGTH = len(PREFIX) + 8
SECRET_LETTERS = 43
WHOLE = re.compile(rf"({PREFIX}[A-Za-z0-9]{{24}}_[A-Za-z0-9]{{{SECRET_LETTERS}}})([0-9a-f]{{8}})")
# Of before there were checksums.
EARLIER = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")

DAY = 86_400
MOST_DAYS = 3650
# Of a key that somebody makes for their own programs, where nothing else is said.
USUAL_DAYS, USUAL_SCOPES = 30, ("read", "write")
USE_NOTED_SECONDS = 60
opener = aliased(ApiKey, name="opener")
MEND = "Check the key that you send; an operator makes keys with `tunery keys create`."


def create(
    tx: Session,
    project: Project,
    scopes: Sequence[str],
    *,
    name: str | None = None,
    expires_days: float | None = None,
    session_of: str | None = None,
    person_id: str | None = None,
) -> tuple[ApiKey, str]:
    """A new key's row, and the key in the clear for the only time."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequest(
                f"{scope!r} is not a scope; use some of {', '.join(SCOPES)}.", param="scopes"
            )
    if not scopes:
        raise InvalidRequest("A key needs a scope, or it is good for nothing.", param="scopes")
    if expires_days is not None and not 0 < expires_days <= MOST_DAYS:
        raise InvalidRequest(
            f"A key lives for up to {MOST_DAYS:,} days, not {expires_days}; without a number it "
            "does not end.",
            param="expires_days",
        )
    now = tx.scalars(select(NOW)).one()
    id_ = new_id("key_")
    secret = "".join(secrets.choice(LETTERS) for _ in range(SECRET_LETTERS))
    key = f"{PREFIX}{id_.removeprefix('key_')}_{secret}"
    key += checksum(key)
    row = ApiKey(
        id=id_,
        project_id=project.id,
        hash=hash_of(key),
        prefix=key[:PREFIX_LENGTH],
        name=name,
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=None if expires_days is None else now + timedelta(days=expires_days),
        session_of=session_of,
        person_id=person_id,
    )
    tx.add(row)
    tx.flush()
    return row, key


def rotate(tx: Session, old: ApiKey, *, grace_seconds: float = 0) -> tuple[ApiKey, str]:
    """A new key of the same name, scopes and length of life, as `create` gives it. The old one ends
    after the grace.
    """
    now = tx.scalars(select(NOW)).one()
    if is_over(old, now):
        raise Conflict(f"Key {old.id} has ended. Create a new one.")
    life = (old.expires_at - old.created_at).total_seconds() / DAY if old.expires_at else None
    project = tx.get_one(Project, old.project_id)
    made = create(
        tx, project, old.scopes, name=old.name, expires_days=life, person_id=old.person_id
    )
    end = tx.scalars(select(from_now(grace_seconds))).one()
    if grace_seconds <= 0:
        old.revoked_at = now
    elif old.expires_at is None or old.expires_at > end:
        old.expires_at = end
    return made


def revoke(tx: Session, key: ApiKey) -> None:
    """Idempotent."""
    key.revoked_at = key.revoked_at or tx.scalar(select(NOW))


def get(tx: Session, project_id: str, key_id: str) -> ApiKey:
    key = tx.get(ApiKey, key_id, with_for_update=True)
    if key is None or key.project_id != project_id or key.session_of:
        raise NotFound(
            f"No key {key_id!r} in this project. GET /v1/admin/projects/{project_id}/keys lists "
            "those there are."
        )
    return key


def get_own(tx: Session, caller: Caller, key_id: str) -> ApiKey:
    """A key of the caller's own, in the project that they are in."""
    key = tx.get(ApiKey, key_id, with_for_update=True)
    own = key is not None and caller.person_id is not None and key.person_id == caller.person_id
    if key is None or not own or key.project_id != caller.project_id or key.session_of:
        raise NotFound(f"You have no key {key_id!r} here. GET /v1/me/keys lists yours.")
    return key


def find(tx: Session, named: str) -> ApiKey:
    """The live key of this id, or that begins with these first 18 characters."""
    found = tx.scalars(
        select(ApiKey)
        .where(
            or_(ApiKey.id == named, ApiKey.prefix == named[:PREFIX_LENGTH]),
            ApiKey.revoked_at.is_(None),
            ApiKey.session_of.is_(None),
        )
        .with_for_update()
    ).all()
    if len(found) != 1:
        raise NotFound(
            f"{len(found) or 'No'} live keys begin with {named[:PREFIX_LENGTH]!r}. "
            "`python -m api.admin list-keys` shows their ids."
        )
    return found[0]


def list_all(tx: Session, project_id: str) -> list[ApiKey]:
    """Newest first, those that have ended too; not those of sessions."""
    query = select(ApiKey).where(ApiKey.project_id == project_id, ApiKey.session_of.is_(None))
    return list(tx.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id)))


def caller_of(tx: Session, key: str) -> Caller:
    """The caller behind a live key, whose use is noted. A session acts as the key that it was
    opened with, for as long as that is live.
    """
    require_whole(key)
    row = tx.execute(
        select(ApiKey, Project.name, NOW.label("now"), opener, Person)
        .join(Project, Project.id == ApiKey.project_id)
        .outerjoin(opener, ApiKey.session_of == opener.id)
        .outerjoin(Person, Person.id == ApiKey.person_id)
        .where(ApiKey.hash == hash_of(key))
    ).one_or_none()
    if row is None or row.ApiKey.revoked_at is not None:
        raise Unauthenticated(f"This API key is unknown or revoked. {MEND}")
    found = row.ApiKey
    if is_over(found, row.now):
        raise Unauthenticated(
            f"This API key expired at {found.expires_at:%Y-%m-%d %H:%M} UTC. {MEND}"
        )
    if row.opener and is_over(row.opener, row.now):
        raise Unauthenticated(f"The API key that this session was opened with has ended. {MEND}")
    unnoted = func.coalesce(ApiKey.last_used_at < from_now(-USE_NOTED_SECONDS), True)
    used = found.last_used_at
    if used is None or (row.now - used).total_seconds() > USE_NOTED_SECONDS:
        # Others may be at it: the first notes it.
        tx.execute(update(ApiKey).where(ApiKey.id == found.id, unnoted).values(last_used_at=NOW))
    return Caller(
        project_id=found.project_id,
        project=row.name,
        scopes=frozenset(found.scopes),
        key_id=found.session_of or found.id,
        in_session=found.session_of is not None,
        has_key=found.session_of != found.id,
        person_id=found.person_id,
        person=row.Person.label if row.Person else None,
    )


def live_caller(tx: Session, key: str) -> Caller | None:
    """The caller behind a key, if it is live still."""
    try:
        return caller_of(tx, key)
    except Unauthenticated:
        return None


def is_over(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now)


def require_whole(key: str) -> None:
    """Refuses, without a look into the database, what cannot be a key of ours."""
    whole = WHOLE.fullmatch(key)
    if whole is None and not EARLIER.fullmatch(key):
        raise Unauthenticated(
            f"This is not an API key of this service: those begin with {PREFIX!r} and have "
            f"{len(PREFIX) + 24 + 1 + SECRET_LETTERS + 8} characters. {MEND}"
        )
    if whole and checksum(whole[1]) != whole[2]:
        raise Unauthenticated(f"This API key is mistyped: its checksum does not fit. {MEND}")


def checksum(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


def hash_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()
