"""Whether a tuned model is better than its base: the answers of both, and the verdict."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

APP_ROLE, CONTROL_ROLE = "tunery_app", "tunery_control"
OF_PROJECT = "NULLIF(current_setting('tunery.project', true), '')"


def upgrade() -> None:
    json = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("job", sa.Column("evaluation", json, nullable=True))
    op.add_column("job", sa.Column("judge_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_job_judge_at", "job", ["judge_at"], postgresql_where=sa.text("judge_at IS NOT NULL")
    )
    op.create_table(
        "evaluation_row",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("row", json, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_evaluation_row_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "line", name=op.f("pk_evaluation_row")),
    )
    op.execute("ALTER TABLE evaluation_row ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE evaluation_row FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY own_project ON evaluation_row TO {APP_ROLE} USING (project_id = {OF_PROJECT})"
    )
    op.execute(f"CREATE POLICY every_project ON evaluation_row TO {CONTROL_ROLE} USING (true)")
    op.execute(f"GRANT SELECT, DELETE ON evaluation_row TO {APP_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON evaluation_row TO {CONTROL_ROLE}")


def downgrade() -> None:
    op.drop_table("evaluation_row")
    op.drop_index("ix_job_judge_at", "job")
    op.drop_column("job", "judge_at")
    op.drop_column("job", "evaluation")
