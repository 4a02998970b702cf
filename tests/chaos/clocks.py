"""The database's clock is set, by minutes to days, forward and back."""

import random
import time
from datetime import timedelta

from tests.chaos.bench import Bench
from tests.chaos.cluster import LEASE_SECONDS, SHORT, Cluster, wait_for
from tests.chaos.judge import Outcome, check_rules, judge

# Names without a schema find these functions first, so all of the service's SQL reads a clock that
# the suite sets. Defaults of columns keep the function they were made with, so they are made again.
CLOCK = """
    CREATE SCHEMA clock;
    GRANT USAGE ON SCHEMA clock TO PUBLIC;
    CREATE TABLE clock.setting (ahead interval NOT NULL);
    GRANT SELECT ON clock.setting TO PUBLIC;
    INSERT INTO clock.setting VALUES ('0');
    CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.now() + ahead FROM clock.setting';
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM clock.setting';
    DO $$
    DECLARE made record;
    BEGIN
        EXECUTE format(
            'ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database()
        );
        CREATE TEMPORARY TABLE defaults AS
            SELECT attrelid::regclass AS name, attname, pg_get_expr(adbin, adrelid) AS expression
            FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum;
        SET LOCAL search_path = clock, pg_catalog, public;
        FOR made IN SELECT * FROM defaults WHERE expression IN ('now()', 'clock_timestamp()') LOOP
            EXECUTE format(
                'ALTER TABLE %s ALTER %I SET DEFAULT %s', made.name, made.attname, made.expression
            );
        END LOOP;
    END $$
"""
RECONNECT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def clock_steps(bench: Bench, rng: random.Random, count: int) -> Outcome:
    """With jobs running and queued. Then a node dies, whose leases are to run out in time."""
    outcome = Outcome()
    with bench.cluster() as cluster:
        cluster.execute(CLOCK)
        cluster.execute(RECONNECT)
        while outcome.count < count:
            cluster.top_up(rng, 3)
            time.sleep(rng.uniform(0.3, 1.5))
            step = rng.choice((-1, 1)) * rng.choice((60, 3_600, 86_400)) * rng.uniform(0.5, 1.5)
            outcome.tally["back" if step < 0 else "forward"] += 1
            cluster.execute("UPDATE clock.setting SET ahead = ahead + %s", timedelta(seconds=step))
            began = time.monotonic()
            cluster.kill_tree("w1")
            waiting = cluster.create(rng.choice(SHORT))
            wait_for(lambda: in_time(cluster), 120, "leases that end in time, and one that lives")
            wait_for(lambda: finished(cluster, waiting), 120, "the jobs that wait")  # noqa: B023
            outcome.count += 1
            outcome.took("to the end of a job that waited", time.monotonic() - began, at_most=30)
            check_rules(cluster, outcome)
        judge(cluster, outcome, bench.references)
    return outcome


def in_time(cluster: Cluster) -> bool:
    """Whether some worker is heard, and no lease lasts longer than one does."""
    query = "SELECT extract(epoch FROM until - clock_timestamp()) AS left FROM lease"
    left = [float(row.left) for row in cluster.rows(query)]
    return any(seconds > LEASE_SECONDS / 2 for seconds in left) and all(
        seconds < LEASE_SECONDS + 1 for seconds in left
    )


def finished(cluster: Cluster, job_id: str) -> bool:
    return cluster.job(job_id)["finished_at"] is not None
