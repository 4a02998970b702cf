from collections.abc import Callable

from api.admin import create_key
from api.db.session import Database
from api.tables import Job
from api.webhooks import outbox
from api.webhooks.outbox import EventType
from tests.api.sink import sink
from tests.conftest import Served
from tests.console.conftest import Console
from tests.console.phone import require_accessible_on_a_phone
from tests.factories import create_job

HOSTILE = "<script>document.title = 'taken'</script>\u202eevil\x1b[31m"


def test_an_endpoint_is_made_tested_changed_and_deleted_and_its_secret_is_shown_once(
    serve_with: Callable[..., Served], db: Database, window: Callable[..., Console]
) -> None:
    server = serve_with(webhooks_to_private_addresses=True)
    console = window(server.url)
    console.sign_in(server.key)
    page = console.page
    console.go("/webhooks")
    console.shows("No endpoints yet")
    page.get_by_role("button", name="New endpoint").first.click()
    page.get_by_label("Name").fill(HOSTILE)
    page.get_by_label("Address").fill("ftp://127.0.0.1/hook")
    console.require_accessible()
    page.get_by_role("button", name="Create").click()
    page.locator("input[name=url][aria-invalid=true]").wait_for()
    with sink() as receiver:
        page.get_by_label("Address").fill(receiver.url)
        page.get_by_role("button", name="Create").click()
        secret = page.get_by_label("Signing secret").inner_text()
        assert secret.startswith("whsec_")
        page.reload()
        page.get_by_role("link", name="evil").click()
        page.get_by_role("button", name="Send a sample").click()
        console.shows("The endpoint answered with status 200")
    assert secret not in page.content()
    with db.as_control() as tx:
        job = create_job(server.client)
        outbox.announce(tx, tx.get_one(Job, job.id), EventType.SUCCEEDED)
    page.get_by_role("table", name="Deliveries").get_by_text("on its way").wait_for()
    page.get_by_role("button", name="Send again").click()
    console.require_accessible()
    require_accessible_on_a_phone(console)
    page.get_by_role("button", name="New secret").click()
    page.get_by_role("dialog").get_by_role("button", name="New secret").click()
    assert page.get_by_label("Signing secret", exact=True).inner_text() != secret
    page.get_by_role("button", name="Disable").click()
    console.shows("Nothing is sent to it since")

    reader = window(server.url)
    reader.sign_in(create_key(db, "default", ["read"]))
    reader.page.goto(page.url)
    reader.page.get_by_role("table", name="Deliveries").wait_for()
    assert reader.page.get_by_role("button").all_inner_texts() == ["Skip to the page", "Sign out"]

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    console.shows("No endpoints yet")
