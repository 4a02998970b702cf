"""Projects, keys, files, jobs and what hangs on them; the two roles and row-level security."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"

# Rows of one project each; the app role reaches those of the transaction's project alone.
PROJECT_TABLES = ("file", "job", "job_metadata", "event", "checkpoint", "artifact")
OTHER_TABLES = ("project", "api_key", "base_model", "lease")


def create_roles() -> None:
    """Roles belong to the whole cluster, and may be there from another database. The user who
    migrates is the one the server connects as, and takes on one role or the other in each
    transaction.
    """
    for role in (APP_ROLE, CONTROL_ROLE):
        op.execute(f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$
        """)
        op.execute(f"GRANT {role} TO CURRENT_USER")
        op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")


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
    op.execute(f"GRANT SELECT ON base_model TO {APP_ROLE}")
    for table in (*PROJECT_TABLES, *OTHER_TABLES):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {CONTROL_ROLE}")


def keep_terminal_states() -> None:
    op.execute("""
        CREATE FUNCTION refuse_to_leave_a_terminal_state() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'job % is %, which is final', OLD.id, OLD.state;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER terminal_states_never_change BEFORE UPDATE OF state ON job FOR EACH ROW
        WHEN (OLD.state IN ('succeeded', 'failed', 'cancelled') AND NEW.state <> OLD.state)
        EXECUTE FUNCTION refuse_to_leave_a_terminal_state()
    """)


def upgrade() -> None:
    create_roles()
    op.create_table(
        "base_model",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("hidden_size", sa.BigInteger(), nullable=False),
        sa.Column("context_length", sa.BigInteger(), nullable=False),
        sa.Column("has_chat_template", sa.Boolean(), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_model")),
    )
    op.create_table(
        "project",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
        sa.UniqueConstraint("name", name=op.f("uq_project_name")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_api_key_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_key_hash")),
    )
    op.create_table(
        "file",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_details", sa.Text(), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("checking_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checks", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('uploaded', 'processed', 'error')", name=op.f("ck_file_status")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_file_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_file_project_id_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_file_sequence")),
    )
    op.create_index(
        op.f("ix_file_project_id_sequence"), "file", ["project_id", "sequence"], unique=False
    )
    op.create_index(
        "ix_file_unchecked",
        "file",
        ["sequence"],
        unique=False,
        postgresql_where=sa.text("status = 'uploaded'"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("base_model_id", sa.Text(), nullable=False),
        sa.Column("training_file_id", sa.Text(), nullable=False),
        sa.Column("validation_file_id", sa.Text(), nullable=True),
        sa.Column("suffix", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("hyperparameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("desired_state", sa.Text(), server_default="run", nullable=False),
        sa.Column(
            "available_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("idle_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("event_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("fine_tuned_model", sa.Text(), nullable=True),
        sa.Column("result_file_id", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_param", sa.Text(), nullable=True),
        sa.CheckConstraint("desired_state IN ('run', 'cancel')", name=op.f("ck_job_desired_state")),
        sa.CheckConstraint(
            "state IN ('validating_files', 'queued', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_job_state"),
        ),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_model.id"], name=op.f("fk_job_base_model_id")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "training_file_id"],
            ["file.project_id", "file.id"],
            name=op.f("fk_job_project_id_training_file_id"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "validation_file_id"],
            ["file.project_id", "file.id"],
            name=op.f("fk_job_project_id_validation_file_id"),
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_job_project_id")),
        sa.ForeignKeyConstraint(
            ["result_file_id"], ["file.id"], name=op.f("fk_job_result_file_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("fine_tuned_model", name=op.f("uq_job_fine_tuned_model")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_job_project_id_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_job_sequence")),
    )
    op.create_index(
        op.f("ix_job_project_id_sequence"), "job", ["project_id", "sequence"], unique=False
    )
    op.create_index(
        "ix_job_queued",
        "job",
        ["available_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("ix_job_training_file_id", "job", ["training_file_id"], unique=False)
    op.create_index("ix_job_validation_file_id", "job", ["validation_file_id"], unique=False)
    op.create_table(
        "artifact",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_artifact_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_artifact")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
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
            name=op.f("fk_checkpoint_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_checkpoint")),
        sa.UniqueConstraint("id", name=op.f("uq_checkpoint_id")),
    )
    op.create_table(
        "event",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_event_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_job_id_origin"), "event", ["job_id", "origin"], unique=True)
    op.create_index(op.f("ix_event_job_id_step"), "event", ["job_id", "step"], unique=True)
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_job_metadata_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_job_metadata")),
    )
    op.create_index(
        op.f("ix_job_metadata_project_id_key_value"),
        "job_metadata",
        ["project_id", "key", "value"],
        unique=False,
    )
    op.create_table(
        "lease",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_lease_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_lease")),
        postgresql_with={"fillfactor": 70},
    )
    grant()
    keep_terminal_states()


def downgrade() -> None:
    op.drop_table("lease")
    op.drop_index(op.f("ix_job_metadata_project_id_key_value"), table_name="job_metadata")
    op.drop_table("job_metadata")
    op.drop_index(op.f("ix_event_job_id_step"), table_name="event")
    op.drop_index(op.f("ix_event_job_id_origin"), table_name="event")
    op.drop_table("event")
    op.drop_table("checkpoint")
    op.drop_table("artifact")
    op.drop_index("ix_job_validation_file_id", table_name="job")
    op.drop_index("ix_job_training_file_id", table_name="job")
    op.drop_index("ix_job_queued", table_name="job", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index(op.f("ix_job_project_id_sequence"), table_name="job")
    op.drop_table("job")
    op.drop_index(
        "ix_file_unchecked", table_name="file", postgresql_where=sa.text("status = 'uploaded'")
    )
    op.drop_index(op.f("ix_file_project_id_sequence"), table_name="file")
    op.drop_table("file")
    op.drop_table("api_key")
    op.drop_table("project")
    op.drop_table("base_model")
    op.execute("DROP FUNCTION refuse_to_leave_a_terminal_state")
