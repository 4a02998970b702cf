"""Sessions of the console: somebody shows a key, or a link that was made with one, and from then on
the browser bears a key of its own. It acts as the one that was shown, ends after some hours, by
signing out, and with that key.
"""

import secrets
from typing import Any, NamedTuple

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.tables import NOW, ApiKey, Project, SignInCode, from_now
from api.tenants import audit, keys
from api.tenants.projects import Caller
from tunery.errors import Forbidden, Unauthenticated

HOURS = 12
# Of one key: each more ends the oldest. Codes too.
MOST = 50
CODE_SECONDS = 15 * 60
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
    )
    audit.record(tx, caller, "session.open", row.id)
    tx.execute(delete(ApiKey).where(ApiKey.id.in_(beyond(ApiKey.id, ApiKey.session_of, caller))))
    return Opened(key, caller)


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


def sweep(tx: Session) -> None:
    """Deletes what ended long ago."""
    tx.execute(delete(SignInCode).where(SignInCode.expires_at < NOW))
    tx.execute(
        delete(ApiKey).where(
            ApiKey.session_of.is_not(None), ApiKey.expires_at < from_now(-KEPT_SECONDS)
        )
    )
