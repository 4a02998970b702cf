"""Writes docs/images: the console's pages, of a service with the demo's job. `make screenshots`."""

from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from tests.console.conftest import installed_browser
from tunery.cli.demo import train
from tunery.cli.service import Running, running

IMAGES = Path(__file__).parent / "images"
PORT = 8323
# What a reader sees first of each; {job} is the demo's job.
PAGES = {
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "charts": "/jobs/{job}/charts",
    "samples": "/jobs/{job}/samples",
    "new": "/new?from={job}",
    "models": "/models",
    "workers": "/admin/workers",
}
PHONE = {"job": "/jobs/{job}"}
SETTLE_MS = 2_000


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    with running(Path(".demo"), PORT, console.print) as service:
        job = train(service, console)
        IMAGES.mkdir(exist_ok=True)
        with sync_playwright() as started:
            browser = started.chromium.launch(
                executable_path=installed_browser(), args=["--no-sandbox"]
            )
            for suffix, width, pages in (("", 1280, PAGES), ("-phone", 390, PHONE)):
                context = browser.new_context(
                    viewport={"width": width, "height": 800}, reduced_motion="reduce"
                )
                take(context.new_page(), service, job.id, pages, suffix)
            browser.close()


def take(page: Page, service: Running, job_id: str, pages: dict[str, str], suffix: str) -> None:
    address = service.base_url.removesuffix("/v1")
    page.goto(service.console_link())
    page.locator("main h1").wait_for()
    for name, path in pages.items():
        page.goto(f"{address}/#{path.format(job=job_id)}")
        page.wait_for_timeout(SETTLE_MS)
        page.wait_for_function("!document.body.innerText.includes('Loading')")
        page.screenshot(path=IMAGES / f"console-{name}{suffix}.png")


if __name__ == "__main__":
    main()
