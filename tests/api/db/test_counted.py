"""What was there before the database counted it is counted by the migration `counted`."""

import time
from concurrent.futures import ThreadPoolExecutor

from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from api.db.revision import alembic_config
from api.db.session import Database
from tests.answering_worker import LOCKS_WAITED_FOR
from tests.api.metrics.test_metrics import add_checkpoint, scrape
from tests.conftest import Served
from tests.factories import create_job, end_by_hand, run_by_hand, upload
from tunery.states import AttemptEnd


def count(owner: Engine) -> None:
    found = ScriptDirectory.from_config(alembic_config()).get_revision("0017")
    assert found
    with owner.begin() as connection:
        for statement in found.module.STATEMENTS:
            connection.execute(text(statement))


def test_all_is_counted_once_also_what_comes_and_goes_meanwhile(
    server: Served, db: Database, owner: Engine
) -> None:
    file = upload(server.client)
    jobs = [create_job(server.client, file.id).id for _ in range(3)]
    for job_id in jobs[:2]:
        with db.as_control() as tx:
            run_by_hand(tx, job_id, began=1000)
            add_checkpoint(tx, job_id, size=700)
        with db.as_control() as tx:
            end_by_hand(tx, job_id, AttemptEnd.CANCELLED)
    with owner.begin() as connection:  # as it is where nothing was counted
        connection.execute(text("DELETE FROM attempt_tally"))
        connection.execute(text("UPDATE project SET checkpoint_bytes = 0"))
    with ThreadPoolExecutor(1) as thread:
        with db.as_control() as tx:
            run_by_hand(tx, jobs[2])
            add_checkpoint(tx, jobs[2], size=50)
            tx.execute(text("DELETE FROM checkpoint WHERE job_id = :it"), {"it": jobs[0]})
            tx.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # it is counted now
            counting = thread.submit(count, owner)
            while not tx.scalar(text(LOCKS_WAITED_FOR)):  # it does not see this transaction
                assert not counting.done()
                time.sleep(0.01)
        counting.result()
    for _ in range(2):
        found = scrape(server)
        assert found["ft_checkpoint_bytes"] == {(): 750}
        assert found["ft_attempts_total"] == {("", "cancelled"): 2}
        assert 2000 <= found["ft_gpu_seconds_total"]["useful",] < 2060
        count(owner)
