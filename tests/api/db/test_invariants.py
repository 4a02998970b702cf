from sqlalchemy import text

from api.db.invariants import INVARIANTS, violations
from api.db.session import Database
from tests.conftest import Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload
from tunery.states import AttemptEnd

EXPORTS = ("peft", "gguf")
BREAKS = {
    "running_job_without_its_lease": "UPDATE lease SET token = token - 1",
    "running_job_without_its_attempt": """
        UPDATE attempt SET ended_at = clock_timestamp(), outcome = 'lost'
        WHERE ended_at IS NULL
    """,
    "lease_without_running_job": """
        INSERT INTO lease (job_id, token, worker, until)
        SELECT id, token, 'w', clock_timestamp() FROM job WHERE fine_tuned_model IS NOT NULL
    """,
    "open_attempt_beside_the_newest_of_a_running_job": """
        UPDATE attempt SET ended_at = NULL, outcome = NULL WHERE outcome = 'released'
    """,
    "attempt_with_only_one_of_end_and_outcome": """
        UPDATE attempt SET outcome = NULL WHERE outcome = 'released'
    """,
    "attempt_that_ends_before_it_starts": """
        UPDATE attempt SET started_at = ended_at + interval '1 s' WHERE outcome = 'released'
    """,
    "ended_job_without_time_of_end": """
        UPDATE job SET finished_at = NULL WHERE state = 'cancelled'
    """,
    "events_with_a_gap": """
        DELETE FROM event USING job WHERE job.id = job_id AND state = 'running' AND number = 2
    """,
    "pending_verdict_that_nobody_will_give": """
        UPDATE job SET evaluation = '{"verdict": "pending"}' WHERE fine_tuned_model IS NOT NULL
    """,
    "pending_delivery_that_nobody_will_make": """
        UPDATE webhook_endpoint SET disabled_at = clock_timestamp()
    """,
    "succeeded_job_without_its_results": "DELETE FROM artifact WHERE name LIKE '%.csv'",
    "succeeded_export_without_its_files": "DELETE FROM artifact WHERE job_id LIKE 'ftexport-%'",
    "unfinished_export_of_a_deleted_model": """
        UPDATE job SET model_deleted_at = clock_timestamp() WHERE fine_tuned_model IS NOT NULL
    """,
}


def test_each_rule_holds_for_sound_rows_and_counts_where_it_is_broken(
    server: Served, db: Database
) -> None:
    file = upload(server.client)
    server.client.webhooks.create(
        name="ours", url="https://hooks.example.com", event_types=["fine_tuning.job.cancelled"]
    )
    _, running, done, cancelled = (create_job(server.client, file.id).id for _ in range(4))
    server.client.fine_tuning.jobs.cancel(cancelled)
    with db.as_control() as tx:
        for token in (1, 2):
            run_by_hand(tx, running, token=token)
            if token == 1:
                end_by_hand(tx, running, AttemptEnd.RELEASED)
        run_by_hand(tx, done)
        end_by_hand(tx, done, AttemptEnd.SUCCEEDED)
    exports = f"/v1/fine_tuning/jobs/{done}/exports"
    exported, _ = (
        server.http().post(exports, json={"format": one}).json()["id"] for one in EXPORTS
    )
    with db.as_control() as tx:
        run_by_hand(tx, exported)
        end_by_hand(tx, exported, AttemptEnd.SUCCEEDED)
    with db.as_control() as tx:
        assert violations(tx) == dict.fromkeys(INVARIANTS, 0)
    for broken in INVARIANTS:
        with db.as_control() as tx:
            tx.execute(text(BREAKS[broken]))
            assert violations(tx) == dict.fromkeys(INVARIANTS, 0) | {broken: 1}
            tx.rollback()
