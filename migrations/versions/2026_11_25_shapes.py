"""Base models have a shape, jobs the memory they need and a plan; a project sees the devices."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "base_model", sa.Column("shape", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.add_column(
        "job",
        sa.Column("memory_bytes", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    )
    op.add_column("job", sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.execute("GRANT SELECT (id, device, memory_bytes) ON worker TO tunery_app")


def downgrade() -> None:
    op.execute("REVOKE SELECT (id, device, memory_bytes) ON worker FROM tunery_app")
    op.drop_column("job", "plan")
    op.drop_column("job", "memory_bytes")
    op.drop_column("base_model", "shape")
