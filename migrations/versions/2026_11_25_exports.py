"""An export of what a job has trained is a row of the job table."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("exported_job_id", sa.Text(), nullable=True))
    op.add_column(
        "job", sa.Column("export", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.create_foreign_key(
        op.f("fk_job_project_id_exported_job_id"),
        "job",
        "job",
        ["project_id", "exported_job_id"],
        ["project_id", "id"],
    )
    op.create_check_constraint(
        op.f("ck_job_export"), "job", "(export IS NULL) = (exported_job_id IS NULL)"
    )
    op.create_index(
        "ix_job_exported_job_id",
        "job",
        ["exported_job_id", "sequence"],
        unique=False,
        postgresql_where=sa.text("exported_job_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute("ALTER TABLE job NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        DELETE FROM lease USING job WHERE job.id = lease.job_id AND exported_job_id IS NOT NULL
    """)
    op.execute("DELETE FROM job WHERE exported_job_id IS NOT NULL")
    op.execute("ALTER TABLE job FORCE ROW LEVEL SECURITY")
    op.drop_index("ix_job_exported_job_id", table_name="job")
    op.drop_constraint(op.f("ck_job_export"), "job", type_="check")
    op.drop_constraint(op.f("fk_job_project_id_exported_job_id"), "job", type_="foreignkey")
    op.drop_column("job", "export")
    op.drop_column("job", "exported_job_id")
