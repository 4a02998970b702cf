"""Signing in at a provider, and what it gives. `tests/login` does it at a real one."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select, update

from api.db.session import Database
from api.http import dependencies
from api.roles import read_roles
from api.tables import NOW, ApiKey, Job, Person, SignInCode
from api.tenants import provider, sessions
from api.tenants.projects import Caller
from tests.conftest import BASE, Served, fresh_database, serve, settings_for
from tests.factories import create_job
from tests.issuer import CLIENT, OTHER_KEY, SECRET, Issuer, issuing, public
from tunery import pkce

OWN = {"x-tunery-console": "1"}
ROLES = {"team": "dairy:write", "guests": "herd:read", "ops": "*:admin"}


@pytest.fixture(autouse=True)
def _keys_are_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as made:
        yield made


@pytest.fixture
def serve_at(serve_with: Callable[..., Served], issuer: Issuer) -> Callable[..., Served]:
    def start(**changed: Any) -> Served:
        settings: dict[str, Any] = {
            "oidc_issuer": issuer.url,
            "oidc_client_id": CLIENT,
            "public_url": "https://tunery.example.com",
            "oidc_roles": read_roles(changed.pop("roles", ROLES)),
        }
        return serve_with(**settings | changed)

    return start


@pytest.fixture
def server(serve_at: Callable[..., Served]) -> Served:
    return serve_at()


def browser_of(server: Served) -> httpx.Client:
    client = httpx.Client(base_url=server.url, timeout=60, headers=OWN)
    return server.stack.enter_context(client)


def begin(browser: httpx.Client) -> dict[str, str]:
    """What the browser is sent to the provider with."""
    answer = browser.post("/ui/oidc")
    assert answer.status_code == 200, answer.text
    return {name: said[0] for name, said in parse_qs(urlsplit(answer.json()["url"]).query).items()}


def finish(browser: httpx.Client, issuer: Issuer, **claims: Any) -> httpx.Response:
    asked = begin(browser)
    sent = {"code": issuer.code_for(asked["nonce"], **claims), "state": asked["state"]}
    return browser.post("/ui/oidc/session", json=sent)


def signed_in(server: Served, issuer: Issuer, **claims: Any) -> httpx.Client:
    browser = browser_of(server)
    answer = finish(browser, issuer, **claims)
    assert answer.status_code == 200, answer.text
    return browser


def test_groups_give_projects_and_roles_and_a_person_acts_in_one_of_them(
    server: Served, issuer: Issuer
) -> None:
    browser = signed_in(server, issuer, groups=["team", "guests", "unheard of"])
    me = browser.get("/v1/me").json()
    assert (me["project"], me["scopes"]) == ("dairy", ["read", "write"])
    assert me["person"] == "ada@example.com"
    mine = browser.get("/v1/me/projects").json()["data"]
    assert [(one["name"], one["scopes"]) for one in mine] == [
        ("dairy", ["read", "write"]),
        ("herd", ["read"]),
    ]
    before = browser.cookies["tunery_session"]
    switched = browser.post("/ui/session/project", json={"project_id": mine[1]["id"]})
    assert (switched.json()["project"], switched.json()["scopes"]) == ("herd", ["read"])
    assert browser.get("/v1/project").json()["name"] == "herd"
    assert browser.post("/v1/webhook_endpoints", json={}).status_code == 403
    shown = {"x-tunery-console": mine[0]["id"]}
    answer = browser.post("/v1/fine_tuning/estimate", json={}, headers=shown)
    assert (answer.status_code, "another project" in answer.text) == (409, True)
    old = {"cookie": f"tunery_session={before}"}
    assert httpx.get(f"{server.url}/v1/me", headers=old, timeout=60).status_code == 401
    foreign = {"project_id": server.http().get("/v1/me").json()["project_id"]}
    assert browser.post("/ui/session/project", json=foreign).status_code == 404
    assert browser.get("/v1/admin/projects").status_code == 403
    browser.headers.pop("x-tunery-console")
    assert browser.post("/v1/webhook_endpoints", json={}).status_code == 403


def test_an_operator_has_every_project_and_what_people_do_says_who(
    server: Served, issuer: Issuer, db: Database
) -> None:
    ops = signed_in(server, issuer, subject="grace", groups=["ops"])
    names = [one["name"] for one in ops.get("/v1/me/projects").json()["data"]]
    assert names == ["default"]
    assert ops.get("/v1/me").json()["scopes"] == ["admin", "read", "write"]
    project = ops.post("/v1/admin/projects", json={"name": "trials"}).json()
    entry = ops.get("/v1/admin/audit").json()["data"][0]
    assert (entry["action"], entry["person"]) == ("project.create", "grace@example.com")
    (person,) = ops.get("/v1/admin/people").json()["data"]
    by_key = create_job(server.client)
    asked = {"model": BASE, "training_file": by_key.training_file}
    by_her = ops.post("/v1/fine_tuning/jobs", json=asked).json()
    key_id = server.http().get("/v1/me").json()["key_id"]
    with db.as_control() as tx:
        made = [tx.get_one(Job, id_) for id_ in (by_key.id, by_her["id"])]
        assert [(job.key_id, job.person_id) for job in made] == [
            (key_id, None),
            (None, person["id"]),
        ]
    assert ops.post("/ui/session/project", json={"project_id": project["id"]}).status_code == 200
    assert (person["subject"], person["rights"]) == ("grace", {"*": ["admin", "read", "write"]})
    assert ops.post(f"/v1/admin/people/{person['id']}/sign_out").status_code == 200
    assert ops.get("/v1/me").status_code == 401


def test_who_loses_a_group_loses_its_sessions_and_keys_at_the_next_sign_in(
    server: Served, issuer: Issuer, db: Database
) -> None:
    first = signed_in(server, issuer, groups=["team", "guests"])
    guest = signed_in(server, issuer, groups=["team", "guests"])
    projects = {one["name"]: one["id"] for one in guest.get("/v1/me/projects").json()["data"]}
    guest.post("/ui/session/project", json={"project_id": projects["herd"]})
    again = signed_in(server, issuer, groups=["guests"])
    assert [one.get("/v1/me").status_code for one in (first, guest, again)] == [401, 200, 200]
    refused = finish(browser_of(server), issuer, groups=["others"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "no_project")
    assert "others" in refused.json()["error"]["message"]
    assert guest.get("/v1/me").status_code == 401
    with db.as_control() as tx:
        (person,) = tx.scalars(select(Person))
        assert person.rights == {}
    stranger = finish(browser_of(server), issuer, subject="eve", groups=[])
    assert stranger.status_code == 403
    with db.as_control() as tx:
        assert len(tx.scalars(select(Person)).all()) == 1, "who may do nothing is not kept"


def test_a_person_makes_keys_that_may_no_more_than_they_may_and_end_with_that(
    server: Served, issuer: Issuer
) -> None:
    ada = signed_in(server, issuer, groups=["team", "guests"])
    made = ada.post("/v1/me/keys", json={"name": "laptop"}).json()
    assert (made["scopes"], made["expires_at"] - made["created_at"]) == (
        ["read", "write"],
        30 * 86_400,
    )
    program = server.http(made["key"])
    assert program.get("/v1/me").json()["person"] == "ada@example.com"
    assert program.post("/v1/me/keys", json={}).status_code == 403, "a key makes no other"
    (own,) = program.get("/v1/me/projects").json()["data"]
    assert own["name"] == "dairy", "a key is told of no project but its own"
    refused = ada.post("/v1/me/keys", json={"scopes": ["admin"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scopes")
    assert ada.post("/v1/me/keys", json={"expires_days": 91}).status_code == 400
    path = f"/v1/me/keys/{made['id']}"
    bob = signed_in(server, issuer, subject="bob", groups=["team"])
    assert bob.get("/v1/me/keys").json()["data"] == []
    assert [bob.delete(path).status_code, bob.post(f"{path}/rotate").status_code] == [404, 404]
    rotated = server.http(ada.post(f"{path}/rotate").json()["key"])
    assert [one.get("/v1/me").status_code for one in (program, rotated)] == [401, 200]
    signed_in(server, issuer, groups=["guests"])
    assert rotated.get("/v1/me").status_code == 401


def test_who_is_signed_out_makes_no_key_and_no_session_in_the_moment_that_a_session_is_remembered(
    server: Served, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = signed_in(server, issuer, groups=["team", "guests"])
    key = ada.post("/v1/me/keys", json={}).json()
    projects = ada.get("/v1/me/projects").json()["data"]
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 60)
    assert ada.get("/v1/me").status_code == 200
    operator = server.http(server.admin_key)
    (person,) = operator.get("/v1/admin/people").json()["data"]
    assert operator.post(f"/v1/admin/people/{person['id']}/sign_out").status_code == 200
    assert ada.get("/v1/me").status_code == 200, "the session is remembered"
    asked = [
        ("/v1/me/keys", {}),
        (f"/v1/me/keys/{key['id']}/rotate", {}),
        ("/ui/session/project", {"project_id": projects[1]["id"]}),
    ]
    assert [ada.post(path, json=body).status_code for path, body in asked] == [401] * 3


def test_a_program_that_a_person_lets_in_makes_itself_one_key_of_theirs(
    server: Served, issuer: Issuer, db: Database
) -> None:
    ada = signed_in(server, issuer, groups=["guests"])
    verifier = pkce.new_verifier()
    asked = {"challenge": pkce.challenge_of(verifier)}

    def exchange(code: str, **other: str) -> httpx.Response:
        sent = {"code": code, "verifier": verifier, "name": "tunery login on box"} | other
        return httpx.post(f"{server.url}/ui/program/key", json=sent, timeout=60)

    code = ada.post("/ui/program", json=asked).json()["code"]
    assert exchange(code, verifier=pkce.new_verifier()).status_code == 401, "who has read the code"
    opened = httpx.post(f"{server.url}/ui/session", json={"code": code}, headers=OWN, timeout=60)
    assert opened.status_code == 401, "it opens no console"
    made = exchange(code).json()
    assert (made["name"], made["scopes"]) == ("tunery login on box", ["read"])
    assert exchange(code).status_code == 401, "it is good for once"
    program = server.http(made["key"])
    assert program.get("/v1/me").json()["person"] == "ada@example.com"
    assert [key["id"] for key in ada.get("/v1/me/keys").json()["data"]] == [made["id"]]
    late = ada.post("/ui/program", json=asked).json()["code"]
    with db.as_control() as tx:
        tx.execute(update(SignInCode).values(expires_at=NOW))
    assert exchange(late).status_code == 401
    left = ada.post("/ui/program", json=asked).json()["code"]
    ada.delete(f"/v1/me/keys/{made['id']}")
    assert program.get("/v1/me").status_code == 401
    ada.delete("/ui/session")
    assert exchange(left).status_code == 401, "not after the session"
    keyed = browser_of(server)
    assert keyed.post("/ui/session", json={"key": server.key}).status_code == 200
    assert keyed.post("/ui/program", json=asked).status_code == 403
    keyed.headers.pop("x-tunery-console")
    assert keyed.post("/ui/program", json=asked).status_code == 403


def test_a_session_that_is_begun_while_its_person_is_signed_out_ends_with_the_others(
    server: Served, issuer: Issuer, db: Database
) -> None:
    ada = signed_in(server, issuer, groups=["team", "guests"])
    me, projects = ada.get("/v1/me").json(), ada.get("/v1/me/projects").json()["data"]
    caller = Caller(
        **{name: me[name] for name in ("project_id", "project", "key_id", "person_id", "person")},
        scopes=frozenset(me["scopes"]),
        has_key=False,
    )
    operator = server.http(server.admin_key)
    path = f"/v1/admin/people/{me['person_id']}/sign_out"
    with ThreadPoolExecutor(1) as thread:
        with db.as_control() as tx:
            opened, _ = sessions.switch(tx, projects[1]["id"], caller)
            signed_out = thread.submit(operator.post, path)
            with pytest.raises(TimeoutError):
                signed_out.result(timeout=0.5)
        assert signed_out.result().status_code == 200
    assert server.http(opened.key).get("/v1/me").status_code == 401


def test_a_session_ends_after_the_hours_that_are_set(
    serve_at: Callable[..., Served], issuer: Issuer, db: Database
) -> None:
    server = serve_at(oidc_session_hours=2)
    browser = signed_in(server, issuer, groups=["team", "guests"])
    projects = browser.get("/v1/me/projects").json()["data"]
    answer = browser.post("/ui/session/project", json={"project_id": projects[1]["id"]})
    seconds = int(answer.headers["set-cookie"].lower().split("max-age=")[1].split(";")[0])
    assert 7_190 <= seconds <= 7_200, "another project is no longer session"
    with db.as_control() as tx:
        for key in tx.scalars(select(ApiKey).where(ApiKey.person_id.is_not(None))):
            assert key.expires_at
            assert (key.expires_at - key.created_at).total_seconds() <= 7_200


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"aud": "another"}, "Audience"),
        ({"aud": [CLIENT, "another"]}, "azp"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"iss": "https://evil.example.com"}, "issuer"),
        ({"exp": int(time.time()) - 120}, "expired"),
        ({"exp": None}, "exp"),
        ({"iat": int(time.time()) + 86_400}, "not yet valid"),
        ({"nonce": "of another sign-in"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": ""}, "names nobody"),
    ],
)
def test_an_id_token_with_a_wrong_claim_opens_nothing(
    shared: tuple[Served, Issuer], wrong: dict[str, Any], word: str
) -> None:
    server, issuer = shared
    issuer.wrong = wrong
    browser = browser_of(server)
    answer = finish(browser, issuer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "sign_in_failed")
    assert word in answer.json()["error"]["message"]
    assert "tunery_session" not in browser.cookies


@pytest.mark.parametrize("forged", ["another's key", "HS256", "none"])
def test_an_id_token_that_the_provider_did_not_sign_opens_nothing(
    shared: tuple[Served, Issuer], forged: str
) -> None:
    server, issuer = shared
    if forged == "another's key":
        issuer.key = OTHER_KEY
    else:
        issuer.algorithm = forged
        issuer.key = SECRET * 4 if forged == "HS256" else None
    answer = finish(browser_of(server), issuer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "sign_in_failed")


@pytest.fixture(scope="module")
def served_once(
    stores: Any, migrated: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Issuer]]:
    with fresh_database(stores, migrated.name) as url, issuing() as made, ExitStack() as stack:
        own = settings_for(url, stores, tmp_path_factory.mktemp("shared")).model_copy(
            update={
                "oidc_issuer": made.url,
                "oidc_client_id": CLIENT,
                "public_url": "https://tunery.example.com",
                "oidc_roles": read_roles(ROLES),
            }
        )
        yield Served(own, migrated, stack.enter_context(serve(own)), stack), made


@pytest.fixture
def shared(served_once: tuple[Served, Issuer]) -> tuple[Served, Issuer]:
    """One for all tests in which nobody is let in; the issuer says what is true again."""
    server, issuer = served_once
    Issuer.__init__(issuer, issuer.url)
    return server, issuer


def test_only_the_browser_that_began_ends_it_and_once(shared: tuple[Served, Issuer]) -> None:
    server, issuer = shared
    victim, attacker = browser_of(server), browser_of(server)
    asked = begin(attacker)
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "https://tunery.example.com/ui/oidc/callback"
    sent = {"code": issuer.code_for(asked["nonce"]), "state": asked["state"]}
    assert victim.post("/ui/oidc/session", json=sent).status_code == 401
    begin(victim)
    assert victim.post("/ui/oidc/session", json=sent).status_code == 401
    mixed_up = attacker.post("/ui/oidc/session", json=sent | {"iss": "https://evil.example.com"})
    assert "evil.example.com" in mixed_up.json()["error"]["message"]
    assert issuer.forms == [], "no code went anywhere"
    attacker.headers.pop("x-tunery-console")
    assert attacker.post("/ui/oidc/session", json=sent).status_code == 403
    attacker.headers.update(OWN)
    jar = dict(attacker.cookies)
    assert attacker.post("/ui/oidc/session", json=sent).status_code == 200
    attacker.cookies.update(jar)
    again = attacker.post("/ui/oidc/session", json=sent)
    assert "takes the code no more" in again.json()["error"]["message"]
    back = victim.get("/ui/oidc/callback", params={"code": "c", "session_state": "s"})
    assert (back.status_code, back.headers["location"]) == (303, "/#/sign-in?code=c")


def test_a_new_key_of_the_provider_is_found_and_what_it_says_is_remembered(
    serve_at: Callable[..., Served], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "KEY_SECONDS", 0)
    server = serve_at()
    for _ in range(3):
        signed_in(server, issuer)
    assert issuer.asked.count("GET /keys") == 1
    issuer.key, issuer.kid = OTHER_KEY, "two"
    issuer.shown.append(public(OTHER_KEY, "two"))
    signed_in(server, issuer)
    assert issuer.asked.count("GET /keys") == 2


def test_groups_may_come_as_one_word_of_an_address_or_by_userinfo(
    serve_at: Callable[..., Served], issuer: Issuer
) -> None:
    roles = {"example.com": "dairy:read", "ada@example.com": "*:admin", "*": "trials:read"}
    server = serve_at(roles=roles, oidc_groups_claim=("hd", "email"))
    unverified = signed_in(server, issuer, hd="example.com")
    assert [one["name"] for one in unverified.get("/v1/me/projects").json()["data"]] == [
        "dairy",
        "trials",
    ]
    issuer.userinfo = {"sub": "ada", "hd": "nowhere.com"}
    ada = signed_in(server, issuer, email_verified=True)
    assert "admin" in ada.get("/v1/me").json()["scopes"]
    issuer.userinfo = {"sub": "eve", "hd": "example.com"}
    assert "somebody else" in finish(browser_of(server), issuer).json()["error"]["message"]


def test_a_provider_that_is_away_or_another_is_named_and_keys_still_sign_in(
    serve_at: Callable[..., Served], issuer: Issuer
) -> None:
    issuer.document = {"issuer": "https://other.example.com"}
    server = serve_at()
    other = browser_of(server).post("/ui/oidc")
    assert (other.status_code, other.json()["error"]["code"]) == (503, "sign_in_away")
    assert "https://other.example.com" in other.json()["error"]["message"]
    server = serve_at(oidc_issuer="http://127.0.0.1:9")
    away = browser_of(server).post("/ui/oidc")
    assert "Sign in with an API key" in away.json()["error"]["message"]
    assert browser_of(server).post("/ui/session", json={"key": server.key}).status_code == 200
    assert browser_of(server).get("/ui/oidc").json() == {"name": "127.0.0.1"}


def test_signing_out_leads_to_the_provider_where_that_is_offered(
    serve_at: Callable[..., Served], issuer: Issuer
) -> None:
    issuer.document = {"end_session_endpoint": f"{issuer.url}/end"}
    server = serve_at()
    browser = signed_in(server, issuer)
    answer = browser.delete("/ui/session")
    assert answer.json()["url"].startswith(f"{issuer.url}/end?client_id=tunery&post_logout")
    assert browser.get("/v1/me").status_code == 401
