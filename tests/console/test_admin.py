import re
from collections.abc import Callable

import pytest

from api.db.session import Database
from api.tables import Job
from api.ui.assets import FOLDER
from tests.api.jobs.queue.test_turns import queue
from tests.conftest import BASE, ROOT, Served
from tests.console.conftest import Console
from tests.console.phone import require_accessible_on_a_phone
from tests.factories import create_job, run_by_hand, worker_facts
from tests.hub import COMMIT, Repo, serve_hub
from worker.client import Client

RECORDED = r'audit\.record\([^"]*"([a-z_.]+)"'
HOSTILE = "<img src=x onerror=\"document.title = 'taken'\">\u202eevil\x1b[31m"


@pytest.fixture
def operator(server: Served, window: Callable[..., Console]) -> Console:
    found = window(server.url)
    found.sign_in(server.admin_key)
    return found


def test_who_is_no_operator_is_told_so_on_each_of_their_pages(console: Console) -> None:
    for path in ("", "/workers", "/queue", "/models", "/projects", "/projects/proj_x", "/audit"):
        console.go(f"/admin{path}")
        console.page.get_by_role("alert").get_by_text("'admin'").wait_for()
        assert console.page.locator("main").get_by_role("button").all_inner_texts() == ["Try again"]
    console.require_accessible()


def test_workers_appear_by_themselves_and_are_drained_resumed_and_removed(
    operator: Console, worker: Client
) -> None:
    page = operator.page
    operator.go("/admin/workers")
    operator.shows("No worker has shown itself yet")
    worker.heartbeat(worker_facts("gpu-1").model_copy(update={"holds": [BASE]}), [])
    row = page.get_by_role("row").filter(has_text="gpu-1")
    row.get_by_text("idle").wait_for()
    assert BASE in row.inner_text()
    operator.require_accessible()
    require_accessible_on_a_phone(operator)
    row.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    row.get_by_text("draining").wait_for()
    row.get_by_role("button", name="Resume").click()
    row.get_by_text("idle").wait_for()
    row.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    operator.shows("No worker has shown itself yet")


def test_a_new_worker_is_given_a_key_and_the_commands_that_start_it(
    operator: Console, server: Served
) -> None:
    page = operator.page
    operator.go("/admin/workers")
    page.get_by_role("button", name="Add a worker").first.click()
    page.get_by_label("Name of the worker").fill("gpu 7")
    operator.require_accessible()
    page.get_by_role("button", name="Make a key").click()
    key = page.get_by_label("Worker key").inner_text()
    commands = page.get_by_label("Commands").inner_text()
    assert f"export TUNERY_WORKER_KEY={key}\n" in commands
    assert f"export TUNERY_API_URL={server.url}\n" in commands
    assert "export TUNERY_WORKER_NAME='gpu 7'\n" in commands
    client = Client(server.url, key)
    client.heartbeat(worker_facts("gpu 7"), [])
    client.http.close()
    page.get_by_role("row").filter(has_text="gpu 7").wait_for()


def test_the_queue_shows_what_runs_and_in_which_order_all_projects_wait(
    operator: Console, server: Served, db: Database
) -> None:
    own = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, own.id)
        jobs = [
            queue(tx, project, ready=9 - n) for n, project in enumerate(["dairy", "dairy", "lab"])
        ]
        tx.get_one(Job, jobs[0]).memory_bytes = {"bf16": 18 << 30, "fp32": 30 << 30}
    operator.go("/admin/queue")
    running = operator.page.get_by_role("table", name="Running")
    running.get_by_role("link", name=own.id).wait_for()
    waiting = operator.page.get_by_role("table", name="Waiting").get_by_role("row")
    assert re.findall(r"ftjob-\w+", " ".join(waiting.all_inner_texts())) == [
        jobs[0], jobs[2], jobs[1]
    ]  # fmt: skip
    assert "no worker" in waiting.nth(1).inner_text()
    assert waiting.get_by_role("link").count() == 0, "other projects' jobs have no page here"
    operator.shows("GPU with 24 GiB")
    operator.require_accessible()
    require_accessible_on_a_phone(operator)


def test_a_base_model_is_added_by_its_name_on_the_hub_or_refused_in_the_apis_words(
    serve_with: Callable[..., Served], window: Callable[..., Console]
) -> None:
    with serve_hub() as hub:
        hub.repos["acme/tiny"] = Repo()
        server = serve_with(hf_endpoint=hub.url, hf_hub_offline=False)
        operator = window(server.url)
        operator.sign_in(server.admin_key)
        page = operator.page
        operator.go("/admin/models")
        name = page.get_by_role("textbox", name="Name on the hub")
        name.fill("acme/none")
        page.get_by_role("button", name="Add", exact=True).click()
        page.locator("input[name=hub][aria-invalid=true]").wait_for()
        operator.require_accessible()
        name.fill("acme/tiny")
        page.get_by_role("button", name="Add", exact=True).click()
        operator.shows(f"is registered at version {COMMIT}")
        row = page.get_by_role("row").filter(has_text="acme/tiny")
        row.get_by_text("not examined yet").wait_for()
        operator.require_accessible()
        row.get_by_role("link", name="Add again").click()
        page.get_by_role("heading", name="Add acme/tiny again").wait_for()
        assert page.get_by_label("Version").input_value() == COMMIT
        require_accessible_on_a_phone(operator)


def test_a_project_is_made_and_limited_and_its_keys_are_made_rotated_and_revoked(
    operator: Console, server: Served
) -> None:
    page = operator.page
    operator.go("/admin/projects")
    page.get_by_label("Name").fill("no spaces")
    page.get_by_role("button", name="Create").click()
    page.locator("input[name=name][aria-invalid=true]").wait_for()
    operator.require_accessible()
    page.get_by_label("Name").fill("dairy")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("heading", name="dairy").wait_for()

    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill(HOSTILE)
    page.get_by_label("write").uncheck()
    page.get_by_role("button", name="Create key").click()
    key = page.get_by_label("API key").inner_text()
    assert server.http(key).get("/v1/me").json()["scopes"] == ["read"]
    page.get_by_role("button", name="I have copied it").click()
    assert key not in page.content()
    operator.require_accessible()
    require_accessible_on_a_phone(operator)
    row = page.get_by_role("row").filter(has_text="evil")
    row.get_by_role("button", name="Rotate").click()
    page.get_by_role("dialog").get_by_label("The old one ends").select_option("in an hour")
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    other = page.get_by_label("API key").inner_text()
    row.nth(1).wait_for()
    assert [server.http(one).get("/v1/me").status_code for one in (key, other)] == [200, 200]
    row.filter(has_text="ends in").get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    row.nth(1).wait_for(state="detached")

    page.get_by_label("Running jobs at once").fill("2")
    page.get_by_role("button", name="Save limits").click()
    operator.shows("0 of 2")

    page.get_by_role("link", name="Audit").first.click()
    page.get_by_label("Action").select_option("key.revoke")
    page.get_by_role("table", name="Changes").get_by_text("key.revoke").wait_for()
    assert page.get_by_role("row").count() == 2
    operator.require_accessible()


def test_the_audit_offers_every_action_that_is_recorded() -> None:
    sources = [path.read_text() for path in (ROOT / "api").rglob("*.py")]
    recorded = {found for text in sources for found in re.findall(RECORDED, text)}
    page = (FOLDER / "pages" / "admin" / "audit.js").read_text()
    actions = page.partition("ACTIONS = [")[2].partition("]")[0]
    assert re.findall(r'"(.+?)"', actions) == sorted(recorded)
