from playwright.sync_api import Browser, Route

from tests.conftest import Served
from tests.console.conftest import Console


def test_an_address_without_a_page_and_a_page_of_another_version_say_so(console: Console) -> None:
    console.go("/nowhere")
    console.shows("Nothing is at /nowhere.")
    console.require_accessible()

    def answer(route: Route) -> None:
        route.fulfill(status=404)

    console.page.route("**/pages/files.js", answer)
    console.go("/files")
    console.shows("This page is out of date")
    console.page.unroute("**/pages/files.js", answer)
    console.page.get_by_role("button", name="Reload").click()
    console.shows("Drop files here")


def test_without_javascript_the_page_says_what_to_use_instead(
    server: Served, browser: Browser
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    assert "This page needs JavaScript." in page.locator("main.alone p").inner_text()
    context.close()
