"""Waits in the queue are counted by the pool of the worker that ended them."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# As in `watched`, but for the pool. `cancel` and `recovery` have none.
COUNT_DURATION = """
    CREATE FUNCTION count_duration(counted text, took double precision, of_pool text DEFAULT '')
    RETURNS void LANGUAGE sql AS $$
        INSERT INTO duration_tally AS tally (what, pool, up_to, times, seconds)
        SELECT counted, of_pool, min(up_to), 1, greatest(took, 0) FROM unnest(ARRAY[
            1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400, 'Infinity'
        ]::double precision[]) AS up_to WHERE up_to >= took
        ON CONFLICT (what, pool, up_to) DO UPDATE
        SET times = tally.times + 1, seconds = tally.seconds + excluded.seconds
    $$
"""
COUNT_BEGUN_ATTEMPT = """
    CREATE OR REPLACE FUNCTION count_begun_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
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
        PERFORM count_duration('queue', extract(epoch FROM NEW.started_at - ready_at)%s);
        RETURN NULL;
    END $$
"""
BY_POOL = COUNT_BEGUN_ATTEMPT % ", NEW.pool"
DROPPED = "DROP FUNCTION count_duration(text, double precision)"
reviewed = {
    " ".join(statement.split()): why
    for statement, why in {
        BY_POOL: "it does what it did, and counts by one thing more",
        DROPPED: "of this release; what calls it calls the next one",
    }.items()
}


def upgrade() -> None:
    # The table is of this release, and has a few rows. What was counted before has no pool.
    op.add_column("duration_tally", sa.Column("pool", sa.Text(), server_default="", nullable=False))
    key_of("what", "pool", "up_to")
    op.execute(DROPPED)
    op.execute(COUNT_DURATION)
    op.execute(BY_POOL)


def key_of(*columns: str) -> None:
    op.drop_constraint(op.f("pk_duration_tally"), "duration_tally")
    op.create_primary_key(op.f("pk_duration_tally"), "duration_tally", list(columns))


def downgrade() -> None:
    op.execute("DELETE FROM duration_tally WHERE pool <> ''")
    key_of("what", "up_to")
    op.drop_column("duration_tally", "pool")
    op.execute("DROP FUNCTION count_duration(text, double precision, text)")
    op.execute(BEFORE)
    op.execute(COUNT_BEGUN_ATTEMPT % "")


# Of `watched`.
BEFORE = """
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
