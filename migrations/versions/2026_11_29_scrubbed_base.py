"""How far the scrub has come in base models' files."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key: sa.Column[str] = sa.Column("scrubbed_base", sa.Text(), server_default="", nullable=False)
    op.add_column("storage_folder", key)


def downgrade() -> None:
    op.drop_column("storage_folder", "scrubbed_base")
