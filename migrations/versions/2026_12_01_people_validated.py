"""Each row's person is one that is known."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("api_key", "audit", "job"):
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT fk_{table}_person_id")


def downgrade() -> None:
    pass
