"""A few kilobytes that are made to cost gigabytes or minutes."""

import gzip
import io
import json
import time
from typing import Any

import psutil
import pyarrow as pa
from pyarrow import parquet

from tests.attack.town import House, Town
from tests.chaos.cluster import wait_for
from tests.chaos.judge import Outcome
from tests.factories import data_set

MIB = 1 << 20
# What an engine may take for any file that is taken, above what it has when it is idle.
MOST_MIB = 500
# What a small file's check may take, and a job on one.
CHECK_SECONDS, JOB_SECONDS = 60, 180


def row_bombs(town: Town, count: int) -> Outcome:
    """Of `count` thousand rows each: what `a` sends, and then trains on if it is taken."""
    outcome = Outcome(count=count)
    outcome.expect_none(
        "checks over a minute", "engines over 500 MiB", "jobs over 3 min", "b's jobs lost"
    )
    with town.house() as house:
        good = house.b.upload(data_set()).json()["id"]
        house.b.settled(house.b.create(good).json()["id"])
        for name, content in bombs(count * 1_000).items():
            began = time.monotonic()
            file = house.a.upload(content, name).json()
            outcome.tally[f"{name}: bytes"] = len(content)
            wait_for(lambda f=file: checked(house, f["id"])["status"] != "uploaded", 900, "a check")  # type: ignore[misc]
            outcome.seconds[f"{name}: check"] = [time.monotonic() - began]
            if time.monotonic() - began > CHECK_SECONDS:
                outcome.miss("checks over a minute", name)
            status = checked(house, file["id"])["status"]
            outcome.tally[f"{name}: {status}"] += 1
            if status == "processed":
                train(house, name, file["id"], outcome)
        after = house.b.settled(house.b.create(good).json()["id"])
        if after["status"] != "succeeded":
            outcome.miss("b's jobs lost", f"{after['status']}: {after['error']}")
    return outcome


def checked(house: House, file_id: str) -> dict[str, Any]:
    found: dict[str, Any] = house.a.http.get(f"/v1/files/{file_id}").json()
    return found


def train(house: House, name: str, file_id: str, outcome: Outcome) -> None:
    """Until the first step; the engine's memory is watched."""
    engine = psutil.Process(house.pids("w1")["engine"])
    idle, most, began = engine.memory_info().rss, 0, time.monotonic()
    job_id = house.a.create(file_id).json()["id"]
    while time.monotonic() - began < JOB_SECONDS:
        job = house.a.job(job_id)
        most = max(most, engine.memory_info().rss if engine.is_running() else 0)
        if job["finished_at"] or (job["tunery"]["progress"] or {}).get("step"):
            break
        time.sleep(0.2)
    else:
        outcome.miss("jobs over 3 min", name)
    outcome.tally[f"{name}: MiB of the engine"] = (most - idle) // MIB
    if most - idle > MOST_MIB * MIB:
        outcome.miss("engines over 500 MiB", f"{name}: {(most - idle) // MIB} MiB")
    house.a.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    house.a.settled(job_id)


def bombs(rows: int) -> dict[str, bytes]:
    """Each a few kilobytes, but for the plain one and the row of a mebibyte."""
    table = io.BytesIO()
    parquet.write_table(pa.table({"text": pa.array(["a"] * rows)}), table, compression="zstd")
    lines = b"".join(b'{"text":"a%d b"}\n' % (number % 10) for number in range(rows))
    return {
        "rows.parquet": table.getvalue(),
        "rows.jsonl.gz": gzip.compress(lines),
        "rows.jsonl": lines,
        "turns.jsonl": talk(16_000, weight=1),
        "calls.jsonl": talk(4_200, weight=0),
    }


def talk(turns: int, *, weight: int) -> bytes:
    """One row of nearly a mebibyte: answers, or calls of a tool that are not trained."""
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": "q"})
        if weight:
            messages.append({"role": "assistant", "content": "a"})
            continue
        call = {"name": "f", "arguments": "{}"}
        calls = [{"id": f"c{turn}", "type": "function", "function": call}]
        messages.append({"role": "assistant", "content": "", "weight": 0, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": f"c{turn}", "content": "r"})
    messages += [{"role": "user", "content": "q"}, {"role": "assistant", "content": "done"}]
    return json.dumps({"messages": messages}, separators=(",", ":")).encode() + b"\n"
