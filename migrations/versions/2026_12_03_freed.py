"""When an attempt's worker was at another job and only sent the results of this one."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("freed_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("attempt", "freed_at")
