"""What is counted as it happens, so that `/metrics` need not read every row that ever was; and
which janitors are there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

CONTROL_ROLE = "tunery_control"

# A number and a sum of each duration that ends in a bucket of these upper limits, in seconds.
COUNT_DURATION = """
    CREATE FUNCTION count_duration(counted text, took double precision) RETURNS void
    LANGUAGE sql AS $$
        INSERT INTO duration_tally AS tally (what, up_to, times, seconds)
        SELECT counted, min(up_to), 1, greatest(took, 0) FROM unnest(ARRAY[
            1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400, 'Infinity'
        ]::double precision[]) AS up_to WHERE up_to >= took
        ON CONFLICT (what, up_to) DO UPDATE
        SET times = tally.times + 1, seconds = tally.seconds + excluded.seconds
    $$
"""
COUNT_BEGUN_ATTEMPT = """
    CREATE FUNCTION count_begun_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        lost_at timestamptz;
        ready_at timestamptz;
    BEGIN
        SELECT ended_at INTO lost_at FROM attempt
        WHERE job_id = NEW.job_id AND token = NEW.token - 1 AND outcome = 'lost';
        IF lost_at IS NOT NULL THEN
            PERFORM count_duration('recovery', extract(epoch FROM NEW.started_at - lost_at));
        END IF;
        SELECT available_at INTO ready_at FROM job WHERE id = NEW.job_id;
        PERFORM count_duration('queue', extract(epoch FROM NEW.started_at - ready_at));
        RETURN NULL;
    END $$
"""
# A cancel of a running job left an event; nothing that is searched lies far before the end.
COUNT_ENDED_ATTEMPT = """
    CREATE FUNCTION count_ended_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        took double precision := extract(epoch FROM NEW.ended_at - NEW.started_at);
        lost double precision := 0;
        asked_at timestamptz;
    BEGIN
        IF NEW.outcome IN ('lost', 'failed') THEN
            SELECT extract(epoch FROM NEW.ended_at - greatest(NEW.started_at, max(created_at)))
            INTO lost FROM checkpoint
            WHERE job_id = NEW.job_id AND token = NEW.token AND created_at <= NEW.ended_at;
        END IF;
        INSERT INTO attempt_tally AS tally
            (project_id, pool, outcome, failure_class, attempts, seconds, lost_seconds)
        VALUES (NEW.project_id, NEW.pool, NEW.outcome,
            coalesce(NEW.failure_class, ''), 1, took, lost)
        ON CONFLICT (project_id, pool, outcome, failure_class) DO UPDATE
        SET attempts = tally.attempts + 1, seconds = tally.seconds + excluded.seconds,
            lost_seconds = tally.lost_seconds + excluded.lost_seconds;
        IF NEW.outcome = 'cancelled' THEN
            SELECT created_at INTO asked_at FROM event
            WHERE job_id = NEW.job_id AND data->>'desired_state' = 'cancel'
            ORDER BY number DESC LIMIT 1;
            IF asked_at IS NOT NULL THEN
                PERFORM count_duration('cancel', extract(epoch FROM NEW.ended_at - asked_at));
            END IF;
        END IF;
        RETURN NULL;
    END $$
"""
COUNT_BYTES = """
    CREATE OR REPLACE FUNCTION count_bytes_of_project() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        more bigint := coalesce(NEW.bytes, 0) - coalesce(OLD.bytes, 0);
    BEGIN
        UPDATE project SET stored_bytes = stored_bytes + more,
            checkpoint_bytes = checkpoint_bytes
                + CASE TG_TABLE_NAME WHEN 'checkpoint' THEN more ELSE 0 END
        WHERE id = coalesce(NEW.project_id, OLD.project_id);
        RETURN NULL;
    END $$
"""
COUNT_BYTES_BEFORE = """
    CREATE OR REPLACE FUNCTION count_bytes_of_project() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE project
        SET stored_bytes = stored_bytes + coalesce(NEW.bytes, 0) - coalesce(OLD.bytes, 0)
        WHERE id = coalesce(NEW.project_id, OLD.project_id);
        RETURN NULL;
    END $$
"""
LOCK = "LOCK TABLE attempt, checkpoint IN SHARE ROW EXCLUSIVE MODE"
# Deferred: they are counted at commit, after all other locks.
AT_THE_BEGIN = """
    CREATE CONSTRAINT TRIGGER begun_attempts_are_counted AFTER INSERT ON attempt
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_begun_attempt()
"""
AT_THE_END = """
    CREATE CONSTRAINT TRIGGER ended_attempts_are_counted AFTER UPDATE OF ended_at ON attempt
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)
    EXECUTE FUNCTION count_ended_attempt()
"""

reviewed = {
    " ".join(statement.split()): why
    for statement, why in {
        LOCK: "for the moment in which the triggers are made",
        AT_THE_BEGIN: "the release before inserts attempts as this one does",
        AT_THE_END: "the release before ends attempts as this one does",
        COUNT_BYTES: "it does what it did for the release before, and counts one column more",
    }.items()
}


def upgrade() -> None:
    op.create_table(
        "attempt_tally",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("failure_class", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("lost_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_attempt_tally_project_id")
        ),
        sa.PrimaryKeyConstraint(
            "project_id", "pool", "outcome", "failure_class", name=op.f("pk_attempt_tally")
        ),
    )
    op.execute("ALTER TABLE attempt_tally ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE attempt_tally FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY every_project ON attempt_tally TO {CONTROL_ROLE} USING (true)")
    op.create_table(
        "duration_tally",
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("up_to", sa.Double(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("what", "up_to", name=op.f("pk_duration_tally")),
    )
    op.create_table(
        "janitor",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("wakes", sa.Boolean(), nullable=False),
        sa.Column("redis_trouble", sa.Text(), nullable=True),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_janitor")),
    )
    for table in ("attempt_tally", "duration_tally", "janitor"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {CONTROL_ROLE}")
    op.add_column(
        "project",
        sa.Column("checkpoint_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    # The app's own deletions are counted, too.
    op.execute("GRANT UPDATE (checkpoint_bytes) ON project TO tunery_app")
    count()


def count() -> None:
    """Whoever ends an attempt or writes a checkpoint from here on is counted, and waits for this
    transaction. What was before is counted by a later migration, which holds up nobody.
    """
    op.execute(LOCK)
    for function in (COUNT_DURATION, COUNT_BEGUN_ATTEMPT, COUNT_ENDED_ATTEMPT, COUNT_BYTES):
        op.execute(function)
    op.execute(AT_THE_BEGIN)
    op.execute(AT_THE_END)


def downgrade() -> None:
    op.execute("DROP TRIGGER begun_attempts_are_counted ON attempt")
    op.execute("DROP TRIGGER ended_attempts_are_counted ON attempt")
    op.execute("DROP FUNCTION count_begun_attempt")
    op.execute("DROP FUNCTION count_ended_attempt")
    op.execute("DROP FUNCTION count_duration")
    op.execute(COUNT_BYTES_BEFORE)
    op.drop_column("project", "checkpoint_bytes")  # and the right on it
    op.drop_table("janitor")
    op.drop_table("duration_tally")
    op.drop_table("attempt_tally")
