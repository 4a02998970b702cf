"""Each new migration lets the release before run on (decision 0018)."""

from types import SimpleNamespace
from typing import Any

import pytest
from alembic import op
from alembic.script import ScriptDirectory

from api.db.revision import PREVIOUS, alembic_config
from tests.api.db.expanding import Judge, statements_of


def test_each_migration_since_the_release_before_only_adds() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    since = list(script.iterate_revisions("heads", PREVIOUS["revision"]))
    judge = Judge()
    for one in reversed(since):
        found = judge.faults(statements_of(one.module), getattr(one.module, "reviewed", None))
        assert not found, f"{one.path}\n" + "\n".join(found)


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE job ADD COLUMN pool TEXT DEFAULT 'default' NOT NULL"],
        ["ALTER TABLE job ADD COLUMN a TEXT, ADD COLUMN b TIMESTAMP WITH TIME ZONE"],
        ["ALTER TABLE job ADD CONSTRAINT few CHECK (a < 3) NOT VALID"],
        ["ALTER TABLE job VALIDATE CONSTRAINT few"],
        ["COMMIT", "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON job (a, b)", "BEGIN"],
        [
            "CREATE TABLE budget (id TEXT NOT NULL, FOREIGN KEY(id) REFERENCES project (id))",
            "CREATE UNIQUE INDEX ix ON budget (id)",
            "ALTER TABLE budget ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY every_project ON budget TO tunery_control USING (true)",
            "GRANT SELECT ON budget TO tunery_app",
            "INSERT INTO budget VALUES ('a')",
        ],
    ],
)
def test_what_only_adds_passes(statements: list[str]) -> None:
    assert Judge().faults(statements) == []


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["ALTER TABLE job ADD COLUMN a TEXT NOT NULL"], "server_default"),
        (["ALTER TABLE job ADD COLUMN a TEXT DEFAULT clock_timestamp() NOT NULL"], "constant"),
        (["ALTER TABLE job ADD COLUMN a TEXT REFERENCES file (id)"], "NOT VALID"),
        (["ALTER TABLE job ADD CONSTRAINT few CHECK (a < 3)"], "NOT VALID"),
        (
            [
                "ALTER TABLE job ADD CONSTRAINT few CHECK (a < 3) NOT VALID",
                "ALTER TABLE job VALIDATE CONSTRAINT few",
            ],
            "next migration",
        ),
        (["ALTER TABLE job DROP COLUMN plan"], "in the next one"),
        (["ALTER TABLE job ADD COLUMN a TEXT, DROP COLUMN plan"], "in the next one"),
        (["ALTER TABLE job RENAME plan TO plans"], "in the next one"),
        (["ALTER TABLE job ALTER COLUMN seed TYPE TEXT"], "in the next one"),
        (["ALTER TABLE job ALTER COLUMN plan SET NOT NULL"], "insert NULL"),
        (["ALTER TABLE job ENABLE ROW LEVEL SECURITY"], "reviewed"),
        (["DROP TABLE lease"], "in the next one"),
        (["REVOKE SELECT ON job FROM tunery_app"], "in the next one"),
        (["UPDATE job SET plan = NULL"], "in batches"),
        (["CREATE INDEX ix ON job (seed)"], "postgresql_concurrently"),
        (["COMMIT", "CREATE INDEX CONCURRENTLY ix ON job (seed)", "BEGIN"], "if_not_exists"),
        (["CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON job (seed)"], "autocommit_block"),
        (["CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS ix ON job (seed)"], "refuses"),
        (
            [
                "ALTER TABLE job ADD COLUMN a TEXT",
                "COMMIT",
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON job (a)",
                "BEGIN",
            ],
            "a migration of its own",
        ),
        (["VACUUM job"], "reviewed"),
    ],
)
def test_what_does_more_is_refused_in_words(statements: list[str], words: str) -> None:
    found = Judge().faults(statements)
    assert any(words in fault for fault in found), found


def test_what_is_reviewed_passes_and_must_be_there() -> None:
    drop = "ALTER TABLE job DROP COLUMN plan"
    assert Judge().faults([drop], {drop: "0.2.0 was the last to read it"}) == []
    assert Judge().faults([], {drop: "0.2.0 was the last to read it"})


def test_the_statements_are_read_from_what_a_migration_sends() -> None:
    def upgrade() -> None:
        op.execute("ALTER TABLE job ADD a TEXT; GRANT SELECT ON job TO tunery_app")
        with op.get_context().autocommit_block():
            op.create_index("ix", "job", ["a"], postgresql_concurrently=True, if_not_exists=True)

    migration: Any = SimpleNamespace(upgrade=upgrade)
    assert statements_of(migration) == [
        "ALTER TABLE job ADD a TEXT",
        "GRANT SELECT ON job TO tunery_app",
        "COMMIT",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON job (a)",
        "BEGIN",
    ]
