"""Bases that workers fetch."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("fetching", postgresql.JSONB(astext_type=sa.Text())))
    op.add_column(
        "worker",
        sa.Column(
            "holds", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
    )


def downgrade() -> None:
    op.drop_column("worker", "holds")
    op.drop_column("job", "fetching")
