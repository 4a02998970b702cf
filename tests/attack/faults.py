"""Data, a base model and processes that fail: who is blamed for it."""

import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file, save_file

from tests.attack.town import House, Town
from tests.chaos.cluster import wait_for
from tests.chaos.judge import Outcome
from tests.conftest import ROOT
from tests.factories import data_set
from tunery.base_model import describe

WEIGHTS = "model.safetensors"
# They are read for a second or more.
ROWS = 3_000


def bad_data(town: Town, count: int) -> Outcome:
    """The engine crashes on each of `a`'s files as long as it has one open; `b`'s jobs come
    between.
    """
    outcome = Outcome(count=count)
    outcome.expect_none("not the file's fault", "b's jobs lost", "workers blamed")
    with town.house(retry_seconds=0.1) as house:
        good = house.b.upload(data_set()).json()["id"]
        for number in range(count):
            bad = house.a.upload(data_set(ROWS + number)).json()["id"]
            job_id = house.a.create(bad).json()["id"]
            while house.a.job(job_id)["finished_at"] is None:
                crash_while_open(house, f"{bad}.")
            ended = house.a.job(job_id)
            error = ended.get("error") or {}
            outcome.tally[f"ended as {error.get('code')}"] += 1
            outcome.tally["attempts"] += ended["tunery"]["attempts"]
            if ended["tunery"]["failure_class"] != "user":
                outcome.miss("not the file's fault", f"{ended['status']}: {error}")
            after = house.b.settled(house.b.create(good).json()["id"])
            if after["status"] != "succeeded":
                outcome.miss("b's jobs lost", f"{after['status']}: {after['error']}")
            count_blamed(house, outcome)
    return outcome


def crash_while_open(house: House, name: str) -> None:
    """A file whose name begins with that."""
    engine = house.pids("w1").get("engine", 0)
    with suppress(psutil.Error):
        if any(
            Path(file.path).name.startswith(name) for file in psutil.Process(engine).open_files()
        ):
            house.signal(engine, signal.SIGSEGV)
            time.sleep(0.5)
    time.sleep(0.01)


def killed_engines(town: Town, count: int) -> Outcome:
    outcome = Outcome(count=count)
    outcome.expect_none("job lost", "workers blamed")
    with town.house(retry_seconds=0.1, checkpoint_seconds=600) as house:
        file = house.a.upload(data_set(400)).json()["id"]
        job_id = house.a.create(file).json()["id"]
        for _ in range(count):
            wait_for(lambda: training(house, job_id), 60, "a first step")
            killed = house.a.job(job_id)["tunery"]["attempts"]
            house.signal(house.pids("w1")["engine"], signal.SIGKILL)
            again = killed + 1
            wait_for(lambda again=again: attempts(house, job_id) == again, 90, "the next attempt")  # type: ignore[misc]
        ended = house.a.settled(job_id)
        outcome.tally["attempts"] = ended["tunery"]["attempts"]
        if ended["status"] != "succeeded":
            outcome.miss("job lost", f"{ended['status']}: {ended['error']}")
        count_blamed(house, outcome)
    return outcome


def training(house: House, job_id: str) -> bool:
    """Whether its attempt has reported a step."""
    query = "SELECT count(*) AS steps FROM event JOIN job ON job.id = job_id "
    query += "WHERE job_id = %s AND origin LIKE token || '/%%'"
    (row,) = house.rows(query, job_id)
    return bool(row.steps)


def attempts(house: House, job_id: str) -> int:
    return int(house.a.job(job_id)["tunery"]["attempts"])


def changed_base(town: Town, count: int) -> Outcome:
    """Each time a bit of a weight, size and name as before; then back."""
    outcome = Outcome(count=count)
    outcome.expect_none(
        "trained on other weights", "not trained after the repair", "workers blamed"
    )
    with town.house() as house:
        folder = register(house, shutil.copytree(ROOT / "models" / "tiny", house.folder / "base"))
        file = house.a.upload(data_set()).json()["id"]

        def create() -> str:
            return str(house.a.create(file, model=folder.name, seed=7).json()["id"])

        before = weights_of(house, house.a.settled(create()))
        for _ in range(count):
            content = (folder / WEIGHTS).read_bytes()
            (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 0x40]))
            job_id = create()
            wait_for(lambda: lacks(house), 60, "the worker to notice")
            if (state := house.a.job(job_id)["status"]) != "queued":
                outcome.miss("trained on other weights", state)
            (folder / WEIGHTS).write_bytes(content)
            began = time.monotonic()
            ended = house.a.settled(job_id)
            outcome.took("to train after the repair", time.monotonic() - began, at_most=90)
            if ended["status"] != "succeeded" or weights_of(house, ended) != before:
                outcome.miss("not trained after the repair", f"{ended['status']} {ended['error']}")
            wait_for(lambda: not lacks(house), 60, "the worker to have it again")
        count_blamed(house, outcome)
    return outcome


def broken_base(town: Town, count: int) -> Outcome:
    """They wait, and go on when it was repaired and created again; the user is not blamed."""
    outcome = Outcome(count=count)
    outcome.expect_none("blamed on the user", "not refused", "not trained", "workers blamed")
    with town.house() as house:
        whole = ROOT / "models" / "tiny"
        folder = shutil.copytree(whole, house.folder / "base")
        tensors = load_file(folder / WEIGHTS)
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        register(house, folder)
        file = house.a.upload(data_set()).json()["id"]
        made = [house.a.create(file, model=folder.name).json()["id"] for _ in range(count)]
        wait_for(lambda: broken(house), 60, "the base to be blocked")
        for job_id in made:
            if (job := house.a.job(job_id))["status"] != "queued":
                outcome.miss("blamed on the user", f"{job['status']}: {job['error']}")
        refused = house.a.create(file, model=folder.name)
        if (refused.status_code, refused.json()["error"]["code"]) != (400, "base_model_broken"):
            outcome.miss("not refused", refused.text)
        shutil.copyfile(whole / WEIGHTS, folder / WEIGHTS)
        register(house, folder)
        for job_id in made:
            outcome.tally[f"then {house.a.settled(job_id)['error']['code']}"] += 1
        again = house.a.create(file, model=folder.name)
        if again.is_error or house.a.settled(again.json()["id"])["status"] != "succeeded":
            outcome.miss("not trained", again.text)
        count_blamed(house, outcome)
    return outcome


def register(house: House, folder: Path) -> Path:
    """Under the folder's own name."""
    facts = describe(folder, id_=folder.name)
    house.http.post("/v1/admin/models", json=facts.model_dump()).raise_for_status()
    return folder


def broken(house: House) -> bool:
    return any(model.get("broken") for model in house.http.get("/v1/models").json()["data"])


def workers(house: House) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = house.http.get("/v1/admin/workers").json()["data"]
    return listed


def lacks(house: House) -> bool:
    return any(worker["lacks"] for worker in workers(house))


def count_blamed(house: House, outcome: Outcome) -> None:
    for worker in workers(house):
        if worker["failures"] or worker["state"] != "active":
            outcome.miss("workers blamed", f"{worker['failures']} failures, {worker['state']}")


def weights_of(house: House, job: dict[str, Any]) -> str:
    """The digest of what it trained; nothing, if it did not."""
    listed = house.a.http.get(f"/v1/fine_tuning/jobs/{job['id']}/artifacts").json()["data"]
    return "".join(one["sha256"] for one in listed if one["name"] == "adapter_model.safetensors")
