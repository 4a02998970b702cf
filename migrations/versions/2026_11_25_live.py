"""A job's events are told to those who follow it; a job has its estimate, an attempt its log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def create_logs() -> None:
    op.create_table(
        "log_part",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_log_part_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "token", "start", name=op.f("pk_log_part")),
    )
    op.execute("ALTER TABLE log_part ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE log_part FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY own_project ON log_part TO tunery_app
        USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
    """)
    op.execute("CREATE POLICY every_project ON log_part TO tunery_control USING (true)")
    op.execute("GRANT SELECT ON log_part TO tunery_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON log_part TO tunery_control")


def upgrade() -> None:
    op.add_column(
        "job", sa.Column("estimate", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.add_column("job", sa.Column("estimated_finish", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_job_succeeded",
        "job",
        ["project_id", "base_model_id", "finished_at"],
        postgresql_where=sa.text("state = 'succeeded'"),
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
    create_logs()


def downgrade() -> None:
    op.drop_table("log_part")
    op.execute("DROP TRIGGER events_are_told ON event")
    op.execute("DROP FUNCTION tell_of_news")
    op.drop_index("ix_job_succeeded", table_name="job")
    op.drop_column("job", "estimated_finish")
    op.drop_column("job", "estimate")
