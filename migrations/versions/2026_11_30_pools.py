"""The pool of machines that a worker belongs to, and that an attempt was made in."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The app role reads of workers what decides whether a job may fit one.
SEEN = "SELECT (pool) ON worker"


def upgrade() -> None:
    for table in ("worker", "attempt"):
        # A default that is no expression: no row is written anew.
        op.add_column(table, sa.Column("pool", sa.Text(), server_default="default", nullable=False))
    op.execute(f"GRANT {SEEN} TO tunery_app")


def downgrade() -> None:
    op.execute(f"REVOKE {SEEN} FROM tunery_app")
    for table in ("attempt", "worker"):
        op.drop_column(table, "pool")
