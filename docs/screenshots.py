"""Writes pictures of the console, of a service with the demo's job: those of the documents into
docs/images, and every page at two widths into build/screenshots. `make screenshots`.
"""

from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from tests.console.conftest import installed_browser
from tunery.cli.demo import train
from tunery.cli.service import Running, running

IMAGES = Path(__file__).parent / "images"
EVERY_PAGE = Path(__file__).parents[1] / "build" / "screenshots"
PORT = 8323
# What a reader sees first of each; {job} is the demo's job, {file} its data and {model} its model.
SHOWN = {
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "charts": "/jobs/{job}/charts",
    "samples": "/jobs/{job}/samples",
    "new": "/new?from={job}",
    "playground": "/playground?m={model}&m={base}&temperature=0",
    "models": "/models",
    "workers": "/admin/workers",
}
PHONE = {"job": "/jobs/{job}"}
REST = {
    "data": "/jobs/{job}/data",
    "log": "/jobs/{job}/log",
    "results": "/jobs/{job}/results",
    "compare": "/compare",
    "files": "/files",
    "file": "/files/{file}",
    "model": "/models/{model}",
    "webhooks": "/webhooks",
    "queue": "/admin/queue",
    "base-models": "/admin/models",
    "projects": "/admin/projects",
    "audit": "/admin/audit",
}
SETTLE_MS = 2_000


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    with running(Path(".demo"), PORT, console.print) as service:
        job = train(service, console)
        with sync_playwright() as started:
            program = installed_browser()
            browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for width, suffix, to, pages in (
                (1280, "", IMAGES, SHOWN),
                (390, "-phone", IMAGES, PHONE),
                (1280, "", EVERY_PAGE, SHOWN | REST),
                (390, "-phone", EVERY_PAGE, SHOWN | REST),
            ):
                to.mkdir(parents=True, exist_ok=True)
                context = browser.new_context(
                    viewport={"width": width, "height": 800}, reduced_motion="reduce"
                )
                page = sign_in(context.new_page(), service)
                for name, path in pages.items():
                    known = {
                        "job": job.id,
                        "file": job.training_file,
                        "model": job.fine_tuned_model,
                        "base": job.model,
                    }
                    page.goto(page.url.split("#")[0] + "#" + path.format(**known))
                    page.wait_for_timeout(SETTLE_MS)
                    if name == "playground":
                        page.get_by_role("button", name="Ask row 1", exact=True).click()
                        page.get_by_text(" written").nth(1).wait_for()
                    page.wait_for_function("!document.body.innerText.includes('Loading')")
                    page.screenshot(path=to / f"console-{name}{suffix}.png")
            browser.close()


def sign_in(page: Page, service: Running) -> Page:
    page.goto(service.console_link())
    page.locator("main h1").wait_for()
    return page


if __name__ == "__main__":
    main()
