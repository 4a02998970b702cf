"""A base's chat template, where an operator gave it one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("base_model", sa.Column("chat_template", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("base_model", "chat_template")
