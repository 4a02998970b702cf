"""A bucket's server that is slow, busy, cut off, refuses or is gone, beneath running jobs."""

import random
import time
from typing import Any

from tests import s3
from tests.chaos.bench import Bench
from tests.chaos.cluster import LEASE_SECONDS
from tests.chaos.judge import Outcome, judge

FAULTS = ("busy", "cut", "refused", "slow", "gone")
CREDENTIALS = f"[default]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n"


def bad_bucket(bench: Bench, rng: random.Random, count: int) -> Outcome:
    outcome = Outcome()
    data = bench.folder / "s3"
    data.mkdir(exist_ok=True)
    with s3.start_server(data) as url, s3.Proxy(url) as proxy:
        keys = data / "credentials"
        keys.write_text(CREDENTIALS)
        place: dict[str, Any] = {
            "storage": s3.new_bucket(),
            "s3_endpoint": proxy.url,
            "s3_path_style": True,
            "storage_cache": data / "cache",
        }
        named = {"AWS_SHARED_CREDENTIALS_FILE": str(keys)}
        with bench.cluster(environment=named, **place) as cluster:
            while outcome.count < count:
                cluster.top_up(rng, 3)
                time.sleep(rng.uniform(0.3, 1.5))
                fault = FAULTS[outcome.count % len(FAULTS)]
                outcome.tally[fault] += 1
                outcome.count += 1
                disturb(proxy.faults, fault, rng)
                time.sleep(rng.uniform(0.5, 2 * LEASE_SECONDS))
                disturb(proxy.faults, "", rng)
            judge(cluster, outcome, bench.references)
        outcome.tally["requests"] += len(proxy.faults.passed)
    return outcome


def disturb(faults: s3.Faults, fault: str, rng: random.Random) -> None:
    """No fault at all is the end of all."""
    many = 1_000_000
    faults.slow_down = many if fault == "gone" else 10 if fault == "busy" else 0
    faults.cut = 10 if fault == "cut" else 0
    faults.refuse = 10 if fault == "refused" else 0
    faults.delay = rng.uniform(0.1, 1) if fault == "slow" else 0
