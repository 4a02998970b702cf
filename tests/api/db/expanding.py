"""Whether a migration only adds, and lets others work meanwhile (decision 0018): read from the SQL
that it sends.

What is listed here is known to be safe; whatever else is refused. A migration that does it all the
same says so: `reviewed = {STATEMENT: REASON}` in its module.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

NAME = r'"?(\w+)"?'
FUNCTION = re.compile(r"CREATE (OR REPLACE )?FUNCTION|DO ")
ALTER = re.compile(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{NAME} (.*)")
INDEX = re.compile(rf"CREATE (UNIQUE )?INDEX (CONCURRENTLY )?(IF NOT EXISTS )?\S+ ON {NAME}")
ON_TABLE = re.compile(
    rf"(?:CREATE (?:CONSTRAINT )?TRIGGER|CREATE POLICY).* ON {NAME}|INSERT INTO {NAME}"
)
VALIDATE = re.compile(rf"ALTER TABLE {NAME} VALIDATE CONSTRAINT {NAME}$")

TWO_RELEASES = (
    "the version before still runs on this schema. Stop using it in this release, and remove it in "
    "the next one"
)


def statements_of(migration: Any) -> list[str]:
    """What its `upgrade` sends, each on one line, with the BEGIN and COMMIT around what runs
    outside of its transaction.
    """
    said: list[str] = []
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "transaction_per_migration": True}
    )
    context.impl.static_output = said.append  # type: ignore[method-assign, assignment]
    with context.begin_transaction(_per_migration=True), Operations.context(context):
        migration.upgrade()
    return [one for text in said[1:-1] for one in split(text)]


def split(text: str) -> list[str]:
    parts = [text] if FUNCTION.match(text.strip()) else text.split(";")
    return [line for part in parts if (line := " ".join(part.split()).rstrip("; "))]


class Judge:
    """Of one release's migrations, oldest first. What is done to a table that the release makes is
    nobody's business yet.
    """

    def __init__(self) -> None:
        self.new: set[str] = set()

    def faults(
        self, statements: Sequence[str], reviewed: Mapping[str, str] | None = None
    ) -> list[str]:
        """Each in words, of one migration."""
        reviewed = reviewed or {}
        found = [f"`{one}` is reviewed and not there" for one in reviewed if one not in statements]
        found += [
            f"`{statement}`: {why}"
            for statement in statements
            if statement not in reviewed and (why := self.fault(statement))
        ]
        return found + list(transactions(statements))

    def fault(self, statement: str) -> str | None:
        if statement in {"BEGIN", "COMMIT"}:
            return None
        if made := re.match(rf"CREATE (?:UNLOGGED )?TABLE {NAME}", statement):
            self.new.add(made[1])
            return None
        if re.match(r"GRANT |COMMENT ON |CREATE FUNCTION ", statement):
            return None
        if altered := ALTER.match(statement):
            if altered[1] in self.new:
                return None
            whys = map(fault_of_change, re.split(r", (?=(?:ADD|DROP|ALTER|VALIDATE) )", altered[2]))
            return next(filter(None, whys), None)
        if index := INDEX.match(statement):
            return None if index[4] in self.new else fault_of_index(*index.groups()[:3])
        if (on := ON_TABLE.match(statement)) and (on[1] or on[2]) in self.new:
            return None
        if re.match(r"UPDATE |DELETE |INSERT ", statement):
            return (
                "all rows in one transaction, with their locks. Fill a column where it is read, or "
                "in the janitor, in batches"
            )
        if re.match(r"DROP |REVOKE ", statement):
            return TWO_RELEASES
        return "not known to be safe. Say in `reviewed` why it is"


def fault_of_change(change: str) -> str | None:
    """Of one part of an ALTER TABLE, on a table that has rows and users."""
    if change.startswith("ADD COLUMN "):
        default = re.search(r" DEFAULT (.*?)(?: NOT NULL)?$", change)
        if " NOT NULL" in change and not default:
            return (
                "the version before inserts rows without it. Give it a server_default, or let it "
                "be nullable"
            )
        volatile = default and "(" in default[1] and default[1] != "now()"
        if volatile or re.search(r" GENERATED | (BIG|SMALL)?SERIAL\b", change):
            return "each row is written anew, under a lock. Take a constant as default"
        if re.search(r" (UNIQUE|PRIMARY KEY|REFERENCES|CHECK)\b", change):
            return "the table is read under a lock. Add the constraint apart, NOT VALID"
        return None
    if change.startswith("ADD CONSTRAINT "):
        if change.endswith(" NOT VALID") or " USING INDEX " in change:
            return None
        return (
            "the table is read under a lock. Add it NOT VALID, and validate it in a migration of "
            "its own"
        )
    if change.startswith("VALIDATE CONSTRAINT ") or " SET DEFAULT " in change:
        return None
    if " SET NOT NULL" in change:
        return (
            "the table is read under a lock, and the version before may insert NULL. Add "
            "CHECK (... IS NOT NULL) NOT VALID, a release after the first that always writes it"
        )
    if re.match(r"DROP |RENAME |ALTER COLUMN \S+ (TYPE|DROP) ", change):
        return TWO_RELEASES
    return "not known to be safe. Say in `reviewed` why it is"


def fault_of_index(unique: str | None, concurrently: str | None, again: str | None) -> str | None:
    if unique:
        return "the version before may write what it refuses. Say in `reviewed` why it does not"
    if not concurrently:
        return (
            "nobody can write to the table meanwhile. Make it with postgresql_concurrently=True "
            "and if_not_exists=True, in an autocommit_block"
        )
    if not again:
        return "if it is broken off it is done again: say if_not_exists=True"
    return None


def transactions(statements: Sequence[str]) -> Iterator[str]:
    """What is wrong about which of them are done together."""
    outside, concurrent = False, [one for one in statements if " CONCURRENTLY " in one]
    for statement in statements:
        outside = {"COMMIT": True, "BEGIN": False}.get(statement, outside)
        if statement in concurrent and not outside:
            yield f"`{statement}`: only in an autocommit_block"
        validated = VALIDATE.match(statement)
        if validated and any(f"ADD CONSTRAINT {validated[2]} " in one for one in statements):
            yield (
                f"`{statement}`: in the transaction that adds it, whose lock it keeps for as long "
                "as it reads. Put it into the next migration"
            )
    others = [one for one in statements if one not in concurrent and one not in {"BEGIN", "COMMIT"}]
    if concurrent and others:
        yield (
            f"`{others[0]}`: beside an index that is made concurrently, and done twice when that "
            "is broken off. Put the index into a migration of its own"
        )
