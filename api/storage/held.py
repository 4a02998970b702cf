"""While a backup copies what is stored, nothing of it is deleted: the rows of its dump lead there.
What was to be deleted meanwhile is cleared later, as leftovers (`api.upkeep.leftovers`).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select

from api.db.session import Database
from tunery.errors import Busy

# Deletions share it; a backup has it alone.
LOCK = 0x6B657074
WAIT_SECONDS = 30.0


@contextmanager
def deleting(db: Database | None) -> Iterator[bool]:
    """Whether bytes may be deleted inside the block: no backup begins before its end."""
    if db is None:
        yield True
        return
    with db.as_control() as tx:
        yield tx.scalars(select(func.pg_try_advisory_xact_lock_shared(LOCK))).one()


def hold_deletions(connection: Connection) -> None:
    """For as long as the connection is open. Raises `Busy` while another backup is under way."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        with connection.begin():
            if connection.scalar(select(func.pg_try_advisory_lock(LOCK))):
                return
        if time.monotonic() > until:
            raise Busy("Another backup of this service is under way. Wait for its end.")
        time.sleep(WAIT_SECONDS / 100)
