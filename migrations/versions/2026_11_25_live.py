"""A job's events are told to those who follow it."""

from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
