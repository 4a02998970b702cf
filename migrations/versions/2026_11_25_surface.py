"""Tuned models have a name from the start, go on in other jobs, are shared and deleted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"


def name_models() -> None:
    """Those of earlier jobs as they were shown."""
    op.execute("ALTER TABLE job NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        UPDATE job SET model_name = coalesce(fine_tuned_model, concat(
            'ft:', base_model_id, ':', project.name, ':', suffix, ':', right(job.id, 8)))
        FROM project WHERE project.id = job.project_id
    """)
    op.execute("ALTER TABLE job FORCE ROW LEVEL SECURITY")


def grant() -> None:
    table = "checkpoint_permission"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"""
        CREATE POLICY own_project ON {table} TO {APP_ROLE}
        USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
    """)
    op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP_ROLE}, {CONTROL_ROLE}")


def upgrade() -> None:
    op.add_column(
        "job", sa.Column("min_protocol", sa.Integer(), server_default="2", nullable=False)
    )
    op.add_column("job", sa.Column("source_job_id", sa.Text(), nullable=True))
    op.add_column(
        "job", sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.add_column("job", sa.Column("model_name", sa.Text(), nullable=True))
    op.add_column("job", sa.Column("model_deleted_at", sa.DateTime(timezone=True), nullable=True))
    name_models()
    op.alter_column("job", "model_name", nullable=False)
    op.create_unique_constraint(op.f("uq_job_model_name"), "job", ["model_name"])
    op.create_foreign_key(op.f("fk_job_source_job_id"), "job", "job", ["source_job_id"], ["id"])
    op.create_index("ix_job_source_job_id", "job", ["source_job_id"], unique=False)
    op.create_table(
        "checkpoint_permission",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("shared_with", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_checkpoint_permission_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["shared_with"], ["project.id"], name=op.f("fk_checkpoint_permission_shared_with")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permission")),
        sa.UniqueConstraint(
            "model", "shared_with", name=op.f("uq_checkpoint_permission_model_shared_with")
        ),
        sa.UniqueConstraint("sequence", name=op.f("uq_checkpoint_permission_sequence")),
    )
    for column in ("job_id", "shared_with"):
        name = op.f(f"ix_checkpoint_permission_{column}")
        op.create_index(name, "checkpoint_permission", [column], unique=False)
    grant()


def downgrade() -> None:
    op.drop_table("checkpoint_permission")
    op.drop_index("ix_job_source_job_id", table_name="job")
    for column in ("model_deleted_at", "model_name", "source", "source_job_id", "min_protocol"):
        op.drop_column("job", column)
