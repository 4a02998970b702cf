import re
from collections.abc import Callable

from api.db.session import Database
from api.tables import Job
from tests.conftest import Served
from tests.console.conftest import Console
from tests.factories import create_job, upload, worker_facts
from tunery.measured import Metrics, Progress
from tunery.messages import EventBatch, JobEvent, Lease
from tunery.states import JobState
from worker.client import Client

# Ends a tag, turns the text around, and clears a terminal.
HOSTILE = '"><script>document.title="taken"</script>\u202egnp.exe\u001b[2J'


def take_steps(worker: Client, lease: Lease, losses: list[float], *, first: int = 0) -> None:
    steps = [
        JobEvent(message="a step", metrics=Metrics(step=step, train_loss=loss, valid_loss=loss + 1))
        for step, loss in enumerate(losses, first + 1)
    ]
    progress = Progress(step=first + len(losses), total_steps=10, trained_tokens=1_234)
    worker.add_events(lease, EventBatch(first=first, events=steps, progress=progress))


def test_the_list_follows_the_jobs_and_finds_them(
    server: Served, worker: Client, console: Console
) -> None:
    console.shows("No jobs yet")
    create_job(server.client, suffix="cows")
    console.shows("cows")  # without a reload
    lease = worker.claim(worker_facts())
    assert lease
    take_steps(worker, lease, [2.5, 1.25, 0.5])
    console.shows("step 3 of 10")
    console.shows("2.5 → 0.5")
    console.require_accessible()
    console.page.get_by_label("Search").fill("nothing of the kind")
    console.shows("No job fits")
    assert "q=nothing" in console.page.url
    console.page.get_by_role("link", name="Show all jobs").click()
    console.shows("2.5 → 0.5")
    assert console.page.get_by_label("Search").input_value() == ""
    console.page.get_by_label("Search").fill("COWS")
    console.page.get_by_label("State").select_option("running")
    console.shows("2.5 → 0.5")
    console.page.get_by_role("link", name="cows").click()
    assert re.search(r"#/jobs/ftjob-\w+$", console.page.url)


def test_jobs_are_compared_by_their_curves_and_by_what_is_different(
    server: Served, worker: Client, console: Console
) -> None:
    file = upload(server.client)
    for suffix, seed, losses in (("first", 1, [3.0, 2.0]), ("second", 2, [3.0, 1.0, 0.5])):
        job = create_job(server.client, file.id, suffix=suffix, seed=seed)
        lease = worker.claim(worker_facts())
        assert lease
        assert lease.job_id == job.id
        take_steps(worker, lease, losses)
    console.page.get_by_label("Compare first").check()
    console.page.get_by_label("Compare second").check()
    console.page.get_by_role("link", name="Compare", exact=True).click()
    differ = console.page.get_by_role("region", name="Settings that differ")
    differ.wait_for()
    assert differ.get_by_role("rowheader").all_inner_texts() == ["seed"]
    assert differ.get_by_role("cell").all_inner_texts() == ["1", "2"]
    drawn = console.page.get_by_role("img", name=re.compile("Training loss over step"))
    assert "first from 3 to" in (drawn.get_attribute("aria-label") or "")
    console.require_accessible()


def test_what_others_wrote_is_text(
    server: Served, db: Database, window: Callable[..., Console]
) -> None:
    job = create_job(server.client, metadata={"from": HOSTILE})
    with db.as_control() as tx:
        row = tx.get_one(Job, job.id)
        row.state, row.error_code, row.error_message = JobState.FAILED, "x", HOSTILE
    console = window(server.url, width=360, dark=True)
    console.sign_in(server.key)
    console.shows("<script>")
    assert console.page.title() == "Jobs · Tunery"
    console.require_accessible()
    console.page.get_by_role("button", name="Menu").click()
    console.require_accessible()
