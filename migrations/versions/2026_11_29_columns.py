"""A file's own names for the fields of a row."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("file", "upload"):
        op.add_column(
            table, sa.Column("columns", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
        )


def downgrade() -> None:
    for table in ("file", "upload"):
        op.drop_column(table, "columns")
