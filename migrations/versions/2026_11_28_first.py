"""The first schema: tables, database roles, row-level security, triggers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"
OF_PROJECT = "NULLIF(current_setting('tunery.project', true), '')"
ALL = "SELECT, INSERT, UPDATE, DELETE"

# Tables of a project's own rows: what the app's role may do there.
OF_PROJECTS = {
    "arrival": ALL,
    "artifact": ALL,
    "attempt": ALL,
    # Only operators read it, and nobody changes it.
    "audit": "INSERT",
    "checkpoint": ALL,
    "checkpoint_permission": ALL,
    "creation": ALL,
    "event": ALL,
    "file": ALL,
    "job": ALL,
    "job_metadata": ALL,
    "log_part": "SELECT, DELETE",
    "project": "SELECT, UPDATE (files, stored_bytes)",
    "sample_set": "SELECT, DELETE",
    "tracked_run": "SELECT, INSERT, DELETE",
    "tracker_key": ALL,
    "upload": ALL,
    "upload_part": ALL,
    "webhook_delivery": ALL,
    "webhook_endpoint": ALL,
    "webhook_event": ALL,
}
# Tables that all projects share, and what the app's role may do there.
SHARED = {
    "api_key": None,
    "attendance": None,
    "base_model": "SELECT",
    "lease": None,
    "storage_fault": None,
    "storage_folder": None,
    "webhook_tally": None,
    "worker": "SELECT (id, device, memory_bytes)",
}


def create_roles() -> None:
    """Roles belong to the whole cluster, and may be there from another database. The user who
    migrates may take on both.
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


def keep_projects_apart() -> None:
    """The app's role reaches the rows of the project that its transaction names."""
    for table in OF_PROJECTS:
        column = "id" if table == "project" else "project_id"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY own_project ON {table} TO {APP_ROLE} USING ({column} = {OF_PROJECT})"
        )
        op.execute(f"CREATE POLICY every_project ON {table} TO {CONTROL_ROLE} USING (true)")


def grant() -> None:
    for table, allowed in (OF_PROJECTS | SHARED).items():
        if allowed:
            op.execute(f"GRANT {allowed} ON {table} TO {APP_ROLE}")
        control = "SELECT, INSERT" if table == "audit" else ALL
        op.execute(f"GRANT {control} ON {table} TO {CONTROL_ROLE}")
    # The server compares the schema with its own when it starts.
    op.execute(f"GRANT SELECT ON alembic_version TO {CONTROL_ROLE}")


def create_triggers() -> None:
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
    op.execute("""
        CREATE FUNCTION count_files_of_project() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            was integer := (TG_OP <> 'INSERT' AND OLD.deleted_at IS NULL)::integer;
            is_now integer := (TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL)::integer;
        BEGIN
            UPDATE project SET files = files + is_now - was,
                stored_bytes = stored_bytes
                    + coalesce(is_now * NEW.bytes, 0) - coalesce(was * OLD.bytes, 0)
            WHERE id = coalesce(NEW.project_id, OLD.project_id);
            RETURN NULL;
        END $$
    """)
    # Deferred: the counts are kept at commit, after all other locks.
    op.execute("""
        CREATE CONSTRAINT TRIGGER files_are_counted
        AFTER INSERT OR DELETE OR UPDATE OF deleted_at, bytes ON file
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_files_of_project()
    """)
    op.execute("""
        CREATE FUNCTION count_bytes_of_project() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE project
            SET stored_bytes = stored_bytes + coalesce(NEW.bytes, 0) - coalesce(OLD.bytes, 0)
            WHERE id = coalesce(NEW.project_id, OLD.project_id);
            RETURN NULL;
        END $$
    """)
    for table in ("artifact", "checkpoint"):
        op.execute(f"""
            CREATE CONSTRAINT TRIGGER bytes_are_counted
            AFTER INSERT OR DELETE OR UPDATE OF bytes ON {table}
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_bytes_of_project()
        """)
    # Nobody has the right to delete of the audit: this does, of what is older than the longest time
    # that anybody may take to notice a thing.
    op.execute("""
        CREATE FUNCTION forget_audit(older_than interval, most bigint) RETURNS bigint
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
        DECLARE
            forgotten bigint;
        BEGIN
            IF older_than < interval '30 days' THEN
                RAISE EXCEPTION 'the audit of the last 30 days is kept';
            END IF;
            DELETE FROM audit WHERE id IN (
                SELECT id FROM audit WHERE created_at < clock_timestamp() - older_than
                ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED);
            GET DIAGNOSTICS forgotten = ROW_COUNT;
            RETURN forgotten;
        END $$
    """)
    op.execute("REVOKE EXECUTE ON FUNCTION forget_audit FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION forget_audit TO {CONTROL_ROLE}")
    op.execute("""
        CREATE FUNCTION tell_of_news() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('tunery_job', NEW.job_id);
            RETURN NULL;
        END $$
    """)
    # Postgres sends a transaction's equal notifications once.
    op.execute("""
        CREATE TRIGGER events_are_told AFTER INSERT ON event FOR EACH ROW
        EXECUTE FUNCTION tell_of_news()
    """)


def upgrade() -> None:
    create_roles()
    create_tables()
    keep_projects_apart()
    grant()
    create_triggers()


def create_tables() -> None:
    op.create_table(
        "attendance",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_attendance_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attendance")),
    )
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
        sa.Column("shape", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("not_for_ollama", sa.Text(), nullable=True),
        sa.Column("broken", sa.Text(), nullable=True),
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
        sa.Column("most_files", sa.BigInteger(), nullable=True),
        sa.Column("most_stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("most_unfinished_jobs", sa.BigInteger(), nullable=True),
        sa.Column("most_running_jobs", sa.BigInteger(), nullable=True),
        sa.Column("most_device_hours", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
        sa.UniqueConstraint("name", name=op.f("uq_project_name")),
    )
    op.create_table(
        "storage_fault",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fault", sa.Text(), nullable=False),
        sa.Column(
            "found_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "fault IN ('content_gone', 'content_damaged')", name=op.f("ck_storage_fault_fault")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_storage_fault")),
    )
    op.create_table(
        "storage_folder",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("scrubbed_file", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("scrubbed_job", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("scrubbed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_storage_folder_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_folder")),
    )
    op.create_table(
        "webhook_tally",
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("result", name=op.f("pk_webhook_tally")),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("build", sa.Text(), nullable=True),
        sa.Column("protocol", sa.Integer(), nullable=False),
        sa.Column(
            "lacks",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_job_id", sa.Text(), nullable=True),
        sa.Column("quarantined_until", sa.DateTime(timezone=True), nullable=True),
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
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('active', 'draining')", name=op.f("ck_worker_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_api_key_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_key_hash")),
    )
    op.create_index(
        op.f("ix_api_key_project_id_created_at"),
        "api_key",
        ["project_id", "created_at"],
        unique=False,
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_audit_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_action_id"), "audit", ["action", "id"], unique=False)
    op.create_index(op.f("ix_audit_project_id_id"), "audit", ["project_id", "id"], unique=False)
    op.create_table(
        "creation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("reply", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_creation_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_creation")),
        sa.UniqueConstraint("project_id", "key", name=op.f("uq_creation_project_id_key")),
    )
    op.create_index(op.f("ix_creation_created_at"), "creation", ["created_at"], unique=False)
    op.create_index(
        op.f("ix_creation_project_id_fingerprint_created_at"),
        "creation",
        ["project_id", "fingerprint", "created_at"],
        unique=False,
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
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
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
        "ix_file_expiring",
        "file",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL AND deleted_at IS NULL"),
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
        "webhook_endpoint",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("secret_hint", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
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
        sa.Column(
            "free_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_because", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_webhook_endpoint_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_webhook_endpoint_project_id_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_webhook_endpoint_sequence")),
    )
    op.create_index(
        op.f("ix_webhook_endpoint_project_id_sequence"),
        "webhook_endpoint",
        ["project_id", "sequence"],
        unique=False,
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
        sa.Column("has_metadata", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("hyperparameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("memory_bytes", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("min_protocol", sa.Integer(), server_default="2", nullable=False),
        sa.Column("source_job_id", sa.Text(), nullable=True),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("exported_job_id", sa.Text(), nullable=True),
        sa.Column("export", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("exports_asked", sa.Integer(), server_default="0", nullable=False),
        sa.Column("estimate", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("estimated_finish", sa.DateTime(timezone=True), nullable=True),
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
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("infra_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("oom_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("event_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("fine_tuned_model", sa.Text(), nullable=True),
        sa.Column("model_deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result_file_id", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_param", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "desired_state IN ('run', 'pause', 'cancel')", name=op.f("ck_job_desired_state")
        ),
        sa.CheckConstraint(
            "state IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_job_state"),
        ),
        sa.CheckConstraint(
            "(export IS NULL) = (exported_job_id IS NULL)", name=op.f("ck_job_export")
        ),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["base_model.id"], name=op.f("fk_job_base_model_id")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "exported_job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_job_project_id_exported_job_id"),
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
        sa.ForeignKeyConstraint(["source_job_id"], ["job.id"], name=op.f("fk_job_source_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("fine_tuned_model", name=op.f("uq_job_fine_tuned_model")),
        sa.UniqueConstraint("model_name", name=op.f("uq_job_model_name")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_job_project_id_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_job_sequence")),
    )
    op.create_index(
        "ix_job_exported_job_id",
        "job",
        ["exported_job_id", "sequence"],
        unique=False,
        postgresql_where=sa.text("exported_job_id IS NOT NULL"),
    )
    op.create_index(
        "ix_job_next",
        "job",
        ["project_id", "available_at", "sequence"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_job_next_on_base",
        "job",
        ["project_id", "base_model_id", "available_at", "sequence"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        op.f("ix_job_project_id_base_model_id_sequence"),
        "job",
        ["project_id", "base_model_id", "sequence"],
        unique=False,
    )
    op.create_index(
        op.f("ix_job_project_id_created_at_sequence"),
        "job",
        ["project_id", "created_at", "sequence"],
        unique=False,
    )
    op.create_index(
        op.f("ix_job_project_id_sequence"), "job", ["project_id", "sequence"], unique=False
    )
    op.create_index(
        op.f("ix_job_project_id_state_sequence"),
        "job",
        ["project_id", "state", "sequence"],
        unique=False,
    )
    op.create_index(
        "ix_job_queued",
        "job",
        ["available_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("ix_job_source_job_id", "job", ["source_job_id"], unique=False)
    op.create_index("ix_job_result_file_id", "job", ["result_file_id"], unique=False)
    op.create_index(op.f("ix_job_state_finished_at"), "job", ["state", "finished_at"], unique=False)
    op.create_index(
        "ix_job_succeeded",
        "job",
        ["project_id", "base_model_id", "finished_at"],
        unique=False,
        postgresql_where=sa.text("state = 'succeeded'"),
    )
    op.create_index("ix_job_training_file_id", "job", ["training_file_id"], unique=False)
    op.create_index(
        "ix_job_unfinished",
        "job",
        ["project_id", "state"],
        unique=False,
        postgresql_include=["exports_asked"],
        postgresql_where=sa.text("state IN ('validating_files', 'queued', 'running', 'paused')"),
    )
    op.create_index("ix_job_validation_file_id", "job", ["validation_file_id"], unique=False)
    op.create_index(
        "ix_job_without_metadata",
        "job",
        ["project_id", "sequence"],
        unique=False,
        postgresql_where=sa.text("NOT has_metadata"),
    )
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
    op.create_index(
        "ix_upload_pending_of_project",
        "upload",
        ["project_id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(op.f("ix_upload_file_id"), "upload", ["file_id"], unique=False)
    op.create_table(
        "arrival",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "heard_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_arrival_project_id")),
        sa.ForeignKeyConstraint(
            ["project_id", "upload_id"],
            ["upload.project_id", "upload.id"],
            name=op.f("fk_arrival_project_id_upload_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arrival")),
    )
    op.create_index(op.f("ix_arrival_project_id"), "arrival", ["project_id"], unique=False)
    op.create_index(op.f("ix_arrival_upload_id"), "arrival", ["upload_id"], unique=False)
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
        "attempt",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("failure_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'cancelled', 'paused', 'lost', 'released')",
            name=op.f("ck_attempt_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_attempt_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "token", name=op.f("pk_attempt")),
    )
    op.create_index(op.f("ix_attempt_ended_at"), "attempt", ["ended_at"], unique=False)
    op.create_index(
        op.f("ix_attempt_project_id_started_at"),
        "attempt",
        ["project_id", "started_at"],
        unique=False,
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
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
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
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
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
    op.create_index(
        op.f("ix_checkpoint_permission_job_id"), "checkpoint_permission", ["job_id"], unique=False
    )
    op.create_index(
        op.f("ix_checkpoint_permission_shared_with"),
        "checkpoint_permission",
        ["shared_with"],
        unique=False,
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
        sa.Column("sequence", sa.BigInteger(), nullable=False),
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
        op.f("ix_job_metadata_project_id_key_value_sequence"),
        "job_metadata",
        ["project_id", "key", "value", "sequence"],
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
    op.create_table(
        "log_part",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_log_part_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "token", "start", name=op.f("pk_log_part")),
    )
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
    op.create_table(
        "upload_part",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "upload_id"],
            ["upload.project_id", "upload.id"],
            name=op.f("fk_upload_part_project_id_upload_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_part")),
    )
    op.create_index(op.f("ix_upload_part_upload_id"), "upload_part", ["upload_id"], unique=False)
    op.create_table(
        "webhook_event",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["job.project_id", "job.id"],
            name=op.f("fk_webhook_event_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_event")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_webhook_event_job_id_number")),
        sa.UniqueConstraint("project_id", "id", name=op.f("uq_webhook_event_project_id_id")),
    )
    op.create_index(
        op.f("ix_webhook_event_created_at"), "webhook_event", ["created_at"], unique=False
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "next_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=True,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_delivery_state")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "endpoint_id"],
            ["webhook_endpoint.project_id", "webhook_endpoint.id"],
            name=op.f("fk_webhook_delivery_project_id_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "event_id"],
            ["webhook_event.project_id", "webhook_event.id"],
            name=op.f("fk_webhook_delivery_project_id_event_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint(
            "event_id", "endpoint_id", name=op.f("uq_webhook_delivery_event_id_endpoint_id")
        ),
        sa.UniqueConstraint("sequence", name=op.f("uq_webhook_delivery_sequence")),
    )
    op.create_index(
        op.f("ix_webhook_delivery_endpoint_id_sequence"),
        "webhook_delivery",
        ["endpoint_id", "sequence"],
        unique=False,
    )
    op.create_index(
        "ix_webhook_delivery_pending",
        "webhook_delivery",
        ["endpoint_id", "next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.execute(f"REVOKE SELECT ON alembic_version FROM {CONTROL_ROLE}")  # noqa: S608
    op.drop_table("webhook_delivery")
    op.drop_table("webhook_event")
    op.drop_table("upload_part")
    op.drop_table("tracked_run")
    op.drop_table("sample_set")
    op.drop_table("log_part")
    op.drop_table("lease")
    op.drop_table("job_metadata")
    op.drop_table("event")
    op.drop_table("checkpoint_permission")
    op.drop_table("checkpoint")
    op.drop_table("attempt")
    op.drop_table("artifact")
    op.drop_table("arrival")
    op.drop_table("upload")
    op.drop_table("job")
    op.drop_table("webhook_endpoint")
    op.drop_table("tracker_key")
    op.drop_table("file")
    op.drop_table("creation")
    op.drop_table("audit")
    op.drop_table("api_key")
    op.drop_table("worker")
    op.drop_table("webhook_tally")
    op.drop_table("storage_folder")
    op.drop_table("storage_fault")
    op.drop_table("project")
    op.drop_table("base_model")
    op.drop_table("attendance")
    for function in (
        "refuse_to_leave_a_terminal_state",
        "count_files_of_project",
        "count_bytes_of_project",
        "forget_audit",
        "tell_of_news",
    ):
        op.execute(f"DROP FUNCTION {function}")
