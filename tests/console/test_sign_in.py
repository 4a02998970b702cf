from collections.abc import Callable

import pytest
from sqlalchemy import update

from api.admin import create_key
from api.db.session import Database
from api.http import dependencies
from api.tables import ApiKey, from_now
from tests.conftest import Served
from tests.console.conftest import Console


def test_a_key_opens_a_session_whose_cookie_no_script_reads(
    server: Served, window: Callable[..., Console]
) -> None:
    console = window(server.url)
    console.page.goto(server.url)
    console.require_accessible()
    console.sign_in(server.key)
    console.shows("No jobs yet")
    (cookie,) = console.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert server.key not in console.page.evaluate(
        "JSON.stringify([document.cookie, localStorage, sessionStorage, location.href])"
    )
    console.page.reload()
    console.shows("No jobs yet")
    console.require_accessible()
    console.page.get_by_role("button", name="Sign out").click()
    console.shows("Sign in with an API key")


def test_a_key_that_is_wrong_or_sees_nothing_is_refused_in_words(
    server: Served, window: Callable[..., Console]
) -> None:
    console = window(server.url)
    console.page.goto(server.url)
    for key, word in (("sk-other", "not an API key of this service"), (server.worker_key, "lacks")):
        console.page.get_by_label("API key").fill(key)
        console.page.get_by_role("button", name="Sign in").click()
        console.shows(word)
    assert console.page.context.cookies() == []


def test_a_link_signs_in_once(server: Served, window: Callable[..., Console]) -> None:
    made = server.http().post("/v1/sign_in_codes").json()
    first = window(server.url)
    first.go(f"/sign-in?code={made['code']}")
    first.shows("No jobs yet")
    assert made["code"] not in first.page.url
    second = window(server.url)
    second.go(f"/sign-in?code={made['code']}")
    second.shows("used before")


def test_a_reader_sees_no_way_to_change_anything_and_an_operator_more(
    server: Served, db: Database, window: Callable[..., Console]
) -> None:
    reader = window(server.url)
    reader.sign_in(create_key(db, "default", ["read"]))
    reader.shows("No jobs yet")
    assert reader.page.get_by_text("New fine-tune").count() == 0
    assert reader.page.get_by_text("For operators").count() == 0
    operator = window(server.url)
    operator.sign_in(server.admin_key)
    operator.shows("For operators")


def test_a_session_that_ends_says_so_and_the_next_one_is_at_the_same_place(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch, window: Callable[..., Console]
) -> None:
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0)
    console = window(server.url)
    console.sign_in(server.key)
    console.go("/jobs?status=failed")
    console.shows("No job fits")
    with db.as_control() as tx:
        of_sessions = update(ApiKey).where(ApiKey.session_of.is_not(None))
        tx.execute(of_sessions.values(expires_at=from_now(-1)))
    console.shows("The session has ended")
    console.require_accessible()
    console.page.get_by_label("API key").fill(server.key)
    console.page.get_by_role("button", name="Sign in").click()
    console.shows("No job fits")
