"""Jobs told to Weights & Biases, by a stand-in for its package that keeps what it hears in a file.
Whatever it does, its job never knows.
"""

import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from api.admin import create_key
from api.db.session import Database
from api.janitor import Janitor
from api.trackers import mirror, runs
from api.trackers.mirror import Mirror
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.api.test_janitor import wait_for
from tests.conftest import BASE, Served
from tests.factories import create_job
from tunery import messages
from tunery.measured import Metrics
from worker.client import Client

ROUTE = "/v1/project/integrations/wandb"
KEY = "local-5f0c2b9e7d1a4836a5c4"
WANDB: dict[str, Any] = {"project": "cows", "name": "first", "tags": ["a", "b"]}
SETTINGS: dict[str, Any] = {"integrations": [{"type": "wandb", "wandb": WANDB}]}

# Like the real one: a run that is known goes on after the last step it has.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
HEARD = Path({heard!r})
MOOD = Path({mood!r})

def say(kind, **what):
    with HEARD.open("a") as file:
        file.write(json.dumps([kind, what]) + "\\n")

def Settings(**settings):
    return settings

class Run:
    def __init__(self, id):
        heard = [json.loads(line) for line in HEARD.read_text().splitlines()]
        steps = [what["step"] for kind, what in heard if kind == "log" and what["id"] == id]
        self.id, self.step, self.url = id, max(steps, default=-1) + 1, "https://w.example/" + id
    def log(self, data, step):
        if MOOD.read_text() == "dies at 3" and step == 3:
            os.kill(os.getpid(), 9)
        assert step >= self.step
        say("log", id=self.id, step=step, data=data)
        self.step = step + 1
    def finish(self, exit_code):
        say("finish", exit_code=exit_code)

class AuthenticationError(Exception):
    pass

def init(**asked):
    say("init", argv=sys.argv, environ=dict(os.environ), **asked)
    mood = MOOD.read_text()
    if mood == "refuses":
        raise AuthenticationError("no user has the key " + asked["settings"]["api_key"])
    if mood == "hangs":
        time.sleep(60)
    return Run(asked["id"])
"""


class Heard:
    """What the stand-in was told, and how it feels about it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.mood_path = folder / "heard", folder / "mood"
        self.path.touch()
        self.mood("well")
        package = STAND_IN.format(heard=str(self.path), mood=str(self.mood_path))
        (folder / "wandb.py").write_text(package)

    def mood(self, word: str) -> None:
        self.mood_path.write_text(word)

    def of(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [what for heard, what in lines if heard == kind]


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heard:
    folder = tmp_path / "stand-in"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Heard(folder)


@pytest.fixture
def followed(server: Served, heard: Heard) -> OpenAI:  # noqa: ARG001 (a package there is)
    """A client of a project with a key for the tracker."""
    answer = server.http(server.admin_key).put(ROUTE, json={"api_key": KEY})
    assert answer.status_code == 200
    assert KEY not in answer.text
    return server.client


def test_without_the_package_keys_and_jobs_are_refused_before_anything_is_lost(
    server: Served, followed: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(openai.BadRequestError, match=r"pip install .*tunery\[wandb\]"):
        create_job(followed, **SETTINGS)
    put = server.http(server.admin_key).put(ROUTE, json={"api_key": KEY})
    assert put.json()["error"]["code"] == "wandb_not_installed"
    assert followed.fine_tuning.jobs.list().data == []
    create_job(followed)


def tell_due(server: Served, db: Database) -> list[int]:
    """As the janitor does, one after the other, every pause being over; how often each has failed
    in a row after it.
    """
    with db.as_control() as tx:
        tx.execute(text("UPDATE tracked_run SET next_at = now() WHERE next_at IS NOT NULL"))
    own, failures = Mirror(server.settings, db), []
    while claimed := own.claim():
        own.tell(*claimed)
        with db.as_control() as tx:
            row = "SELECT failures FROM tracked_run WHERE job_id = :job"
            failures.append(tx.execute(text(row), {"job": claimed[0].job_id}).scalar_one())
    return failures


def step_events(first: int, *steps: int) -> messages.EventBatch:
    events = [
        messages.JobEvent(
            message=f"Step {step}",
            metrics=Metrics(step=step, train_loss=1 / step),
            data={"total_steps": 4},
        )
        for step in steps
    ]
    return messages.EventBatch(first=first, events=events)


def end_well(worker: Client, lease: messages.Lease, folder: Path) -> None:
    finish(worker, lease, succeeded(send(worker, lease, folder, ADAPTER)))


def said_of(server: Served, job_id: str) -> list[tuple[str, str]]:
    page = server.client.fine_tuning.jobs.list_events(job_id, limit=100)
    return [(event.level, event.message) for event in reversed(page.data)]


def test_each_step_arrives_once_though_a_telling_is_killed_in_the_middle(
    server: Served,
    followed: OpenAI,
    worker: Client,
    db: Database,
    heard: Heard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(runs, "BATCH_STEPS", 3)
    job = create_job(followed, **SETTINGS)
    assert job.integrations
    assert job.integrations[0].wandb.to_dict() == {**WANDB, "entity": None}
    assert tell_due(server, db) == [], "there is nothing to tell yet"
    lease = claim(worker)
    assert lease
    worker.add_events(lease, step_events(0, 1, 2, 3, 4))
    heard.mood("dies at 3")
    assert tell_due(server, db) == [1]
    heard.mood("well")
    assert tell_due(server, db) == [0, 0], "two batches, one at once after the other"
    end_well(worker, lease, tmp_path)
    assert tell_due(server, db) == [0]
    assert tell_due(server, db) == [], "it was told of the end"

    logged = heard.of("log")
    assert [one["step"] for one in logged] == [1, 2, 3, 4]
    assert [one["data"] for one in logged] == [{"train_loss": 1 / step} for step in (1, 2, 3, 4)]
    assert [one["exit_code"] for one in heard.of("finish")] == [0, 0, 0]
    inits = heard.of("init")
    assert [one["settings"]["x_update_finish_state"] for one in inits] == [False] * 3 + [True]
    for told in inits:
        assert told["settings"]["api_key"] == KEY
        assert told["settings"]["base_url"] == "https://api.wandb.ai"
        assert told["resume"] == "allow"
        assert {name: told[name] for name in ("id", *WANDB)} == {"id": job.id, **WANDB}
        assert KEY not in json.dumps([told["argv"], told["environ"]])
        assert set(told["environ"]) <= {"PYTHONPATH", "HOME", "TMPDIR", "LC_CTYPE"}
    config = inits[-1]["config"]
    assert config["fine_tuned_model"] == followed.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert (config["base_model"], config["training_file"]) == (BASE, job.training_file)
    assert (
        config["hyperparameters"]
        == followed.fine_tuning.jobs.retrieve(job.id).hyperparameters.to_dict()
    )
    said = said_of(server, job.id)
    assert said.count(("info", f"W&B run created: https://w.example/{job.id}")) == 1
    assert KEY not in caplog.text + str(said)


@pytest.mark.parametrize(
    ("mood", "why"), [("refuses", "AuthenticationError"), ("hangs", "did not answer in time")]
)
def test_a_tracker_that_fails_or_hangs_costs_its_job_nothing_and_is_given_up_after_a_day(
    server: Served,
    followed: OpenAI,
    worker: Client,
    db: Database,
    heard: Heard,
    tmp_path: Path,
    mood: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    heard.mood(mood)
    monkeypatch.setattr(mirror, "TELLING_SECONDS", 3)
    job = create_job(followed, **SETTINGS)
    lease = claim(worker)
    assert lease
    worker.add_events(lease, step_events(0, 1))
    janitor = Janitor(server.settings)

    def failures() -> int:
        with db.as_control() as tx:
            return int(tx.execute(text("SELECT failures FROM tracked_run")).scalar_one())

    janitor.sweep()
    if mood == "hangs":
        assert failures() == 0, "nobody waits for a tracker"
    end_well(worker, lease, tmp_path)
    assert followed.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert ("info", "The job has successfully completed") in said_of(server, job.id)
    wait_for(lambda: failures() == 1, 60)
    janitor.db.close()
    assert "warn" not in dict(said_of(server, job.id))
    with db.as_control() as tx:
        pause = text("SELECT next_at - clock_timestamp() FROM tracked_run")
        assert 20 < tx.execute(pause).scalar_one().total_seconds() <= runs.FIRST_PAUSE_SECONDS
        tx.execute(text("UPDATE tracked_run SET failing_since = now() - interval '25 h'"))
    tell_due(server, db)
    assert tell_due(server, db) == [], "it was given up"
    (warning,) = [message for level, message in said_of(server, job.id) if level == "warn"]
    assert why in warning
    assert "the job itself is not affected" in warning
    assert followed.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert KEY not in caplog.text + str(said_of(server, job.id))


def test_a_key_is_its_projects_own_and_is_never_shown(
    server: Served, worker: Client, db: Database, heard: Heard
) -> None:
    admin = server.http(server.admin_key)
    admin.put(ROUTE, json={"api_key": KEY})
    shown = admin.get(ROUTE)
    assert shown.json()["base_url"] == "https://api.wandb.ai"
    assert KEY not in shown.text
    for bad in ("short", "with a space in it", "a\x00bcdefgh", "k" * 513):
        refused = admin.put(ROUTE, json={"api_key": bad})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "api_key")
        assert bad not in refused.text
    elsewhere = admin.put(ROUTE, json={"api_key": KEY, "base_url": "http://10.0.0.1"})
    assert (elsewhere.status_code, elsewhere.json()["error"]["param"]) == (400, "base_url")

    key = create_key(db, "stranger", ["read", "write", "admin"])
    stranger, theirs = server.http(key), "of-another-project"
    assert stranger.get(ROUTE).status_code == stranger.delete(ROUTE).status_code == 404
    with pytest.raises(openai.BadRequestError, match="no key for Weights & Biases"):
        create_job(server.client_for(key), **SETTINGS)
    assert stranger.put(ROUTE, json={"api_key": theirs}).status_code == 200
    job = create_job(server.client_for(key), **SETTINGS)
    lease = claim(worker)
    assert lease
    assert lease.job_id == job.id
    worker.add_events(lease, step_events(0, 1))
    with db.as_control() as tx:
        rows = tx.execute(text("SELECT project_id, sealed FROM tracker_key")).all()
        assert KEY not in str(rows)
        assert theirs not in str(rows)
        tx.execute(
            text("UPDATE tracker_key SET sealed = :ours WHERE project_id = :theirs"),
            {"theirs": job.organization_id}
            | {"ours": next(row.sealed for row in rows if row.project_id != job.organization_id)},
        )
    assert tell_due(server, db) == [1], "one that was sealed for another project does not open"
    assert stranger.delete(ROUTE).json()["deleted"] is True
    assert tell_due(server, db) == [2]
    assert heard.of("init") == []
    stranger.put(ROUTE, json={"api_key": theirs})
    assert tell_due(server, db) == [0]
    assert [told["settings"]["api_key"] for told in heard.of("init")] == [theirs]
