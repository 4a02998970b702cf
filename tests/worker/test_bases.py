"""A worker that fetches the base models of its jobs from a hub, with an engine that follows a
script.
"""

import resource
import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob

from api.db.session import Database
from api.models import bases as registered
from api.tables import Job
from tests.conftest import Served
from tests.factories import create_job
from tests.hub import COMMIT, Hub, Repo, files_of, serve_hub
from tests.worker.conftest import Work, attempts, retrieve, said, wait_for
from tunery.base_model import describe
from worker.bases import bases
from worker.bases.bases import Hub as Access

NAME = "acme/tiny"
WEIGHTS = "model.safetensors"
Fetch = Callable[..., Work]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture
def base(hub: Hub, db: Database, tmp_path: Path) -> Callable[..., Repo]:
    """A model on the hub, registered."""

    def make(name: str = NAME, size: int = 300_000) -> Repo:
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(bases_folder(), folder)
        # Beside the weights, and of any size.
        (folder / "tokenizer.model").write_bytes(name.encode() * (size // len(name)))
        facts = describe(folder, id_=name, revision=COMMIT, source=f"hf://{name}")
        hub.repos[name] = repo = Repo(files_of(folder), lfs=("tokenizer.model", WEIGHTS))
        with db.as_control() as tx:
            registered.register(tx, facts)
        return repo

    return make


def bases_folder() -> Path:
    from tests.conftest import ROOT

    return ROOT / "models" / "tiny"


@pytest.fixture
def fetching(server: Served, hub: Hub, tmp_path: Path) -> Iterator[Fetch]:
    """Makes workers that know the hub; those of one name share a folder."""
    made: list[Work] = []

    def make(script: str = "finish", folder: str = "work", **given: Any) -> Work:
        given.setdefault("on", Access(endpoint=hub.url))
        made.append(Work(server, tmp_path / folder, script, bases=given))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fetched(worker: Work) -> list[Path]:
    return sorted(path for path in (worker.folder / "fetched").glob("sha256-*") if path.is_dir())


def fetching_of(server: Served, job: FineTuningJob) -> dict[str, int] | None:
    shown = (retrieve(server, job).model_extra or {})["tunery"]["fetching"]
    return dict(shown) if shown else None


def test_a_base_that_the_worker_lacks_is_fetched_once_and_told_of(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub
) -> None:
    repo = base()
    jobs = [create_job(server.client, model=NAME) for _ in range(2)]
    worker = fetching()
    worker.run()
    assert [retrieve(server, job).status for job in jobs] == ["succeeded", "succeeded"]
    (folder,) = fetched(worker)
    wanted = {name: content for name, content in repo.files.items() if name != "README.md"}
    assert files_of(folder) == wanted
    assert hub.asked[f"/storage/{NAME}/{WEIGHTS}"] == 1
    heard = said(server, jobs[0])
    assert "Fetching the base: 0.0 of 0.6 MB" in heard
    assert any(line.startswith("Fetched the base acme/tiny: 0.6 MB in ") for line in heard)
    assert not any("etch" in line for line in said(server, jobs[1]))
    worker.agent.heart.beat([])
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert shown["holds"] == [NAME]


def test_what_breaks_off_goes_on_from_where_it_was(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub
) -> None:
    repo = base()
    repo.cut[WEIGHTS] = [100_000, 50_000]
    job = create_job(server.client, model=NAME)
    worker = fetching()
    worker.run()
    assert retrieve(server, job).status == "succeeded"
    assert hub.asked[f"/storage/{NAME}/{WEIGHTS}"] == 3
    large = len(repo.files[WEIGHTS]) + len(repo.files["tokenizer.model"])
    assert hub.sent_bytes == large, "no byte came twice"


def test_a_worker_that_ends_meanwhile_gives_the_job_back_and_the_next_one_goes_on(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub
) -> None:
    base(size=1 << 20)
    hub.flows.clear()
    job = create_job(server.client, model=NAME)
    first = fetching()
    with first.running():
        wait_for(lambda: (fetching_of(server, job) or {"bytes": 0})["bytes"] > 60_000)
        assert (fetching_of(server, job) or {})["total_bytes"] > 1 << 20
        time.sleep(2.5)  # longer than a lease
        assert attempts(server, job) == 1
        first.draining.set()
    assert retrieve(server, job).status == "queued"
    assert fetching_of(server, job) is None
    (part,) = fetched(first)[0].glob("*.part")
    size = part.stat().st_size
    first.close()
    hub.flows.set()
    fetching().run()
    assert retrieve(server, job).status == "succeeded"
    assert size > 0
    assert hub.ranges == [f"bytes={size}-"]


def test_a_job_is_cancelled_and_paused_while_its_base_is_fetched(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub
) -> None:
    base(size=1 << 20)
    hub.flows.clear()
    jobs = server.client.fine_tuning.jobs
    for wish, state in ((jobs.pause, "paused"), (jobs.cancel, "cancelled")):
        job = create_job(server.client, model=NAME)
        worker = fetching(folder=state)
        with worker.running():
            wait_for(lambda job=job: fetching_of(server, job) is not None)  # type: ignore[misc]
            wish(job.id)
        assert retrieve(server, job).status == state


def test_other_bytes_than_were_registered_are_not_kept_and_another_worker_is_tried(
    server: Served, base: Callable[..., Repo], fetching: Fetch
) -> None:
    repo = base()
    repo.sent[WEIGHTS] = bytes(len(repo.files[WEIGHTS]))
    job = create_job(server.client, model=NAME)
    worker = fetching()
    worker.run()
    assert retrieve(server, job).status == "queued"
    assert "model.safetensors has another content there" in said(server, job)[-1]
    assert worker.agent.lacking.now() == {NAME: f"hf://{NAME}"}
    assert not list((worker.folder / "fetched").glob(f"*/{WEIGHTS}*"))
    queue = (retrieve(server, job).model_extra or {})["tunery"]["queue"]
    assert "w1, which could not fetch the base model acme/tiny" in queue["reason"]
    repo.sent.clear()
    fetching(folder="another").run()
    assert retrieve(server, job).status == "succeeded"


def test_a_model_that_has_been_renamed_since_is_found(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub
) -> None:
    base()
    hub.repos["acme/new"], hub.renamed[NAME] = hub.repos.pop(NAME), "acme/new"
    job = create_job(server.client, model=NAME)
    fetching().run()
    assert retrieve(server, job).status == "succeeded"


def gated(hub: Hub) -> None:
    hub.repos[NAME].gated = True


def gone(hub: Hub) -> None:
    hub.repos.clear()


def busy(hub: Hub) -> None:
    hub.status = 429


def in_html(hub: Hub) -> None:
    hub.html = True


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (gated, "acme/tiny is gated, and HF_TOKEN is not set"),
        (gone, "has no model acme/tiny"),
        (busy, "cannot be fetched just now (HTTP 429)"),
        (in_html, "does not answer as a model hub does (ValueError)"),
    ],
)
def test_why_a_base_cannot_be_fetched_is_an_event_and_costs_the_job_nothing(
    server: Served,
    base: Callable[..., Repo],
    fetching: Fetch,
    hub: Hub,
    trouble: Callable[[Hub], None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bases, "PATIENCE_SECONDS", 0)
    base()
    trouble(hub)
    job = create_job(server.client, model=NAME)
    worker = fetching()
    worker.run()
    assert retrieve(server, job).status == "queued"
    assert words in said(server, job)[-1]
    assert "this one tries again in some minutes" in said(server, job)[-1]
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert shown["failures"] == 0


def test_the_token_opens_a_gated_base_and_is_told_nobody(
    server: Served, base: Callable[..., Repo], fetching: Fetch, hub: Hub, db: Database
) -> None:
    base()
    gated(hub)
    job = create_job(server.client, model=NAME)
    worker = fetching(on=Access(endpoint=hub.url, token=Hub.token))
    worker.run()
    assert retrieve(server, job).status == "succeeded"
    with db.as_control() as tx:
        row = str(vars(tx.get_one(Job, job.id)))
    assert Hub.token not in row + "".join(said(server, job))


def test_there_is_room_or_it_is_said_before_the_first_byte(
    server: Served,
    base: Callable[..., Repo],
    fetching: Fetch,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base()
    job = create_job(server.client, model=NAME)
    fetching(folder="a", most_bytes=1000).run()
    assert "(TUNERY_FETCHED_BYTES)" in said(server, job)[-1]
    usage = namedtuple("usage", ["total", "used", "free"])  # noqa: PYI024 - as the system's is
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, bases.SPARE_BYTES))
    fetching(folder="b").run()
    assert "the worker's disk has 0.0 GB for it" in said(server, job)[-1]
    fetching(folder="c", on=Access(endpoint=hub.url, offline=True)).run()
    assert "asks no model hub (HF_HUB_OFFLINE is set)" in said(server, job)[-1]
    assert hub.asked.total() == 0


def test_a_disk_that_fills_up_meanwhile_is_told(
    server: Served, base: Callable[..., Repo], fetching: Fetch
) -> None:
    base()
    job = create_job(server.client, model=NAME)
    worker = fetching()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        worker.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert retrieve(server, job).status == "queued"
    assert "cannot be written to the worker's disk: File too large" in said(server, job)[-1]


def test_the_base_used_longest_ago_makes_room(
    server: Served, base: Callable[..., Repo], fetching: Fetch
) -> None:
    names = [f"acme/{letter}" for letter in "abc"]
    sizes = [sum(map(len, base(name).files.values())) for name in names]
    worker = fetching(most_bytes=int(2.5 * max(sizes)))
    folders: dict[str, Path] = {}
    for name in (names[0], names[1], names[0], names[2]):
        job = create_job(server.client, model=name)
        before = set(fetched(worker))
        worker.run()
        assert retrieve(server, job).status == "succeeded"
        for new in set(fetched(worker)) - before:
            folders[name] = new
    assert set(fetched(worker)) == {folders[names[0]], folders[names[2]]}


def test_a_fetched_base_that_was_damaged_is_fetched_anew(
    server: Served, base: Callable[..., Repo], fetching: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    base()
    job = create_job(server.client, model=NAME)
    worker = fetching("lacks")
    worker.run()
    assert fetched(worker) == []
    monkeypatch.setattr("worker.lacking.NOT_FETCHED_SECONDS", 0)
    worker.close()
    fetching().run()
    assert retrieve(server, job).status == "succeeded"
