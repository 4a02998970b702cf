"""What was there before it was counted as it happens (`watched`).

Each statement looks once, and locks nothing meanwhile: what there is, less what is counted, is what
was never counted, at whichever moment one looks. It is added to what may have grown since.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Row-level security may hide all rows from who owns the tables.
AS_CONTROL = "SET LOCAL ROLE tunery_control"
AS_OWNER = "RESET ROLE"
CHECKPOINTS = """
    UPDATE project SET checkpoint_bytes = checkpoint_bytes + missing.bytes
    FROM (
        SELECT id, held.bytes - checkpoint_bytes AS bytes
        FROM project JOIN (
            SELECT project_id, sum(bytes) AS bytes FROM checkpoint GROUP BY 1
        ) AS held ON held.project_id = id
    ) AS missing
    WHERE missing.id = project.id AND missing.bytes <> 0
"""
ATTEMPTS = """
    INSERT INTO attempt_tally AS tally
        (project_id, pool, outcome, failure_class, attempts, seconds, lost_seconds)
    SELECT project_id, pool, outcome, failure_class,
        ended.attempts - coalesce(counted.attempts, 0),
        ended.seconds - coalesce(counted.seconds, 0), 0
    FROM (
        SELECT project_id, pool, outcome, coalesce(failure_class, '') AS failure_class,
            count(*) AS attempts, sum(extract(epoch FROM ended_at - started_at)) AS seconds
        FROM attempt WHERE ended_at IS NOT NULL AND outcome IS NOT NULL GROUP BY 1, 2, 3, 4
    ) AS ended
    LEFT JOIN attempt_tally AS counted USING (project_id, pool, outcome, failure_class)
    WHERE ended.attempts > coalesce(counted.attempts, 0)
    ON CONFLICT (project_id, pool, outcome, failure_class) DO UPDATE
    SET attempts = tally.attempts + excluded.attempts, seconds = tally.seconds + excluded.seconds
"""

# In the order in which those who write checkpoints and end attempts lock the two.
STATEMENTS = (AS_CONTROL, CHECKPOINTS, ATTEMPTS, AS_OWNER)
reviewed = {
    " ".join(statement.split()): why
    for statement, why in {
        AS_CONTROL: "of this transaction",
        CHECKPOINTS: "projects are few, and locked when all is summed up",
        ATTEMPTS: "rows are few, and locked when all is summed up",
        AS_OWNER: "of this transaction",
    }.items()
}


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    pass
