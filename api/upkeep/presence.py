"""Which janitors are there: each tells of itself, and of the Redis by which it wakes workers."""

from importlib.metadata import version

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.tables import NOW, Janitor, from_now

FORGOTTEN_SECONDS = 24 * 3600.0


def tell(tx: Session, janitor_id: str, *, wakes: bool, redis_trouble: str | None) -> None:
    """It is there now. Those that were not heard of for a day are forgotten."""
    told = {
        "version": version("tunery"),
        "wakes": wakes,
        "redis_trouble": redis_trouble,
        "seen_at": NOW,
    }
    tx.execute(
        insert(Janitor)
        .values(id=janitor_id, **told)
        .on_conflict_do_update(index_elements=[Janitor.id], set_=told)
    )
    tx.execute(delete(Janitor).where(Janitor.seen_at < from_now(-FORGOTTEN_SECONDS)))
