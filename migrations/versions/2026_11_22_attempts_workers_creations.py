"""Attempts, workers, answered creates, the API's attendance; jobs can be paused."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"

PROJECT_TABLES = ("attempt", "creation")
OTHER_TABLES = ("worker", "attendance")
STATES = ["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
WISHES = ["run", "cancel"]


def grant() -> None:
    for table in PROJECT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY own_project ON {table} TO {APP_ROLE}
            USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
        """)
        op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP_ROLE}")
    for table in (*PROJECT_TABLES, *OTHER_TABLES):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {CONTROL_ROLE}")


def allow(column: str, values: list[str]) -> None:
    """What the column of a job may hold."""
    words = ", ".join(f"'{value}'" for value in values)
    op.drop_constraint(op.f(f"ck_job_{column}"), "job", type_="check")
    op.create_check_constraint(op.f(f"ck_job_{column}"), "job", f"{column} IN ({words})")


def upgrade() -> None:
    op.create_table(
        "attendance",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_attendance_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attendance")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("build", sa.Text(), nullable=True),
        sa.Column("protocol", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_job_id", sa.Text(), nullable=True),
        sa.Column("quarantined_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('active', 'draining')", name=op.f("ck_worker_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "creation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("reply", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_creation_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_creation")),
        sa.UniqueConstraint("project_id", "key", name=op.f("uq_creation_project_id_key")),
    )
    op.create_index(op.f("ix_creation_created_at"), "creation", ["created_at"], unique=False)
    op.create_index(
        op.f("ix_creation_project_id_fingerprint_created_at"),
        "creation",
        ["project_id", "fingerprint", "created_at"],
        unique=False,
    )
    op.create_table(
        "attempt",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'cancelled', 'paused', 'lost', 'released')",
            name=op.f("ck_attempt_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_attempt_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "token", name=op.f("pk_attempt")),
    )
    op.create_index(op.f("ix_attempt_ended_at"), "attempt", ["ended_at"], unique=False)
    op.add_column(
        "job", sa.Column("infra_failures", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "job", sa.Column("oom_failures", sa.Integer(), server_default="0", nullable=False)
    )
    op.create_index(op.f("ix_job_state_finished_at"), "job", ["state", "finished_at"], unique=False)
    allow("state", [*STATES, "paused"])
    allow("desired_state", [*WISHES, "pause"])
    grant()


def downgrade() -> None:
    allow("desired_state", WISHES)
    allow("state", STATES)
    op.drop_index(op.f("ix_job_state_finished_at"), table_name="job")
    op.drop_column("job", "oom_failures")
    op.drop_column("job", "infra_failures")
    op.drop_index(op.f("ix_attempt_ended_at"), table_name="attempt")
    op.drop_table("attempt")
    op.drop_index(op.f("ix_creation_project_id_fingerprint_created_at"), table_name="creation")
    op.drop_index(op.f("ix_creation_created_at"), table_name="creation")
    op.drop_table("creation")
    op.drop_table("worker")
    op.drop_table("attendance")
