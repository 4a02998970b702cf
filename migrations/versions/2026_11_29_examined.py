"""What was found of a base model's family."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("base_model", sa.Column("examined", postgresql.JSONB(astext_type=sa.Text())))


def downgrade() -> None:
    op.drop_column("base_model", "examined")
