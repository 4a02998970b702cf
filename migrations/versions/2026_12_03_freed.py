"""Since when an attempt's worker has been at another job and only sent the results of this one."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# `took` is what its devices were taken for, `lost` what of it is trained again.
COUNT_ENDED_ATTEMPT = """
    CREATE OR REPLACE FUNCTION count_ended_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        took double precision := {took};
        lost double precision := 0;
        asked_at timestamptz;
    BEGIN
        IF NEW.outcome IN ('lost', 'failed') THEN
            SELECT {gpus}
                * extract(epoch FROM NEW.ended_at - greatest(NEW.started_at, max(created_at)))
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
BEFORE = COUNT_ENDED_ATTEMPT.format(
    gpus=1, took="extract(epoch FROM NEW.ended_at - NEW.started_at)"
)
NOW = COUNT_ENDED_ATTEMPT.format(
    gpus="NEW.gpus",
    took="NEW.gpus * extract(epoch FROM least(NEW.freed_at, NEW.ended_at) - NEW.started_at)",
)

reviewed = {
    " ".join(NOW.split()): "the release before ends attempts as this one does, but sets no freed_at"
}


def upgrade() -> None:
    op.add_column("attempt", sa.Column("freed_at", sa.DateTime(timezone=True)))
    op.execute(NOW)


def downgrade() -> None:
    op.execute(BEFORE)
    op.drop_column("attempt", "freed_at")
