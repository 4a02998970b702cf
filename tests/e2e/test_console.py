"""The whole way of a person without code, on the service with its real worker."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.conftest import ROOT
from tests.console.conftest import Console, browser, window
from tests.e2e.up import Up

__all__ = ["browser", "window"]
TRAINED_MS = 240_000
ASKED_MS = 60_000


def test_a_person_goes_from_a_file_to_a_tuned_model_without_code(
    up: Up, window: Callable[..., Console], tmp_path: Path
) -> None:
    link = next(re.findall(r"http\S+code=\S+", line)[0] for line in up.said if "code=" in line)
    console = window(link.split("/#")[0])
    page = console.page
    page.goto(link)
    page.get_by_role("link", name="New fine-tune").first.click()
    page.locator("input[type=file]").first.set_input_files(ROOT / "examples/pirate.train.jsonl")
    console.shows("No fault found in 400 rows.")
    page.get_by_role("radio", name="tunery-demo").check()
    page.get_by_label("Epochs", exact=True).fill("1")
    page.get_by_label("Learning rate multiplier").fill("6")
    page.get_by_label("A share of the rows").check()
    page.get_by_label("Name", exact=True).fill("pirate")
    page.get_by_role("button", name="Start the fine-tune").click()

    page.wait_for_url(re.compile("#/jobs/ftjob-"))
    expect(page.get_by_text("It has succeeded.")).to_be_visible(timeout=TRAINED_MS)
    page.get_by_role("navigation", name="Views of the job").get_by_text("Samples").click()
    console.shows(re.compile("arr|matey|ahoy|ye", re.IGNORECASE))
    console.require_accessible()
    page.get_by_role("link", name="Ask it").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Your question").fill("What does a cow eat?")
    page.get_by_role("button", name="Ask", exact=True).click()
    answers = page.get_by_role("region", name="Answer of")
    expect(answers.nth(0)).to_contain_text("Arr!", timeout=ASKED_MS)
    expect(answers.nth(1)).to_contain_text("A cow eats grass.", timeout=ASKED_MS)
    page.go_back()
    page.get_by_role("navigation", name="Views of the job").get_by_text("Results").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="adapter_model.safetensors").click()
    download.value.save_as(tmp_path / "adapter")
    digest = hashlib.sha256((tmp_path / "adapter").read_bytes()).hexdigest()
    row = page.get_by_role("row", name="adapter_model.safetensors")
    expect(row.locator("code")).to_have_attribute("title", digest)
