"""/v1/me/keys: what people who sign in at the provider make for their own programs. Such a key may
no more than they may, and ends when they lose that.
"""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from api.http.dependencies import AServer, Reader
from api.http.routing import Route
from api.http.shapes import Deleted, Page, Request, Word, page
from api.tenants import audit, keys, people, projects, sessions
from api.tenants.projects import Scope
from api.tenants.schemas import KeyId, KeyObject, NewKeyObject, RotateKey
from tunery.errors import InvalidRequest

router = APIRouter(prefix="/v1/me/keys", route_class=Route, tags=["Projects"])

MOST_DAYS = 90


class CreateMyKey(Request):
    """A key of one's own to create, in the project that one is in."""

    name: Annotated[Word, Field(max_length=100, examples=["laptop"])] | None = None
    """Name of the key, for people; null: it has none."""
    scopes: Annotated[tuple[Scope, ...], Field(max_length=16, examples=[["read"]])] | None = None
    """What the key may do; null: `read` and `write`, as far as one may that oneself."""
    expires_days: Annotated[float, Field(gt=0, le=MOST_DAYS, examples=[30])] = keys.USUAL_DAYS
    """Days until the key expires, up to 90."""


@router.get("")
def list_keys(server: AServer, caller: Reader) -> Page[KeyObject]:
    """The person's own keys in this project, newest first, those that have ended too."""
    with server.db.as_control() as tx:
        rows = [
            key
            for key in keys.list_all(tx, caller.project_id)
            if caller.person_id and key.person_id == caller.person_id
        ]
    return page(rows, len(rows), KeyObject.of)


@router.post("")
def create(asked: CreateMyKey, server: AServer, caller: Reader) -> NewKeyObject:
    """Creates a key of one's own. The key itself is shown this once."""
    person_id = people.require_in_person(caller)
    scopes = asked.scopes or [one for one in keys.USUAL_SCOPES if one in caller.scopes]
    if more := sorted(set(scopes) - caller.scopes):
        raise InvalidRequest(
            f"You may not {' or '.join(more)} here, so no key of yours may. Leave it out.",
            param="scopes",
        )
    with server.db.as_control() as tx:
        people.get(tx, person_id, lock=True)
        sessions.require_live(tx, caller)
        row, key = keys.create(
            tx,
            projects.get(tx, caller.project_id),
            scopes,
            name=asked.name,
            expires_days=asked.expires_days,
            person_id=person_id,
        )
        audit.record(tx, caller, "key.create", row.id)
    return NewKeyObject.made(row, key)


@router.post("/{key_id}/rotate")
def rotate(
    key_id: KeyId, server: AServer, caller: Reader, asked: RotateKey | None = None
) -> NewKeyObject:
    """A new key in place of this one, which ends at once or after the grace."""
    with server.db.as_control() as tx:
        if caller.person_id:
            people.get(tx, caller.person_id, lock=True)
        old = keys.get_own(tx, caller, key_id)
        people.require_in_person(caller)
        sessions.require_live(tx, caller)
        row, key = keys.rotate(tx, old, grace_seconds=asked.grace_seconds if asked else 0)
        audit.record(tx, caller, "key.rotate", key_id)
        audit.record(tx, caller, "key.create", row.id)
    return NewKeyObject.made(row, key)


@router.delete("/{key_id}")
def revoke(key_id: KeyId, server: AServer, caller: Reader) -> Deleted:
    """Revokes a key of one's own."""
    with server.db.as_control() as tx:
        keys.revoke(tx, keys.get_own(tx, caller, key_id))
        audit.record(tx, caller, "key.revoke", key_id)
    return Deleted(id=key_id, object="api_key")
