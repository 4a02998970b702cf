"""Signing in at a real OpenID Connect provider, over HTTP and in a browser: `make login`."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import Page
from pydantic import SecretStr

from api.http import dependencies
from api.roles import read_roles
from api.tenants import provider
from tests.conftest import ROOT, Migrated, Served, serve
from tests.console.conftest import browser, window  # noqa: F401

OWN = {"x-tunery-console": "1"}
FOLDER = ROOT / "build" / "login"
SECRET = "of the client: +%/ and 32 characters"


@pytest.fixture(autouse=True)
def _keys_are_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0)
    monkeypatch.setattr(provider, "KEY_SECONDS", 0)


@contextmanager
def providing(home: str, *, port: int = 0, **options: Any) -> Iterator[str]:
    """The provider's issuer, which knows the service at `home` by four names."""
    client = {
        "redirect_uris": [f"{home}/ui/oidc/callback"],
        "post_logout_redirect_uris": [f"{home}/"],
        "scope": "openid email profile groups",
    }
    ways = {"basic": "client_secret_basic", "post": "client_secret_post", "public": "none"}
    clients = [
        client
        | {"client_id": name, "token_endpoint_auth_method": way}
        | ({} if way == "none" else {"client_secret": SECRET})
        for name, way in ways.items()
    ]
    given = {"port": port, "clients": clients, "algorithm": "RS256", "inToken": True} | options
    with subprocess.Popen(
        ["node", "provider.mjs", json.dumps(given)],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def home() -> str:
    """Where the service will be: the provider has to know it beforehand."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def serve_at(settings: Any, migrated: Migrated) -> Any:
    with ExitStack() as stack:

        def start(home: str, issuer: str, client: str = "basic", **changed: Any) -> Served:
            own = settings.model_copy(
                update={
                    "oidc_issuer": issuer,
                    "oidc_client_id": client,
                    "oidc_client_secret": None if client == "public" else secret(),
                    "oidc_scopes": "openid email profile groups",
                    "oidc_name": "Herd ID",
                    "public_url": home,
                    "oidc_roles": read_roles({"team": "dairy:write", "ops": "*:admin"}),
                }
                | changed
            )
            url = stack.enter_context(serve(own, urlsplit(home).port or 0))
            return Served(own, migrated, url, stack)

        yield start


def secret() -> Any:
    return SecretStr(SECRET)


def put_into(issuer: str, **groups: str) -> None:
    assert httpx.post(f"{issuer}/groups", params=groups).status_code == 200


def consent(url: str, person: str) -> tuple[httpx.Client, str]:
    """Signs in with the provider's own forms; returns the browser, and where it is sent back to."""
    client = httpx.Client(timeout=60)
    for _ in range(12):
        answer = client.get(url)
        if answer.is_redirect:
            url = urljoin(url, answer.headers["location"])
            if "/ui/oidc/callback" in url:
                return client, url
            continue
        found = re.search(r'action="([^"]+)"', answer.text)
        prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
        assert found, answer.text
        assert prompt, answer.text
        form = {"prompt": prompt[1], "login": person, "password": "any"}
        sent = client.post(urljoin(url, unescape(found[1])), data=form)
        url = urljoin(url, sent.headers["location"])
        if "/ui/oidc/callback" in url:
            return client, url
    raise AssertionError(f"it led nowhere, and to {url} in the end")


def sign_in(server: Served, person: str) -> tuple[httpx.Client, httpx.Response]:
    mine = httpx.Client(base_url=server.url, timeout=60, headers=OWN)
    server.stack.enter_context(mine)
    begun = mine.post("/ui/oidc")
    assert begun.status_code == 200, begun.text
    client, back = consent(begun.json()["url"], person)
    client.close()
    returned = httpx.get(back, timeout=60)
    assert returned.status_code == 303
    said = httpx.QueryParams(urlsplit(returned.headers["location"]).fragment.partition("?")[2])
    return mine, mine.post("/ui/oidc/session", json=dict(said))


@pytest.mark.parametrize("client", ["basic", "post", "public"])
@pytest.mark.parametrize(("algorithm", "in_token"), [("RS256", True), ("ES256", False)])
def test_people_sign_in_with_each_kind_of_client_and_signature(
    home: str, serve_at: Any, client: str, algorithm: str, in_token: bool
) -> None:
    with providing(home, algorithm=algorithm, inToken=in_token) as issuer:
        put_into(issuer, ada="team,other")
        server = serve_at(home, issuer, client)
        ada, answer = sign_in(server, "ada")
        assert answer.status_code == 200, answer.text
        me = ada.get("/v1/me").json()
        assert (me["project"], me["scopes"]) == ("dairy", ["read", "write"])
        assert me["person"] == "ada@example.com"


def test_groups_that_go_and_people_who_have_none(home: str, serve_at: Any) -> None:
    with providing(home) as issuer:
        put_into(issuer, ada="team,ops")
        server = serve_at(home, issuer)
        first, _ = sign_in(server, "ada")
        assert first.get("/v1/admin/people").json()["data"][0]["subject"] == "ada"
        put_into(issuer, ada="team")
        second, _ = sign_in(server, "ada")
        assert [one.get("/v1/me").status_code for one in (first, second)] == [401, 200]
        _, refused = sign_in(server, "eve")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_project")


def test_the_providers_new_keys_and_its_absence(home: str, serve_at: Any) -> None:
    port = free_port()
    with providing(home, port=port) as issuer:
        put_into(issuer, ada="team")
        server = serve_at(home, issuer)
        ada, answer = sign_in(server, "ada")
        assert answer.status_code == 200
    begun = ada.post("/ui/oidc")
    assert begun.status_code == 200, "what it says of itself is remembered"
    sent = {"code": "c", "state": httpx.QueryParams(urlsplit(begun.json()["url"]).query)["state"]}
    away = ada.post("/ui/oidc/session", json=sent | {"iss": issuer})
    assert (away.status_code, away.json()["error"]["code"]) == (503, "sign_in_away")
    assert ada.get("/v1/me").status_code == 200, "who is signed in stays so"
    with providing(home, port=port) as issuer:
        put_into(issuer, ada="team")
        assert sign_in(server, "ada")[1].status_code == 200, "its keys are others now"


def test_a_wrong_secret_is_the_operators_to_mend(home: str, serve_at: Any) -> None:
    with providing(home) as issuer:
        server = serve_at(home, issuer, oidc_client_secret=SecretStr("another"))
        _, answer = sign_in(server, "ada")
        assert answer.status_code == 503
        assert "TUNERY_OIDC_CLIENT_SECRET" in answer.json()["error"]["message"]


def sign_in_there(page: Page) -> None:
    page.get_by_role("button", name="Sign in with Herd ID").click()
    page.get_by_placeholder("Enter any login").fill("ada")
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def test_a_browser_goes_there_and_back_and_signs_out_at_both(
    home: str,
    serve_at: Any,
    window: Callable[..., Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with providing(home) as issuer:
        put_into(issuer, ada="team,ops")
        server = serve_at(home, issuer)
        server.http(server.admin_key).post("/v1/admin/projects", json={"name": "herd"})
        console = window(server.url)
        page = console.page
        # The provider's own pages are asked for too; what these load from elsewhere is not.
        monkeypatch.setattr(console, "require_own", lambda _: None)
        page.route(re.compile("^https://"), lambda route: route.fulfill(body=""))
        console.go("/files")
        console.require_accessible()
        sign_in_there(page)
        console.shows("ada@example.com")
        page.wait_for_url(f"{server.url}/#/files")
        (cookie,) = [one for one in page.context.cookies() if one["name"] == "tunery_session"]
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.get_by_label("Go to project").select_option("herd")
        page.locator(".who").get_by_text("herd").first.wait_for()
        console.require_accessible()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("button", name="Yes, sign me out").click()
        page.wait_for_url(f"{server.url}/")
        console.shows("Sign in with an API key")


def tunery(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tunery.cli", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_tunery_login_opens_a_browser_and_gets_a_key_that_can_be_revoked(
    home: str,
    serve_at: Any,
    window: Callable[..., Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The provider needs no other client or address for it than the console's."""
    opened = tmp_path / "opened"
    opener = tmp_path / "browser"
    opener.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    opener.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{opener} %s")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with providing(home) as issuer:
        put_into(issuer, ada="team")
        server = serve_at(home, issuer)
        console = window(server.url)
        page = console.page
        monkeypatch.setattr(console, "require_own", lambda _: None)
        page.route(re.compile("^https://"), lambda route: route.fulfill(body=""))

        login = tunery("login", server.url, "--browser")
        until = time.monotonic() + 60
        while not opened.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        page.goto(opened.read_text().strip())
        sign_in_there(page)
        console.shows("asks for a key of yours")
        console.require_accessible()
        page.get_by_role("button", name="Let it in").click()
        console.shows("The program is let in")
        said, _ = login.communicate(timeout=60)
        assert (login.returncode, "project dairy" in said) == (0, True), said
        asked = tunery("whoami")
        assert "project" in asked.communicate(timeout=60)[0]
        assert asked.returncode == 0

        by_hand = tunery("login", server.url, "--no-browser")
        assert by_hand.stdout
        assert by_hand.stdin
        by_hand.stdout.readline()
        page.goto(by_hand.stdout.readline().strip())
        page.get_by_role("button", name="Let it in").click()
        code = page.get_by_label("Code").inner_text()
        said, _ = by_hand.communicate(f"{code}\n", timeout=60)
        assert (by_hand.returncode, "project dairy" in said) == (0, True), said

        mine = httpx.Client(base_url=server.url, timeout=60, headers=OWN)
        server.stack.enter_context(mine)
        (cookie,) = [one for one in page.context.cookies() if one["name"] == "tunery_session"]
        mine.cookies.set("tunery_session", cookie["value"])
        keys = mine.get("/v1/me/keys").json()["data"]
        assert len(keys) == 2
        for key in keys:
            assert key["name"].startswith("tunery login on ")
            assert mine.delete(f"/v1/me/keys/{key['id']}").status_code == 200
        refused = tunery("whoami")
        refused.communicate(timeout=60)
        assert refused.returncode == 1
