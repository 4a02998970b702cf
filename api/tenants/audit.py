"""Who changed what, and when: one row for each change, in the transaction that makes it."""

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from api.tables import AuditEntry, Person
from api.tenants.projects import Caller
from tunery.errors import InvalidRequest


def record(
    tx: Session,
    caller: Caller | None,
    action: str,
    subject: str,
    *,
    project_id: str | None = None,
) -> None:
    """`action` is a thing and what was done with it, as in `job.cancel`; `subject` its id. The
    project is the caller's where none is given. No caller: an operator at the database.
    """
    row = {
        "project_id": project_id or (caller.project_id if caller else None),
        "key_id": caller.key_id if caller else None,
        "person_id": caller.person_id if caller else None,
        "request_id": caller.request_id if caller else None,
        "address": caller.address if caller else None,
        "action": action,
        "subject": subject,
    }
    # Inline: a project's role may add rows and not read them, be it the new one's number.
    tx.execute(insert(AuditEntry).values(row).inline())


def list_newest(
    tx: Session, *, limit: int, after: int | None, project_id: str | None, action: str | None
) -> list[tuple[AuditEntry, Person | None]]:
    """Up to `limit` + 1 entries, below number `after`, with who did it."""
    query = select(AuditEntry, Person).outerjoin(Person, Person.id == AuditEntry.person_id)
    if project_id:
        query = query.where(AuditEntry.project_id == project_id)
    if action:
        query = query.where(AuditEntry.action == action)
    if after is not None:
        query = query.where(AuditEntry.id < after)
    rows = tx.execute(query.order_by(AuditEntry.id.desc()).limit(limit + 1))
    return [(entry, person) for entry, person in rows]


def number_of(entry_id: str) -> int:
    """Of `audit-NUMBER`."""
    word, _, number = entry_id.partition("-")
    if word != "audit" or not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise InvalidRequest(f"No audit entry {entry_id!r} to continue after.", param="after")
    return int(number)
