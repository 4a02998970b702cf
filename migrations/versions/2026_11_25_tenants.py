"""Keys with name and expiry, limits of projects and what they have stored, the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

APP_ROLE = "tunery_app"
CONTROL_ROLE = "tunery_control"
OF_PROJECT = "NULLIF(current_setting('tunery.project', true), '')"
LIMITS = ("most_files", "most_file_bytes", "most_unfinished_jobs", "most_running_jobs")


def keep_audit() -> None:
    """Both roles add rows; only the operators' reads them, and none changes them."""
    op.execute("ALTER TABLE audit ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY own_project ON audit TO {APP_ROLE} USING (project_id = {OF_PROJECT})"
    )
    op.execute(f"CREATE POLICY every_project ON audit TO {CONTROL_ROLE} USING (true)")
    op.execute(f"GRANT INSERT ON audit TO {APP_ROLE}")
    op.execute(f"GRANT SELECT, INSERT ON audit TO {CONTROL_ROLE}")


def count_files() -> None:
    """A project sees its own row. The counts are kept at commit, after all other locks."""
    op.execute("ALTER TABLE project ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE project FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_project ON project TO {APP_ROLE} USING (id = {OF_PROJECT})")
    op.execute(f"CREATE POLICY every_project ON project TO {CONTROL_ROLE} USING (true)")
    op.execute(f"GRANT SELECT, UPDATE (files, file_bytes) ON project TO {APP_ROLE}")
    op.execute("""
        CREATE FUNCTION count_files_of_project() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            was integer := (TG_OP <> 'INSERT' AND OLD.deleted_at IS NULL)::integer;
            is_now integer := (TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL)::integer;
        BEGIN
            UPDATE project SET files = files + is_now - was,
                file_bytes = file_bytes + coalesce(is_now * NEW.bytes, 0) - coalesce(was * OLD.bytes, 0)
            WHERE id = coalesce(NEW.project_id, OLD.project_id);
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE CONSTRAINT TRIGGER files_are_counted
        AFTER INSERT OR DELETE OR UPDATE OF deleted_at, bytes ON file
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_files_of_project()
    """)
    op.execute(f"SET LOCAL ROLE {CONTROL_ROLE}")
    op.execute("""
        UPDATE project SET files = stored.files, file_bytes = stored.bytes
        FROM (SELECT project_id, count(*) AS files, sum(bytes) AS bytes FROM file
            WHERE deleted_at IS NULL GROUP BY project_id) AS stored
        WHERE project.id = stored.project_id
    """)
    op.execute("RESET ROLE")


def upgrade() -> None:
    for limit in LIMITS:
        op.add_column("project", sa.Column(limit, sa.BigInteger(), nullable=True))
    for count in ("files", "file_bytes"):
        column = sa.Column(count, sa.BigInteger(), server_default="0", nullable=False)
        op.add_column("project", column)
    op.add_column("api_key", sa.Column("name", sa.Text(), nullable=True))
    for time in ("expires_at", "last_used_at"):
        op.add_column("api_key", sa.Column(time, sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        op.f("ix_api_key_project_id_created_at"), "api_key", ["project_id", "created_at"]
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
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_audit_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_project_id_id"), "audit", ["project_id", "id"])
    op.create_index(op.f("ix_audit_action_id"), "audit", ["action", "id"])
    queued = sa.text("state = 'queued'")
    op.create_index(
        "ix_job_next", "job", ["project_id", "available_at", "sequence"], postgresql_where=queued
    )
    op.create_index(
        "ix_job_next_on_base",
        "job",
        ["project_id", "base_model_id", "available_at", "sequence"],
        postgresql_where=queued,
    )
    op.create_index(
        "ix_job_unfinished",
        "job",
        ["project_id", "state"],
        postgresql_where=sa.text("state IN ('validating_files', 'queued', 'running', 'paused')"),
    )
    op.create_index(
        op.f("ix_attempt_project_id_started_at"), "attempt", ["project_id", "started_at"]
    )
    keep_audit()
    count_files()


def downgrade() -> None:
    op.execute("DROP TRIGGER files_are_counted ON file")
    op.execute("DROP FUNCTION count_files_of_project")
    op.execute(f"REVOKE SELECT, UPDATE (files, file_bytes) ON project FROM {APP_ROLE}")
    op.execute("DROP POLICY own_project ON project")
    op.execute("DROP POLICY every_project ON project")
    op.execute("ALTER TABLE project NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE project DISABLE ROW LEVEL SECURITY")
    op.drop_index(op.f("ix_attempt_project_id_started_at"), table_name="attempt")
    for index in ("ix_job_unfinished", "ix_job_next_on_base", "ix_job_next"):
        op.drop_index(index, table_name="job")
    op.drop_table("audit")
    op.drop_index(op.f("ix_api_key_project_id_created_at"), table_name="api_key")
    for column in ("last_used_at", "expires_at", "name"):
        op.drop_column("api_key", column)
    for column in ("file_bytes", "files", *reversed(LIMITS)):
        op.drop_column("project", column)
