import re
from collections.abc import Callable

import pytest

from api.admin import create_key
from api.db.session import Database
from api.models import bases
from api.tables import BaseModel
from tests.api.speaking import EXAMINED
from tests.conftest import BASE, Served
from tests.console.conftest import Console
from tests.console.phone import require_accessible_on_a_phone
from tests.factories import create_job, end_by_hand, run_by_hand
from tunery.facts import Examined
from tunery.states import AttemptEnd


@pytest.fixture
def tuned(server: Served, db: Database) -> str:
    """The name of a tuned model of a job that was called `mine`."""
    job = create_job(server.client, suffix="mine")
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    return server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""


def test_a_tuned_model_says_where_it_comes_from_what_goes_on_from_it_and_what_serves_it(
    server: Served, console: Console, tuned: str
) -> None:
    page = console.page
    following = create_job(server.client, model=tuned, suffix="next")
    console.go("/models")
    page.get_by_role("table", name="Tuned models").get_by_role("link", name=tuned).click()
    lineage = page.get_by_role("list", name="Lineage")
    lineage.get_by_role("link", name=following.id).wait_for()
    said = lineage.inner_text()
    places = [said.index(part) for part in ("Base model", "Job", "(this one)", "queued")]
    assert places == sorted(places)
    page.get_by_role("link", name="data.jsonl").wait_for()
    console.shows("Download its adapter")
    assert f"--lora-modules {tuned}=adapter" in page.get_by_label("Command 2").inner_text()
    console.require_accessible()
    require_accessible_on_a_phone(console)

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    console.shows(f"is in use: job {following.id} goes on from it")
    server.client.fine_tuning.jobs.cancel(following.id)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    console.shows("No tuned models yet")
    console.go(f"/models/{following.model}")
    console.shows(f"No model '{tuned}'")


def test_a_base_model_says_its_facts_and_what_was_examined(console: Console, db: Database) -> None:
    console.go("/models")
    console.shows("not examined yet")
    console.require_accessible()
    with db.as_control() as tx:
        revision = tx.get_one(BaseModel, BASE).revision
        bases.note_examined(tx, BASE, revision, Examined.model_validate(EXAMINED))
    console.go(f"/models/{BASE}")
    for words in ("1,024 tokens", "Apache-2.0", "taken apart for Mamba", "vllm serve"):
        console.shows(words)
    console.require_accessible()
    start = console.page.get_by_role("link", name="Fine-tune this")
    assert start.get_attribute("href") == f"#/new?model={BASE}"


def test_an_operator_shares_a_model_and_takes_that_back(
    server: Served, db: Database, window: Callable[..., Console], tuned: str
) -> None:
    other = server.client_for(create_key(db, "dairy", ["read"]))
    operator = window(server.url)
    operator.sign_in(server.admin_key)
    operator.go(f"/models/{tuned}")
    operator.shows("No other project may use it")
    operator.page.get_by_label("Share with the project").select_option(label="dairy")
    operator.page.get_by_role("button", name="Share").click()
    operator.page.get_by_role("button", name="Take back").wait_for()
    assert tuned in [model.id for model in other.models.list()]
    operator.require_accessible()

    reader = window(server.url)
    reader.sign_in(other.api_key)
    reader.go(f"/models/{tuned}")
    reader.shows("which shares it with yours")
    reader.shows("ask that one for its files")
    assert reader.page.get_by_role("button").all_inner_texts() == ["Skip to the page", "Sign out"]
    assert reader.page.get_by_role("link", name=re.compile("Train|tune this|New")).count() == 0

    operator.page.get_by_role("button", name="Take back").click()
    operator.page.get_by_role("dialog").get_by_role("button", name="Take back").click()
    operator.shows("No other project may use it")
    assert tuned not in [model.id for model in other.models.list()]


@pytest.mark.usefixtures("tuned")
def test_the_playground_says_how_to_ask_a_model_here_and_elsewhere(console: Console) -> None:
    console.go("/playground")
    console.shows("It answers at this service's own address")
    console.page.get_by_label("Command 2").wait_for()
    console.require_accessible()
    console.page.get_by_label("Model", exact=True).select_option(BASE)
    console.page.wait_for_url(f"**/#/playground?model={BASE}")
    console.shows("vllm serve")
    assert f'"model":"{BASE}"' in console.page.get_by_label("Request").inner_text()
