"""Projects are told of budgets that are nearly spent, by webhooks that are of no job."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

reviewed = {
    f"ALTER TABLE webhook_event ALTER COLUMN {column} DROP NOT NULL": (
        "it takes no time; the release before reads neither column, and always writes both"
    )
    for column in ("job_id", "number")
}


def upgrade() -> None:
    for column in ("device_hours_warned_at", "cost_warned_at"):
        op.add_column("project", sa.Column(column, sa.DateTime(timezone=True)))
    for column in ("job_id", "number"):
        op.alter_column("webhook_event", column, nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM webhook_event WHERE job_id IS NULL")
    for column in ("number", "job_id"):
        op.alter_column("webhook_event", column, nullable=False)
    for column in ("cost_warned_at", "device_hours_warned_at"):
        op.drop_column("project", column)
