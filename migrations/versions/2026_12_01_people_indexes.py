"""The sessions of a person, and what a report on a time over all projects is read from."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

INDEXES = {"api_key": "person_id", "attempt": "started_at", "job": "finished_at"}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, column in INDEXES.items():
            op.create_index(
                op.f(f"ix_{table}_{column}"),
                table,
                [column],
                postgresql_concurrently=True,
                if_not_exists=True,
            )


def downgrade() -> None:
    for table, column in INDEXES.items():
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
