"""A base model is known not to be for Ollama, if so."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("base_model", sa.Column("not_for_ollama", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("base_model", "not_for_ollama")
