from collections.abc import Callable
from pathlib import Path

from openai import OpenAI

from api.admin import create_key
from api.db.session import Database
from api.settings import Settings
from tests.api.jobs.evaluations.test_evaluations import answered, created
from tests.api.speaking import ADAPTER, claim, failed, finish, send, succeeded
from tests.conftest import Served, serve
from tests.console.conftest import Console
from tests.factories import create_job, end_pauses, upload
from tunery.measured import Metrics, Pace, Progress, RowLoss, Sample, Samples
from tunery.messages import CheckpointWritten, EventBatch, JobEvent, Lease, LogPart
from tunery.states import FailureClass
from worker.client import Client

STEPS = 60
HOSTILE = "<script>alert(1)</script> \u202eevil\u202c"


def train(worker: Client, lease: Lease, first: int, count: int, *, said: str = "") -> None:
    """Tells of so many steps, and of a message before them."""
    steps = [
        JobEvent(
            message=f"Step {n}/{STEPS}",
            metrics=Metrics(
                step=n,
                train_loss=4 / n,
                valid_loss=3 / n if n % 10 == 0 else None,
                learning_rate=0.001 * (1 - n / STEPS),
                grad_norm=1 / n,
                epoch=n / 20,
            ),
            data={"total_steps": STEPS}
            | Pace(elapsed_seconds=n * 2, tokens_per_second=900, memory_bytes=1 << 30).model_dump(),
        )
        for n in range(first, first + count)
    ]
    spoken = [JobEvent(message=said, level="warn", data={"base_valid_loss": 4.5})] if said else []
    progress = Progress(
        step=first + count - 1, total_steps=STEPS, trained_tokens=999, seconds_left=80
    )
    batch = EventBatch(first=2 * first, events=[*spoken, *steps], progress=progress)
    worker.add_events(lease, batch)


def checkpoint(worker: Client, lease: Lease, folder: Path, step: int) -> None:
    said = Sample(
        line=3,
        prompt=f"What is it? {HOSTILE}",
        expected="Ahoy, a cow.",
        base="It is a cow.",
        tuned="Ahoy, it is a cow.",
    )
    rows = [RowLoss(line=3, text=HOSTILE, base_loss=4.25, loss=0.125)]
    written = CheckpointWritten(
        step=step,
        epoch=0,
        metrics=Metrics(step=step, train_loss=4 / step, valid_loss=3 / step),
        files=send(worker, lease, folder, {"state.bin": b"state"}),
        samples=Samples(answers=[said], best=rows, worst=rows),
    )
    worker.add_checkpoint(lease, written, patience=0)


def test_a_job_is_followed_while_it_waits_and_trains(
    server: Served, console: Console, worker: Client
) -> None:
    valid = upload(server.client).id
    job = create_job(server.client, validation_file=valid, suffix="cows")
    page = console.page
    console.go(f"/jobs/{job.id}")
    console.shows("It waits for a worker.")
    console.shows("Place in the queue")

    lease = claim(worker)
    assert lease
    console.shows("has it and prepares")
    train(worker, lease, 1, 20, said="The plan is made")
    console.shows(f"at step 20 of {STEPS}")
    console.shows("The plan is made")
    console.shows("1 min 20 s")
    page.get_by_label("Level", exact=True).select_option("error")
    console.shows("None of the")

    page.get_by_role("link", name="Charts").click()
    loss = page.get_by_role("img", name="Loss over step: training, each step from 4 to 0.2")
    loss.wait_for()
    train(worker, lease, 21, 20)
    page.get_by_role("img", name="Loss over step: training, each step from 4 to 0.1").wait_for()
    console.shows("the base, validation 4.5")
    console.require_accessible()
    chart = page.get_by_role("img", name="Loss over")
    chart.press("ArrowLeft")
    chart.press("+")
    page.get_by_role("button", name="Show all").first.wait_for()
    assert "zoom=" in page.url
    chart.press("0")
    page.get_by_label("Over", exact=True).select_option("time")
    page.get_by_role("img", name="Loss over time").wait_for()
    page.get_by_role("button", name="Table of Loss").click()
    page.get_by_role("region", name="Loss, as a table").get_by_text("1 min 20 s").wait_for()


def test_what_came_of_a_job_is_compared_read_and_fetched(
    server: Served, console: Console, worker: Client, tmp_path: Path
) -> None:
    valid = upload(server.client).id
    job = create_job(server.client, validation_file=valid)
    lease = claim(worker)
    assert lease
    train(worker, lease, 1, 40)
    checkpoint(worker, lease, tmp_path, 40)
    said = "\x1b[31mred\x1b[0m sky\n"
    worker.add_log(lease, LogPart(start=0, bytes=len(said), text=said))
    page = console.page
    console.go(f"/jobs/{job.id}/log")
    page.get_by_role("region", name="Log").get_by_text("red sky", exact=True).wait_for()
    worker.add_log(lease, LogPart(start=len(said), bytes=7, text="bright\n"))
    page.get_by_role("region", name="Log").get_by_text("red sky\nbright").wait_for()
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    page.get_by_role("link", name="Samples").click()
    console.shows("Ahoy, a cow.")
    marked = page.locator("article mark.differs").all_inner_texts()
    assert marked == ["It", "Ahoy, it"]
    console.require_accessible()
    page.get_by_role("link", name="Results").click()
    console.shows("It answers here, by that name.")
    row = page.get_by_role("table", name="Checkpoints").get_by_role("link", name="Ask it")
    assert "ckpt-step-40&m=ft%3A" in (row.get_attribute("href") or "")
    with page.expect_download() as download:
        page.get_by_role("link", name="adapter_model.safetensors").click()
    assert download.value.path().read_bytes() == ADAPTER["adapter_model.safetensors"]
    page.get_by_label("Format", exact=True).select_option("gguf")
    page.get_by_role("button", name="Export", exact=True).click()
    page.get_by_role("button", name="Cancel export").click()
    page.get_by_role("button", name="Delete export").wait_for()
    console.require_accessible()


def test_a_verdict_is_shown_with_the_rows_that_got_worse(
    server: Served, console: Console, worker: Client, tmp_path: Path
) -> None:
    job = created(server)
    answered(worker, tmp_path, ["no", *["yes"] * 7])
    console.go(f"/jobs/{job.id}")
    region = console.page.get_by_role("region", name="Evaluation")
    region.get_by_text("The tuned model is better than its base").wait_for()
    region.get_by_text("8 rows are few").wait_for()
    region.get_by_role("table", name="Rows that got worse").get_by_text("Question 1?").wait_for()
    console.require_accessible()


def test_the_next_event_appears_after_the_service_has_restarted(
    settings: Settings, db: Database, window: Callable[..., Console]
) -> None:
    key, worker_key = (
        create_key(db, "default", ["read", "write"]),
        create_key(db, "default", ["worker"]),
    )
    with serve(settings, seconds=0) as url:
        job = create_job(OpenAI(base_url=f"{url}/v1", api_key=key))
        worker = Client(url, worker_key)
        lease = claim(worker)
        assert lease
        console = window(url)
        console.sign_in(key)
        console.go(f"/jobs/{job.id}")
        train(worker, lease, 1, 5, said="Before the restart")
        console.shows("Before the restart")
    console.shows("The service does not answer")
    with serve(settings, int(url.rpartition(":")[2]), seconds=0):
        train(worker, lease, 6, 5, said="After the restart")
        console.shows("After the restart")
        console.shows(f"at step 10 of {STEPS}")
        assert console.page.get_by_text("Before the restart").count() == 1
        worker.http.close()
    console.faults = [fault for fault in console.faults if "ERR_" not in fault]


def test_a_job_is_steered_by_its_state_and_made_again(
    server: Served, console: Console, worker: Client
) -> None:
    job = create_job(server.client, suffix="cows")
    page = console.page

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).click()

    console.go(f"/jobs/{job.id}")
    press("Pause")
    console.shows("It is paused")
    press("Resume")
    console.shows("It waits for a worker")
    assert claim(worker)
    console.shows("has it and prepares")
    press("Pause")
    console.shows("It is being paused")
    assert "?from=" in (page.get_by_role("link", name="Clone").get_attribute("href") or "")
    server.client.fine_tuning.jobs.resume(job.id)
    server.client.fine_tuning.jobs.cancel(job.id)
    console.shows("It is being cancelled")
    assert page.get_by_role("button", name="Pause").count() == 0

    other = create_job(server.client, suffix="goats", seed=7)
    server.client.fine_tuning.jobs.cancel(other.id)
    console.go(f"/jobs/{other.id}")
    page.get_by_role("button", name="curl").click()
    console.shows('"seed": 7')
    press("Rerun")
    page.get_by_role("dialog").get_by_role("button", name="Rerun").click()
    console.shows("It waits for a worker")
    again = server.client.fine_tuning.jobs.list().data[0]
    assert (again.id in page.url, again.id != other.id, again.seed) == (True, True, 7)
    server.client.fine_tuning.jobs.cancel(again.id)
    console.shows("It was cancelled before it began")
    server.http().delete(f"/v1/fine_tuning/jobs/{again.id}").raise_for_status()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    console.shows("was deleted while you looked at it")
    page.reload()
    console.shows("No fine-tuning job")


def test_a_reader_sees_a_failed_job_whole_and_can_change_nothing(
    server: Served, db: Database, worker: Client, window: Callable[..., Console], tmp_path: Path
) -> None:
    valid = upload(server.client).id
    job = create_job(
        server.client, validation_file=valid, suffix=HOSTILE, metadata={"team": HOSTILE}
    )
    lease = claim(worker)
    assert lease
    train(worker, lease, 1, 20, said=HOSTILE)
    checkpoint(worker, lease, tmp_path, 20)
    worker.add_log(lease, LogPart(start=0, bytes=64, text=HOSTILE))
    finish(worker, lease, failed(FailureClass.INFRA, HOSTILE))
    end_pauses(db)
    lease = claim(worker, "w2")
    assert lease
    finish(worker, lease, failed(FailureClass.USER, f"Mend the rows. {HOSTILE}"))
    console = window(server.url, width=360, dark=True)
    console.sign_in(create_key(db, "default", ["read"]))
    for view, words in {
        "": "Mend the rows",
        "/charts": "new attempt",
        "/samples": "What is it?",
        "/data": "Validation file",
        "/log": "2, on w2",
        "/results": "best",
    }.items():
        console.go(f"/jobs/{job.id}{view}")
        console.page.get_by_text(words).first.wait_for(state="attached")
        console.require_accessible()
        for verb in ("Pause", "Rerun", "Delete", "Export"):
            assert console.page.get_by_role("button", name=verb).count() == 0
        assert console.page.locator("main a[href^='#/new']").count() == 0
    console.go(f"/jobs/{job.id}/other")
    console.shows("has no view other")
