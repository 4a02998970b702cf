"""What models are asked, for as long as somebody waits for the answer; and how much it was."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

APP_ROLE, CONTROL_ROLE = "tunery_app", "tunery_control"
OF_PROJECT = "NULLIF(current_setting('tunery.project', true), '')"


def upgrade() -> None:
    op.create_table(
        "completion",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("quantization", sa.Text(), nullable=True),
        sa.Column("double_quant", sa.Boolean(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("sampling", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("given_back_by", sa.Text(), nullable=True),
        sa.Column(
            "free_since",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
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
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_completion_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completion")),
        prefixes=["UNLOGGED"],
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(op.f("ix_completion_project_id"), "completion", ["project_id"])
    op.create_table(
        "answered",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_answered_project_id")
        ),
        sa.PrimaryKeyConstraint("project_id", "day", name=op.f("pk_answered")),
    )
    for table, allowed in {"completion": "SELECT, INSERT", "answered": "SELECT"}.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY own_project ON {table} TO {APP_ROLE} USING (project_id = {OF_PROJECT})"
        )
        op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")
        op.execute(f"GRANT {allowed} ON {table} TO {APP_ROLE}")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {CONTROL_ROLE}")


def downgrade() -> None:
    op.drop_table("answered")
    op.drop_table("completion")
