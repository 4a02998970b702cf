"""How long others wait while a database full of jobs is migrated from the release before to this
one.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from api.db.migrating import migrate
from api.db.session import Database
from tests.conftest import make_database
from tests.stores import start_stores
from tests.upgrade import previous

LONGEST_SECONDS = 1.0
FILL = """
    SET session_replication_role = replica;
    INSERT INTO job (id, project_id, base_model_id, training_file_id, seed, request,
        hyperparameters, state, model_name)
    SELECT 'ftjob-' || n, project.id, 'base', 'file-' || n, 1, '{"n": 1}', '{}', 'cancelled',
        'ft:' || n
    FROM project, generate_series(1, $count) AS n;
    INSERT INTO attempt (job_id, token, worker_id, worker, started_at, ended_at, outcome,
        project_id)
    SELECT 'ftjob-' || n, 1, 'w', 'w', now() - interval '1 h', now(),
        CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'cancelled' END, project.id
    FROM project, generate_series(1, $count) AS n;
    INSERT INTO event (job_id, number, level, type, message, project_id)
    SELECT 'ftjob-' || n, 1, 'info', 'message', 'm', project.id
    FROM project, generate_series(1, $count) AS n;
    INSERT INTO checkpoint (job_id, step, id, epoch, token, metrics, files, bytes, project_id)
    SELECT 'ftjob-' || n, 1, 'ftckpt-' || n, 1, 1, '{"step": 1, "train_loss": 1.5}', state.files, 9,
        project.id
    FROM project, generate_series(1, $count) AS n, (SELECT jsonb_agg(jsonb_build_object(
        'name', 'state-' || part, 'bytes', 9, 'sha256', repeat('a', 64))) AS files
        FROM generate_series(1, 5) AS part) AS state;
    INSERT INTO file (id, project_id, filename, purpose, bytes, sha256, key, status)
    SELECT 'file-' || n, project.id, 'a', 'fine-tune', 1, '', 'files/' || n, 'processed'
    FROM project, generate_series(1, $count) AS n;
"""
WRITES = (
    "UPDATE job SET progress_at = now() WHERE id = 'ftjob-' || %s",
    "UPDATE attempt SET step = step + 1 WHERE job_id = 'ftjob-' || %s",
    "UPDATE checkpoint SET epoch = 2 WHERE job_id = 'ftjob-' || %s",
    "UPDATE event SET message = 'n' WHERE job_id = 'ftjob-' || %s",
    "UPDATE file SET expires_at = NULL WHERE id = 'file-' || %s",
)


class Prober:
    """Changes a row of a table again and again; `longest` is what that took at most, in seconds."""

    def __init__(self, url: str, statement: str) -> None:
        self.url, self.statement = url, statement
        self.longest = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.probe)
        self.thread.start()

    def probe(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            number = 0
            while not self.over.is_set():
                number = number % 1000 + 1
                began = time.monotonic()
                connection.execute(self.statement.encode(), [number])
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.02)

    def stop(self) -> float:
        self.over.set()
        self.thread.join()
        return self.longest


def longest_of(url: str, do: Callable[[], object]) -> float:
    """The longest change of any table's row meanwhile, in seconds."""
    probers = [Prober(url, statement) for statement in WRITES]
    time.sleep(1)
    try:
        do()
    finally:
        longest = max(prober.stop() for prober in probers)
    return longest


def wait_under(folder: Path, code: Path, jobs: int) -> str:
    """What was measured, in words. Ends the process if somebody waited for too long."""
    folder.mkdir(parents=True)
    with start_stores(folder) as stores:
        url = make_database(stores.postgres_url, "locks")
        env = previous.environment(code) | {"DATABASE_URL": url}
        subprocess.run([sys.executable, "-m", "api.admin", "migrate"], env=env, check=True)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO project (id, name) VALUES ('p', 'p')")
            connection.execute(FILL.replace("$count", str(jobs)).encode())
            connection.execute("VACUUM ANALYZE")
        alone = longest_of(url, lambda: time.sleep(5))
        db = Database(url)
        began = time.monotonic()
        longest = longest_of(url, lambda: migrate(db))
        took = time.monotonic() - began
        db.close()
    words = f"{jobs:,} jobs migrated in {took:.1f} s, in which the longest change of a row took "
    words += f"{longest * 1000:.0f} ms ({alone * 1000:.0f} ms without a migration)"
    if longest > LONGEST_SECONDS:
        sys.exit(f"{words}: more than {LONGEST_SECONDS:.0f} s")
    return words
