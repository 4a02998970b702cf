from collections.abc import Callable

import pytest
from sqlalchemy import text

from api.db.session import Database
from tests.api.tenants.test_budgets import BEGAN
from tests.api.tenants.test_usage import POOLS
from tests.conftest import Served
from tests.console.conftest import Console
from tests.console.phone import require_accessible_on_a_phone
from tests.factories import create_job, run_by_hand


@pytest.fixture
def server(serve_with: Callable[..., Served]) -> Served:
    return serve_with(pools=POOLS, project_cost=0.01)


def test_usage_is_shown_by_month_and_key_and_of_a_budget_that_it_is_spent(
    server: Served, window: Callable[..., Console], db: Database
) -> None:
    job = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, job.id, began=3_600, pool="a100")
        priced = "price_per_hour = 3600, currency = 'USD'"
        tx.execute(text(f"UPDATE attempt SET {priced}, started_at = {BEGAN}"))  # noqa: S608
    operator = window(server.url)
    operator.sign_in(server.admin_key)
    operator.page.get_by_role("link", name="Usage").click()
    row = operator.page.get_by_role("table", name="This month").get_by_role("row").nth(1)
    row.get_by_text("default").wait_for()
    assert "$" in row.inner_text()
    operator.shows("new jobs are rejected")
    operator.shows("Last month")
    operator.require_accessible()
    require_accessible_on_a_phone(operator)
    own = window(server.url)
    own.sign_in(server.key)
    own.go("/usage")
    own.shows("and this is your project's")
    own.page.get_by_role("table", name="This month").get_by_text("key_").wait_for()
    with own.page.expect_download() as download:
        own.page.get_by_role("link", name="Download CSV").first.click()
    assert download.value.path().read_text().startswith("start_time,end_time,")
