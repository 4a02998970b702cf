"""Sessions of the console, and the links that open one."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CONTROL_ROLE = "tunery_control"


def upgrade() -> None:
    op.add_column("api_key", sa.Column("session_of", sa.Text()))
    op.create_foreign_key(
        op.f("fk_api_key_session_of"), "api_key", "api_key", ["session_of"], ["id"]
    )
    op.create_index(op.f("ix_api_key_session_of"), "api_key", ["session_of"])
    op.create_table(
        "sign_in_code",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_key.id"], name=op.f("fk_sign_in_code_key_id")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sign_in_code")),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON sign_in_code TO {CONTROL_ROLE}")


def downgrade() -> None:
    op.drop_table("sign_in_code")
    op.execute("DELETE FROM api_key WHERE session_of IS NOT NULL")
    op.drop_index(op.f("ix_api_key_session_of"), "api_key")
    op.drop_constraint(op.f("fk_api_key_session_of"), "api_key")
    op.drop_column("api_key", "session_of")
