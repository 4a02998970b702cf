"""What must be true of the rows at every moment, whatever crashed. Each rule is one query that
counts where it is broken. Rules about jobs that have ended look back one hour; a million older jobs
cost them nothing.
"""

from sqlalchemy import text
from sqlalchemy.orm import Session

INVARIANTS = {
    "running_job_without_its_lease": """
        SELECT count(*) FROM job WHERE state = 'running' AND NOT EXISTS (
            SELECT FROM lease WHERE lease.job_id = job.id AND lease.token = job.token)
    """,
    "running_job_without_its_attempt": """
        SELECT count(*) FROM job WHERE state = 'running' AND NOT EXISTS (
            SELECT FROM attempt
            WHERE attempt.job_id = job.id AND attempt.token = job.token AND ended_at IS NULL)
    """,
    "lease_without_running_job": """
        SELECT count(*) FROM lease JOIN job ON job.id = lease.job_id WHERE job.state <> 'running'
    """,
    "open_attempt_beside_the_newest_of_a_running_job": """
        SELECT count(*) FROM attempt JOIN job ON job.id = attempt.job_id
        WHERE ended_at IS NULL AND (job.state <> 'running' OR attempt.token <> job.token)
    """,
    "attempt_with_only_one_of_end_and_outcome": """
        SELECT count(*) FROM attempt
        WHERE ended_at IS NULL AND outcome IS NOT NULL
            OR ended_at > now() - interval '1 hour' AND outcome IS NULL
    """,
    "attempt_that_ends_before_it_starts": """
        SELECT count(*) FROM attempt
        WHERE (ended_at IS NULL OR ended_at > now() - interval '1 hour')
            AND least(ended_at, freed_at) < started_at
    """,
    "ended_job_without_time_of_end": """
        SELECT count(*) FROM job
        WHERE state IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NULL
    """,
    "events_with_a_gap": """
        SELECT count(*) FROM job CROSS JOIN LATERAL (
            SELECT count(*) AS stored, min(number) AS first, max(number) AS last
            FROM event WHERE event.job_id = job.id) AS events
        WHERE (state IN ('validating_files', 'queued', 'running', 'paused')
                OR state IN ('succeeded', 'failed', 'cancelled')
                    AND finished_at > now() - interval '1 hour')
            AND deleted_at IS NULL
            AND (stored, first, last) IS DISTINCT FROM (event_count, 1, event_count)
    """,
    "succeeded_job_without_its_results": """
        SELECT count(*) FROM job CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE name LIKE '%.csv') AS metrics,
                count(*) FILTER (WHERE name IN (
                    'adapter_model.safetensors', 'adapter_config.json', 'manifest.json'
                )) AS adapter,
                count(*) FILTER (WHERE name IN (
                    'model.safetensors', 'model.safetensors.index.json',
                    'config.json', 'manifest.json'
                )) AS model
            FROM artifact WHERE artifact.job_id = job.id) AS artifacts
        WHERE state = 'succeeded' AND finished_at > now() - interval '1 hour'
            AND model_deleted_at IS NULL AND exported_job_id IS NULL
            AND (fine_tuned_model IS NULL OR result_file_id IS NULL OR metrics < 1
                OR CASE WHEN spec->'lora' = 'null' THEN model ELSE adapter END < 3)
    """,
    "succeeded_export_without_its_files": """
        SELECT count(*) FROM job
        WHERE state = 'succeeded' AND finished_at > now() - interval '1 hour'
            AND model_deleted_at IS NULL AND exported_job_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM artifact WHERE artifact.job_id = job.id)
    """,
    "unfinished_export_of_a_deleted_model": """
        SELECT count(*) FROM job JOIN job AS exported ON exported.id = job.exported_job_id
        WHERE job.state IN ('queued', 'running') AND exported.model_deleted_at IS NOT NULL
    """,
    "pending_verdict_that_nobody_will_give": """
        SELECT (SELECT count(*) FROM job WHERE judge_at IS NOT NULL
                AND evaluation->>'verdict' IS DISTINCT FROM 'pending')
            + (SELECT count(*) FROM job WHERE state IN ('succeeded', 'failed', 'cancelled')
                AND finished_at > now() - interval '1 hour'
                AND judge_at IS NULL AND evaluation->>'verdict' = 'pending')
    """,
    "pending_delivery_that_nobody_will_make": """
        SELECT count(*) FROM webhook_delivery JOIN webhook_endpoint
            ON webhook_endpoint.id = endpoint_id
        WHERE state = 'pending' AND (disabled_at IS NOT NULL OR next_at IS NULL)
    """,
}


def violations(tx: Session) -> dict[str, int]:
    """How often each rule is broken: all 0 is health. For the control role."""
    return {name: tx.execute(text(rule)).scalar_one() for name, rule in INVARIANTS.items()}
