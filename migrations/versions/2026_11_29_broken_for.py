"""By which builds of workers a base model was refused."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Whether a worker of another build is there decides whether a job can be created.
SEEN = "SELECT (build, state, seen_at, left_at, quarantined_until) ON worker"


def upgrade() -> None:
    builds: sa.Column[list[str]] = sa.Column(
        "broken_for",
        postgresql.ARRAY(sa.Text()),
        server_default=sa.text("'{}'"),
        nullable=False,
    )
    op.add_column("base_model", builds)
    op.execute(f"GRANT {SEEN} TO tunery_app")


def downgrade() -> None:
    op.execute(f"REVOKE {SEEN} FROM tunery_app")
    op.drop_column("base_model", "broken_for")
