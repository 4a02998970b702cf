"""People who sign in at a provider, who made which job, and what devices cost."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

CONTROL_ROLE = "tunery_control"
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("rights", postgresql.JSONB(), nullable=False),
        sa.Column("last_project_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("signed_in_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["last_project_id"], ["project.id"], name=op.f("fk_person_last_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_person_issuer_subject")),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON person TO {CONTROL_ROLE}")
    for table in ("api_key", "audit", "job"):
        op.add_column(table, sa.Column("person_id", sa.Text()))
        # Without reading the table; a migration after this one does that, and lets others write.
        op.create_foreign_key(
            op.f(f"fk_{table}_person_id"),
            table,
            "person",
            ["person_id"],
            ["id"],
            postgresql_not_valid=True,
        )
    op.add_column("job", sa.Column("key_id", sa.Text()))
    op.add_column("project", sa.Column("most_cost", sa.Double()))
    op.add_column("attempt", sa.Column("price_per_hour", sa.Double()))
    op.add_column("attempt", sa.Column("currency", sa.Text()))


def downgrade() -> None:
    op.drop_column("attempt", "currency")
    op.drop_column("attempt", "price_per_hour")
    op.drop_column("project", "most_cost")
    op.drop_column("job", "key_id")
    # Without whose they are, keys of people would be anybody's.
    op.execute("UPDATE api_key SET revoked_at = clock_timestamp() WHERE person_id IS NOT NULL")
    for table in ("job", "audit", "api_key"):
        op.drop_column(table, "person_id")
    op.drop_table("person")
