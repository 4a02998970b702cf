"""Uploads in parts; files expire; jobs are listed by metadata out of an index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"

PROJECT_TABLES = ("upload", "upload_part")


def grant() -> None:
    for table in PROJECT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY own_project ON {table} TO {APP_ROLE}
            USING (project_id = NULLIF(current_setting('tunery.project', true), ''))
        """)
        op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP_ROLE}, {CONTROL_ROLE}")


def upgrade() -> None:
    op.create_table(
        "upload",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_expires_seconds", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=True),
        sa.Column("part_ids", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("md5", sa.String(length=32), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'completed', 'cancelled', 'expired')",
            name=op.f("ck_upload_state"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "file_id"],
            ["file.project_id", "file.id"],
            name=op.f("fk_upload_project_id_file_id"),
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_upload_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_upload_project_id_id")),
    )
    op.create_index(
        "ix_upload_pending",
        "upload",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "upload_part",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "upload_id"],
            ["upload.project_id", "upload.id"],
            name=op.f("fk_upload_part_project_id_upload_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_part")),
    )
    op.create_index(op.f("ix_upload_part_upload_id"), "upload_part", ["upload_id"], unique=False)
    grant()

    op.add_column("file", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_file_expiring",
        "file",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL AND deleted_at IS NULL"),
    )

    op.add_column(
        "job", sa.Column("has_metadata", sa.Boolean(), server_default="false", nullable=False)
    )
    op.add_column("job_metadata", sa.Column("sequence", sa.BigInteger(), nullable=True))
    # Forced row-level security would hide every project's rows from the owner, who migrates.
    for table in ("job", "job_metadata"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        UPDATE job_metadata SET sequence = job.sequence FROM job WHERE job.id = job_metadata.job_id
    """)
    op.execute("""
        UPDATE job SET has_metadata = true
        WHERE EXISTS (SELECT FROM job_metadata WHERE job_metadata.job_id = job.id)
    """)
    for table in ("job", "job_metadata"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.alter_column("job_metadata", "sequence", nullable=False)
    op.create_index(
        "ix_job_without_metadata",
        "job",
        ["project_id", "sequence"],
        unique=False,
        postgresql_where=sa.text("NOT has_metadata"),
    )
    op.drop_index(op.f("ix_job_metadata_project_id_key_value"), table_name="job_metadata")
    op.create_index(
        op.f("ix_job_metadata_project_id_key_value_sequence"),
        "job_metadata",
        ["project_id", "key", "value", "sequence"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_job_metadata_project_id_key_value_sequence"), table_name="job_metadata")
    op.create_index(
        op.f("ix_job_metadata_project_id_key_value"),
        "job_metadata",
        ["project_id", "key", "value"],
        unique=False,
    )
    op.drop_index("ix_job_without_metadata", table_name="job")
    op.drop_column("job_metadata", "sequence")
    op.drop_column("job", "has_metadata")
    op.drop_index("ix_file_expiring", table_name="file")
    op.drop_column("file", "expires_at")
    op.drop_table("upload_part")
    op.drop_table("upload")
