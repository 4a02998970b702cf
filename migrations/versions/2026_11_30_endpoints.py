"""Servers of operators that answer, and what they were found to answer with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

APP_ROLE, CONTROL_ROLE = "tunery_app", "tunery_control"
OF_PROJECT = "NULLIF(current_setting('tunery.project', true), '')"
NOW = sa.text("clock_timestamp()")
STATES = "'verified', 'answers_as_base', 'answers_as_other', 'unverified'"


def time(name: str, *, now: bool) -> sa.Column[object]:
    kind = sa.DateTime(timezone=True)
    return sa.Column(name, kind, server_default=NOW if now else None, nullable=not now)


def upgrade() -> None:
    op.create_table(
        "answering_endpoint",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("bases", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column("their_folder", sa.Text(), nullable=True),
        sa.Column("most_adapters", sa.BigInteger(), nullable=False),
        sa.Column("names", postgresql.JSONB(), nullable=False),
        sa.Column("trouble", sa.Text(), nullable=True),
        time("checked_at", now=False),
        time("next_at", now=True),
        time("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answering_endpoint")),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON answering_endpoint TO {CONTROL_ROLE}")
    op.create_table(
        "served_model",
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("loaded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), server_default="unverified", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("finding", postgresql.JSONB(), nullable=True),
        time("attested_at", now=False),
        time("next_at", now=True),
        time("used_at", now=True),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_served_model_state")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["answering_endpoint.id"],
            name=op.f("fk_served_model_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_served_model_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("endpoint_id", "model", name=op.f("pk_served_model")),
    )
    op.create_index(op.f("ix_served_model_job_id"), "served_model", ["job_id"])
    op.execute("ALTER TABLE served_model ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE served_model FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY own_project ON served_model TO {APP_ROLE} USING (project_id = {OF_PROJECT})"
    )
    op.execute(f"CREATE POLICY every_project ON served_model TO {CONTROL_ROLE} USING (true)")
    op.execute(f"GRANT SELECT ON served_model TO {APP_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON served_model TO {CONTROL_ROLE}")


def downgrade() -> None:
    op.drop_table("served_model")
    op.drop_table("answering_endpoint")
