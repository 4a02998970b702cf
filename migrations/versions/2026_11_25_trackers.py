"""Keys for trackers, and the runs that are told there."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"


def upgrade() -> None:
    op.create_table(
        "tracker_key",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("tracker", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_tracker_key_project_id")
        ),
        sa.PrimaryKeyConstraint("project_id", "tracker", name=op.f("pk_tracker_key")),
    )
    op.create_table(
        "tracked_run",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("told_step", sa.BigInteger(), server_default="-1", nullable=False),
        sa.Column("claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column(
            "next_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=True,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_tracked_run_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_tracked_run")),
    )
    op.create_index(
        "ix_tracked_run_next",
        "tracked_run",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    for table in ("tracker_key", "tracked_run"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY own_project ON {table} TO {APP_ROLE}
            USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
        """)
        op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {CONTROL_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON tracker_key TO {APP_ROLE}")
    op.execute(f"GRANT SELECT, INSERT ON tracked_run TO {APP_ROLE}")


def downgrade() -> None:
    op.drop_index(
        "ix_tracked_run_next",
        table_name="tracked_run",
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    op.drop_table("tracked_run")
    op.drop_table("tracker_key")
