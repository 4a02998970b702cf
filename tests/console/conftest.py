"""A real Chromium, and servers for it."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import Served

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# What a browser says of answers that the tests provoke.
EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d|503)")
SECONDS = 30
expect.set_options(timeout=SECONDS * 1000)


@dataclass
class Console:
    """The console in a browser window of its own, with what went wrong there."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, context: BrowserContext, url: str) -> "Console":
        context.set_default_timeout(SECONDS * 1000)
        page = context.new_page()
        found = cls(page, url)
        page.on("pageerror", lambda error: found.faults.append(str(error)))
        page.on("console", lambda said: found.note(said.type, said.text))
        page.on("request", lambda request: found.require_own(request.url))
        return found

    def note(self, kind: str, text: str) -> None:
        if kind == "error" and not EXPECTED.match(text):
            self.faults.append(text)

    def require_own(self, url: str) -> None:
        """It stands on what everybody may ask: /v1 and its schema."""
        own = ("/v1/", "/ui/", "/openapi.json", "/#", "/?")
        path = url.removeprefix(self.url)
        if path != "/" and not path.startswith(own) and not url.startswith(("blob:", "data:")):
            self.faults.append(f"asked for {url}")

    def go(self, path: str) -> None:
        self.page.goto(f"{self.url}/#{path}")

    def sign_in(self, key: str) -> None:
        self.page.goto(f"{self.url}/")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.locator(".shell main h1").wait_for()

    def shows(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def require_accessible(self) -> None:
        """No violation that axe-core finds, and nothing wider than the window.

        Waits for the page to be drawn: an empty one lacks what each page must have.
        """
        self.page.locator("main").first.wait_for()
        self.page.locator("h1").first.wait_for()
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{self.page.url} is {wide} pixels wider than the window"


def installed_browser() -> str:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise FileNotFoundError("Chromium is not here. `make browser` installs it.")
    return program


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        # Root has no sandbox, and /dev/shm may be small.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = started.chromium.launch(executable_path=installed_browser(), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Console]]:
    """Opens the console of a server, in a window whose cookies are its own."""
    opened: list[Console] = []
    contexts: list[BrowserContext] = []

    def open_(url: str, *, width: int = 1280, dark: bool = False) -> Console:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            accept_downloads=True,
        )
        contexts.append(context)
        console = Console.of(context, url)
        opened.append(console)
        return console

    yield open_
    faults = [fault for console in opened for fault in console.faults]
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def console(server: Served, window: Callable[..., Console]) -> Console:
    """Signed in with a key that reads and writes."""
    found = window(server.url)
    found.sign_in(server.key)
    return found
