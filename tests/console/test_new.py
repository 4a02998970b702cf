"""A person without code: from a file to a job that has started."""

import json
import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, Route, expect

from api.admin import create_key
from api.db.session import Database
from tests.conftest import BASE, ROOT, Served
from tests.console.conftest import Console
from tests.factories import chat, create_job, data_set, upload, worker_facts
from tunery.facts import TOKENIZER_FILES
from worker.client import Client

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.exe"
IN_ROWS = f"{HOSTILE}\x1b[31m"


def choose(page: Page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "application/jsonl", "buffer": content}
    )


def send_tokenizer(server: Served) -> None:
    admin = server.http(server.admin_key)
    for name in TOKENIZER_FILES:
        path = ROOT / "models" / "tiny" / name
        if path.exists():
            url = f"/v1/admin/models/{name}"
            sent = admin.put(url, params={"model": BASE}, content=path.read_bytes())
            assert sent.status_code == 204


def lose_the_answer(route: Route) -> None:
    """The service does what it was asked, and a proxy in front says that it took too long."""
    assert route.fetch().status == 200
    route.fulfill(status=408, json={})


def part(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


def test_from_a_file_with_a_fault_to_a_job_that_has_started(
    server: Served, console: Console, worker: Client
) -> None:
    worker.heartbeat(worker_facts(), [])
    send_tokenizer(server)
    page = console.page
    page.get_by_role("link", name="New fine-tune").first.click()
    choose(page, "cows.jsonl", f"{chat()}\n{{\n".encode())
    console.shows("1 fault in 1 row.")
    fault = page.get_by_role("list", name="Faults").get_by_role("listitem")
    expect(fault).to_contain_text("Line 2: not valid JSON")
    expect(fault).to_contain_text("Fix Write one complete JSON object on each line")
    expect(page.get_by_role("button", name="Start the fine-tune")).to_be_disabled()

    page.get_by_role("button", name="Take another").click()
    choose(page, "cows.jsonl", data_set(50))
    console.shows("No fault found in 50 rows.")
    page.get_by_role("radio", name=BASE).check()
    expect(part(page, "4. Estimate")).to_contain_text("Optimizer steps39")
    console.shows("3 epochs suit a data set of this size")
    console.shows("What the model reads")
    expect(page.locator("mark.trained bdi").first).to_contain_text("It is 1.")

    rank = page.get_by_label("LoRA rank")
    rank.fill("999")
    console.shows("Input should be less than or equal to 256.")
    expect(rank).to_have_attribute("aria-invalid", "true")
    rank.fill("8")
    page.get_by_label("Epochs", exact=True).fill("2")
    expect(part(page, "4. Estimate")).to_contain_text("Optimizer steps26")
    page.get_by_label("Name", exact=True).fill("cows")
    page.get_by_role("button", name="curl").click()
    console.require_accessible()
    told = page.get_by_role("region", name="This job in curl").inner_text()
    page.route("**/v1/fine_tuning/jobs", lose_the_answer, times=1)
    page.get_by_role("button", name="Start the fine-tune").click()
    console.shows("Status 408")
    page.get_by_role("button", name="Start the fine-tune").click()  # means the same job
    page.wait_for_url(re.compile("#/jobs/ftjob-"))
    expect(page.get_by_role("heading", level=1)).to_have_text("cows")

    (job,) = server.client.fine_tuning.jobs.list().data
    assert page.url.endswith(job.id)
    written = json.loads(told[told.index("-d '") + 4 : told.rindex("'")])
    assert written == {
        "model": BASE, "training_file": job.training_file, "suffix": "cows", "lora": {"r": 8},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    }  # fmt: skip
    assert job.hyperparameters.n_epochs == 2


def test_a_job_is_filled_in_again_and_a_reload_keeps_what_was_changed(
    server: Served, console: Console
) -> None:
    file = upload(server.client, data_set(50))
    settings = {"lora": {"r": 4}, "training": {"weight_decay": 0.1, "validation_split": 0.2}}
    job = create_job(
        server.client, file.id, extra_body=settings, metadata={"team": "dairy"}, seed=7
    )
    page = console.page
    console.go(f"/new?from={job.id}")
    expect(page.get_by_label("LoRA rank")).to_have_value("4")
    page.get_by_label("Maximum length").fill("64")
    page.wait_for_url(re.compile("max_length=64"))
    page.reload()
    for label, value in (("Seed", "7"), ("Share of the rows", "0.2"), ("Maximum length", "64")):
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_label("Epochs", exact=True)).to_have_value("")
    expect(part(page, "4. Estimate")).to_contain_text("Optimizer steps")
    page.get_by_role("button", name="Start the fine-tune").click()
    page.wait_for_url(re.compile("#/jobs/ftjob-"))
    again = server.client.fine_tuning.jobs.list().data[0]
    assert (again.seed, again.metadata) == (7, {"team": "dairy"})
    extras = (again.model_extra or {})["tunery"]
    assert extras["lora"]["r"] == 4
    assert {name: extras["training"][name] for name in ("weight_decay", "max_length")} == {
        "weight_decay": 0.1, "max_length": 64,
    }  # fmt: skip


def test_a_file_with_columns_of_its_own_is_read_by_their_names(
    server: Served, console: Console
) -> None:
    console.go("/new")
    page = console.page
    choose(page, "cards.csv", b"front,back\n" + b"What is it?,A cow.\n" * 3)
    page.get_by_label("Column of the prompt").fill("front")
    page.get_by_label("Column of the completion").fill("back")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.get_by_role("button", name="Read it with these columns").click()
    console.shows("No fault found in 3 rows.")
    console.shows("2 rows are the same as an earlier one")
    (file,) = server.client.files.list()
    assert (file.model_extra or {})["columns"] == {"prompt": "front", "completion": "back"}


def test_an_upload_that_was_cut_goes_on_where_it_was(console: Console) -> None:
    page = console.page

    def impatient(route: Route) -> None:
        """Parts of 1,000 bytes, and short pauses."""
        text = route.fetch().text()
        for name, number in (("PART_BYTES", "1000"), ("LONGEST_PAUSE_MS", "20")):
            text, found = re.subn(rf"const {name} = .*;", f"const {name} = {number};", text)
            assert found
        route.fulfill(body=text, content_type="text/javascript")

    parts: list[str] = []
    cut = True

    def pass_on(route: Route) -> None:
        parts.append(route.request.url)
        if cut and len(parts) > 1:
            route.abort()
        else:
            route.continue_()

    page.route("**/uploads.js", impatient)
    page.route("**/parts", pass_on)
    console.go("/files")
    page.get_by_role("button", name="Choose files").wait_for()
    choose(page, "cows.jsonl", data_set(20))
    page.get_by_role("button", name="Go on").wait_for()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    console.faults.clear()
    cut, sent = False, len(parts)
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("cows.jsonl is here.").wait_for()
    assert len(parts) - sent == -(-len(data_set(20)) // 1000) - 1
    assert len(set(parts)) == 1


def test_what_a_file_says_is_text_on_a_narrow_dark_screen(
    server: Served, window: Callable[..., Console]
) -> None:
    send_tokenizer(server)
    file = upload(server.client, chat(IN_ROWS, IN_ROWS).encode(), name=f"{HOSTILE}.jsonl")
    bad = upload(server.client, json.dumps({IN_ROWS: IN_ROWS}).encode())
    console = window(server.url, width=360, dark=True)
    console.sign_in(server.key)
    for path, shown in (
        ("/files", HOSTILE),
        (f"/files/{file.id}?model={BASE}", "What the model reads"),
        (f"/files/{bad.id}", "1 fault in 1 row."),
        (f"/new?file={file.id}&model={BASE}&suffix=%3Cb%3E", "Optimizer steps"),
    ):
        console.go(path)
        console.shows(shown)
        assert console.page.locator("main img").count() == 0
        console.require_accessible()


def test_a_reader_is_told_that_the_key_cannot_start_a_fine_tune(
    server: Served, db: Database, window: Callable[..., Console]
) -> None:
    upload(server.client)
    reader = window(server.url)
    reader.sign_in(create_key(db, "default", ["read"]))
    reader.go("/new")
    reader.shows("This key can read")
    reader.go("/files")
    reader.shows("data.jsonl")
    assert reader.page.get_by_role("button", name=re.compile("Delete|Choose")).count() == 0


def test_a_file_is_deleted_unless_a_job_needs_it(server: Served, console: Console) -> None:
    used, free = upload(server.client, name="used.jsonl"), upload(server.client, name="free.jsonl")
    job = create_job(server.client, used.id)
    page = console.page
    console.go(f"/files/{used.id}")
    expect(page.get_by_role("table", name="Jobs on it")).to_contain_text(job.id)
    for file, said in ((used, f"is in use by {job.id}"), (free, "used.jsonl")):
        console.go(f"/files/{file.id}")
        page.get_by_role("heading", name=file.filename).wait_for()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        console.shows(said)
    assert [one.id for one in server.client.files.list()] == [used.id]
