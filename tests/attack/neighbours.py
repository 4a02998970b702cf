"""One tenant asks for all it can; what the other one notices of it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from tests.attack.town import House, Town, latencies, storm
from tests.chaos.judge import Outcome
from tests.chaos.report import quantile
from tests.conftest import BASE, ROOT
from tests.factories import data_set

FILES = "/v1/files?limit=5"
# Counting its tokens takes some seconds.
ROWS = 30_000


def creates(town: Town, count: int) -> Outcome:
    """`a` creates jobs on `count` connections; `b` reads."""
    with town.house(workers=0, requests_per_minute=6_000) as house:
        file_id = house.a.upload(data_set()).json()["id"]
        body = {"model": BASE, "training_file": file_id}
        return beside(house, count, "/v1/fine_tuning/jobs", body)


def questions(town: Town, count: int) -> Outcome:
    """`a` asks a model on `count` connections, and no worker is there to answer; `b` reads."""
    with town.house(workers=0, requests_per_minute=6_000, answer_wait_seconds=1) as house:
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}]}
        return beside(house, count, "/v1/chat/completions", body, answered={503})


def beside(
    house: House,
    count: int,
    path: str,
    body: dict[str, Any],
    *,
    answered: Collection[int] = (),
) -> Outcome:
    """`answered` are the failures that `a` is to have."""
    outcome = Outcome(count=count)
    outcome.expect_none("5xx to a", "errors to b", "times slower than 5 x quiet")
    quiet, of_a, busy, of_b = asyncio.run(crowd(house, path, body, count))
    judge_answers(outcome, of_a, of_b, answered)
    outcome.seconds["b's read, quiet"] = quiet
    outcome.seconds["b's read, beside a"] = busy
    # A quiet read takes 10 ms: below that factor of it is what the machine's two cores do.
    floor = max(quantile(quiet, 0.99), 0.05)
    if quantile(busy, 0.99) > 5 * floor:
        outcome.miss("times slower than 5 x quiet", f"p99 {quantile(busy, 0.99):.2f} s")
    return outcome


def judge_answers(
    outcome: Outcome,
    of_a: Counter[int | str],
    of_b: Counter[int | str],
    answered: Collection[int] = (),
) -> None:
    """`a` may be refused, but not by another failure; `b` may not be refused."""
    for status, number in of_a.items():
        outcome.tally[f"answers {status} to a"] += number
        if isinstance(status, str) or (status >= 500 and status not in answered):
            outcome.miss("5xx to a", f"{number} times {status}")
    for status, number in of_b.items():
        if status != 200:
            outcome.miss("errors to b", f"{number} times {status}")


async def crowd(
    house: House, path: str, asked: dict[str, Any], connections: int
) -> tuple[list[float], Counter[int | str], list[float], Counter[int | str]]:
    quiet, _ = await latencies(house, house.b.key, FILES, 5)
    body = json.dumps(asked).encode()
    until = time.monotonic() + 10
    raging = asyncio.create_task(storm(house, house.a.key, connections, until, "POST", path, body))
    await asyncio.sleep(1)
    busy, of_b = await latencies(house, house.b.key, FILES, 8)
    return quiet, await raging, busy, of_b


def reports(town: Town, count: int) -> Outcome:
    """`a` asks on `count` connections how many tokens a large file has; `b` asks of a small one."""
    outcome = Outcome(count=count)
    outcome.expect_none("5xx to a", "errors to b")
    with town.house(workers=0) as house:
        large = house.a.upload(data_set(ROWS)).json()["id"]
        small = house.b.upload(data_set(200)).json()["id"]
        run_as_operator(house, "models", "add", str(ROOT / "models" / "tiny"), "--name", BASE)
        for tenant, file_id in ((house.a, large), (house.b, small)):
            tenant.checked(file_id)
        of_a, quiet, busy, of_b = asyncio.run(counting(house, large, small, count))
    judge_answers(outcome, of_a, of_b)
    outcome.seconds["b's report, quiet"] = quiet
    outcome.seconds["b's report, beside a"] = busy
    return outcome


async def counting(
    house: House, large: str, small: str, connections: int
) -> tuple[Counter[int | str], list[float], list[float], Counter[int | str]]:
    def report(file_id: str) -> str:
        return f"/v1/files/{file_id}/report?model={BASE}"

    quiet, _ = await latencies(house, house.b.key, report(small), 5, pollers=1)
    until = time.monotonic() + 20
    raging = asyncio.create_task(
        storm(house, house.a.key, connections, until, "GET", report(large))
    )
    await asyncio.sleep(2)
    busy, of_b = await latencies(house, house.b.key, report(small), 15, pollers=1)
    return await raging, quiet, busy, of_b


def run_as_operator(house: House, *words: str) -> None:
    env = {"TUNERY_URL": house.url, "TUNERY_KEY": house.key, "PATH": os.defpath}
    command = [sys.executable, "-c", "from tunery.cli.main import app; app()", *words]
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=60)
