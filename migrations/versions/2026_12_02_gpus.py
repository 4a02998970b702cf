"""How many GPUs a job needs, a worker offers to one training, and an attempt has taken."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

TABLES = ("job", "worker", "attempt")
# The app role reads of workers what decides whether a job may fit one.
SEEN = "SELECT (gpus) ON worker"


def upgrade() -> None:
    for table in TABLES:
        # A default that is no expression: no row is written anew.
        op.add_column(table, sa.Column("gpus", sa.Integer(), server_default="1", nullable=False))
    op.execute(f"GRANT {SEEN} TO tunery_app")


def downgrade() -> None:
    op.execute(f"REVOKE {SEEN} FROM tunery_app")
    for table in reversed(TABLES):
        op.drop_column(table, "gpus")
