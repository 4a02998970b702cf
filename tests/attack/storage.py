"""Storage that goes away, and storage that rots."""

import shutil
import time
from pathlib import Path

import httpx

from tests.attack.town import House, Tenant, Town
from tests.chaos.judge import Outcome
from tests.factories import data_set

AWAY_SECONDS = 20.0


def away(town: Town, count: int) -> Outcome:
    """The storage folder is moved away while so many jobs wait; its mount point stays."""
    outcome = Outcome(count=count)
    outcome.expect_none("jobs failed", "answers that are not 503", "deleted meanwhile")
    with town.house() as house:
        root, elsewhere = house.folder / "storage", house.folder / "elsewhere"
        file_ids = [house.a.upload(data_set(12 + n)).json()["id"] for n in range(count)]
        stored = files_in(root)
        root.rename(elsewhere)
        root.mkdir()
        jobs = [house.a.create(file_id).json()["id"] for file_id in file_ids]
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            for answer in (
                house.http.get("/readyz"),
                house.a.upload(data_set()),
                house.a.http.get(f"/v1/files/{file_ids[0]}/content"),
            ):
                outcome.tally[f"answers {answer.status_code}"] += 1
                if answer.status_code != 503 or "retry-after" not in answer.headers:
                    outcome.miss("answers that are not 503", f"{answer} {answer.text[:200]}")
            time.sleep(0.5)
        shutil.rmtree(root)
        elsewhere.rename(root)
        began = time.monotonic()
        if lost := stored - files_in(root):
            outcome.miss("deleted meanwhile", f"{lost}")
        for job_id in jobs:
            job = house.a.settled(job_id)
            if job["status"] != "succeeded" or job["tunery"]["attempts"] != 1:
                outcome.miss("jobs failed", f"{job['status']} {job['error']} {job['tunery']}")
        outcome.seconds["to the last job's end"] = [time.monotonic() - began]
    return outcome


def files_in(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def rot(town: Town, count: int) -> Outcome:
    """So many times two bytes of a stored file are changed, and it is asked for."""
    outcome = Outcome(count=count)
    outcome.expect_none("served though damaged", "jobs not failed at once", "workers blamed")
    with town.house() as house:
        for number in range(count):
            file_id = house.a.upload(data_set(12 + number)).json()["id"]
            (row,) = house.rows("SELECT key FROM file WHERE id = %s", file_id)
            damage(house.folder / "storage" / row.key)
            answer = house.a.http.get(f"/v1/files/{file_id}/content")
            if not is_damaged(answer):
                outcome.miss("served though damaged", f"{answer}")
            train_on(house, house.a, file_id, outcome)
        workers = house.http.get("/v1/admin/workers").json()["data"]
        if blamed := [worker for worker in workers if worker["failures"]]:
            outcome.miss("workers blamed", f"{blamed}")
        outcome.tally["damaged in /metrics"] = sum(
            int(float(line.split()[1]))
            for line in house.http.get("/metrics").text.splitlines()
            if line.startswith("ft_storage_damaged ")
        )
    return outcome


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    content[middle + 1] ^= 0x55
    path.write_bytes(content)


def is_damaged(answer: httpx.Response) -> bool:
    return answer.status_code == 500 and answer.json()["error"]["code"] == "content_damaged"


def train_on(house: House, tenant: Tenant, file_id: str, outcome: Outcome) -> None:
    job = tenant.settled(tenant.create(file_id).json()["id"])
    failed = (job["status"], (job["error"] or {}).get("code"), job["tunery"]["attempts"])
    if failed != ("failed", "training_file_damaged", 1):
        outcome.miss("jobs not failed at once", f"{failed} in {house.folder}")
