"""Sessions of the console, as a browser has them."""

import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from api.db.session import Database
from api.http import dependencies
from api.tables import ApiKey, SignInCode, from_now
from api.tenants import sessions
from tests.conftest import Served


@pytest.fixture(autouse=True)
def _keys_are_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0)


def browser_of(server: Served) -> httpx.Client:
    """Keeps cookies, and sends no key."""
    return server.stack.enter_context(httpx.Client(base_url=server.url, timeout=60))


OWN = {"x-tunery-console": "1"}


def signed_in(server: Served, **shown: Any) -> httpx.Client:
    browser = browser_of(server)
    answer = browser.post("/ui/session", json=shown or {"key": server.key}, headers=OWN)
    assert answer.status_code == 200, answer.text
    return browser


def test_a_session_may_what_its_key_may_and_ends_with_it(server: Served) -> None:
    browser = signed_in(server)
    me = browser.get("/v1/me").json()
    assert me == server.http().get("/v1/me").json()
    assert me["scopes"] == ["read", "write"]
    assert browser.get("/v1/admin/projects").status_code == 403
    projects = server.http(server.admin_key)
    of = f"/v1/admin/projects/{me['project_id']}/keys"
    assert len(projects.get(of).json()["data"]) == 3, "a session's key is not listed"
    assert projects.delete(f"{of}/{me['key_id']}").status_code == 200
    answer = browser.get("/v1/files")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_another_sites_page_changes_nothing_with_the_cookie(server: Served) -> None:
    """A form or a simple request of another site bears the cookie of a browser that sends it in
    spite of SameSite, and never our header.
    """
    browser = signed_in(server)
    answer = browser.post("/v1/uploads", json={})
    assert answer.status_code == 403
    assert "x-tunery-console" in answer.json()["error"]["message"]
    assert browser.post("/v1/uploads", json={}, headers=OWN).status_code == 400  # reads the body
    assert browser.delete("/ui/session").status_code == 403
    assert browser.get("/v1/files").status_code == 200
    # Nor does it sign its reader in to a project of its own choice.
    assert browser_of(server).post("/ui/session", json={"key": server.key}).status_code == 403


def test_a_session_opens_no_other_that_would_outlive_it(server: Served) -> None:
    browser = signed_in(server)
    assert browser.post("/v1/sign_in_codes", headers=OWN).status_code == 403
    key = browser.cookies["tunery_session"]
    again = browser_of(server).post("/ui/session", json={"key": key}, headers=OWN)
    assert (again.status_code, "set-cookie" in again.headers) == (403, False)


def test_a_stranger_makes_the_service_read_no_more_than_a_key_takes(server: Served) -> None:
    answer = browser_of(server).post("/ui/session", json={"key": "k" * 8_000}, headers=OWN)
    assert answer.status_code == 413


def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_http(server: Served) -> None:
    for origin, secure in ((server.url, False), ("https://tunery.example.com", True)):
        headers = OWN | {"origin": origin}
        answer = browser_of(server).post("/ui/session", json={"key": server.key}, headers=headers)
        flags = answer.headers["set-cookie"].lower().split("; ")
        assert {"httponly", "samesite=strict", "path=/"} <= set(flags)
        assert ("secure" in flags) is secure


def test_signing_out_ends_the_session_and_not_the_key(server: Served) -> None:
    browser = signed_in(server)
    cookie = dict(browser.cookies)
    assert browser.delete("/ui/session", headers=OWN).status_code == 204
    assert dict(browser.cookies) == {}
    browser.cookies.update(cookie)
    assert browser.get("/v1/me").status_code == 401
    assert server.http().get("/v1/me").status_code == 200
    audit = server.http(server.admin_key).get("/v1/admin/audit").json()["data"]
    assert [entry["action"] for entry in audit[:2]] == ["session.close", "session.open"]


def test_a_session_ends_after_its_time_and_is_forgotten_later(server: Served, db: Database) -> None:
    browser = signed_in(server)
    with db.as_control() as tx:
        row = tx.scalars(select(ApiKey).where(ApiKey.session_of.is_not(None))).one()
        assert row.expires_at
        assert row.expires_at - row.created_at == timedelta(hours=12)
        tx.execute(update(ApiKey).where(ApiKey.id == row.id).values(expires_at=from_now(-1)))
    assert "expired at" in browser.get("/v1/me").json()["error"]["message"]
    with db.as_control() as tx:
        tx.execute(
            update(ApiKey)
            .where(ApiKey.id == row.id)
            .values(expires_at=from_now(-sessions.KEPT_SECONDS - 1))
        )
        sessions.sweep(tx)
        assert tx.get(ApiKey, row.id, populate_existing=True) is None


def test_a_code_is_good_for_once_and_for_minutes(server: Served, db: Database) -> None:
    made = server.http().post("/v1/sign_in_codes").json()
    assert made["expires_at"] == pytest.approx(time.time() + 15 * 60, abs=60)
    browser = signed_in(server, code=made["code"])
    assert browser.get("/v1/me").json() == server.http().get("/v1/me").json()
    late = server.http().post("/v1/sign_in_codes").json()
    with db.as_control() as tx:
        tx.execute(update(SignInCode).values(expires_at=from_now(-1)))
    for code in (made["code"], late["code"], "invented"):
        answer = browser_of(server).post("/ui/session", json={"code": code}, headers=OWN)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_a_key_has_no_more_sessions_and_codes_than_people_need(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 2)
    browsers = [signed_in(server) for _ in range(3)]
    assert [one.get("/v1/me").status_code for one in browsers] == [401, 200, 200]
    for _ in range(3):
        server.http().post("/v1/sign_in_codes")
    with db.as_control() as tx:
        assert len(tx.scalars(select(SignInCode)).all()) == 2


def test_the_page_runs_only_what_is_its_own_and_is_no_other_pages_frame(server: Served) -> None:
    page = browser_of(server).get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    here = page.text.split('src="')[1].split("/main.js")[0]
    script = browser_of(server).get(f"{here}/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]
    other = browser_of(server).get("/ui/000000000000/main.js")
    assert other.status_code == 404, "a page of another version is told to reload"
    assert browser_of(server).get(f"{here}/../../../main.py").status_code == 404
