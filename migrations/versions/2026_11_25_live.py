"""A job's events are told to those who follow it; a job has its estimate, a queue its order."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0003"
branch_labels = None
depends_on = None


QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    op.add_column(
        "job", sa.Column("estimate", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.add_column("job", sa.Column("estimated_finish", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_job_queued", table_name="job", postgresql_where=QUEUED)
    op.create_index(
        "ix_job_queued", "job", ["available_at", "sequence"], postgresql_where=QUEUED
    )
    op.execute("""
        CREATE FUNCTION tell_of_news() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('tunery_job', NEW.job_id);
            RETURN NULL;
        END $$
    """)
    # Postgres tells a transaction's equal words once.
    op.execute("""
        CREATE TRIGGER events_are_told AFTER INSERT ON event FOR EACH ROW
        EXECUTE FUNCTION tell_of_news()
    """)


def downgrade() -> None:
    op.execute("DROP TRIGGER events_are_told ON event")
    op.execute("DROP FUNCTION tell_of_news")
    op.drop_index("ix_job_queued", table_name="job", postgresql_where=QUEUED)
    op.create_index("ix_job_queued", "job", ["available_at"], postgresql_where=QUEUED)
    op.drop_column("job", "estimated_finish")
    op.drop_column("job", "estimate")
