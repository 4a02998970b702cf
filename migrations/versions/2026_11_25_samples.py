"""What a job's model said at its checkpoints."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sample_set",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("samples", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_sample_set_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_sample_set")),
    )
    op.execute("ALTER TABLE sample_set ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE sample_set FORCE ROW LEVEL SECURITY")
    op.execute("""
        CREATE POLICY own_project ON sample_set TO tunery_app
        USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
    """)
    op.execute("CREATE POLICY every_project ON sample_set TO tunery_control USING (true)")
    op.execute("GRANT SELECT, DELETE ON sample_set TO tunery_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON sample_set TO tunery_control")


def downgrade() -> None:
    op.drop_table("sample_set")
