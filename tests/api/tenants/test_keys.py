import time
from typing import Any

import pytest
from sqlalchemy import select, text, update

from api.admin import create_key, list_keys, revoke_key, rotate_key
from api.db.session import Database
from api.http import dependencies
from api.tables import ApiKey, from_now
from api.tenants import keys, projects
from tests.conftest import Served


@pytest.fixture(autouse=True)
def _keys_are_remembered_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dependencies.KEY_CACHE_SECONDS < 5, "what is promised of a revoked key"
    monkeypatch.setattr(dependencies, "KEY_CACHE_SECONDS", 0.05)


def says(server: Served, key: str) -> tuple[int, str]:
    time.sleep(0.05)
    answer = server.http(key).get("/v1/files")
    return answer.status_code, answer.json().get("error", {}).get("message", "")


def test_an_operator_makes_rotates_and_revokes_keys_of_a_project(
    server: Served, db: Database
) -> None:
    admin = server.http(server.admin_key)

    def post(path: str, **body: Any) -> dict[str, Any]:
        answer = admin.post(f"/v1/admin/projects{path}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    project = post("", name="team-a")
    assert admin.post("/v1/admin/projects", json={"name": "team-a"}).status_code == 409
    assert admin.post("/v1/admin/projects", json={"name": "a:b"}).status_code == 400
    of = f"/{project['id']}/keys"
    never = admin.post(f"/v1/admin/projects{of}", json={"expires_days": 0})
    assert (never.status_code, never.json()["error"]["param"]) == (400, "expires_days")
    first = post(of, name="laptop", scopes=["read"], expires_days=2)
    assert first["expires_at"] == pytest.approx(time.time() + 2 * 86_400, abs=60)
    assert says(server, first["key"])[0] == 200
    second = post(f"{of}/{first['id']}/rotate", grace_seconds=60)
    assert {key: second[key] for key in ("name", "scopes")} == {
        "name": "laptop",
        "scopes": ["read"],
    }
    assert second["expires_at"] >= first["expires_at"]
    assert [says(server, made["key"])[0] for made in (first, second)] == [200, 200]
    third = post(f"{of}/{second['id']}/rotate")
    assert [says(server, made["key"])[0] for made in (second, third)] == [401, 200]
    with db.as_control() as tx:
        over = update(ApiKey).where(ApiKey.id == first["id"])
        tx.execute(over.values(expires_at=from_now(-1)))
    assert "expired at" in says(server, first["key"])[1]
    assert admin.post(f"/v1/admin/projects{of}/{first['id']}/rotate").status_code == 409
    assert admin.delete(f"/v1/admin/projects{of}/{third['id']}").json()["deleted"] is True
    assert says(server, third["key"])[0] == 401
    listed = admin.get(f"/v1/admin/projects{of}")
    assert [item["id"] for item in listed.json()["data"]] == [
        made["id"] for made in (third, second, first)
    ]
    assert not any(made["key"] in listed.text for made in (first, second, third))
    other = admin.get("/v1/project").json()["id"]
    assert admin.delete(f"/v1/admin/projects/{other}/keys/{first['id']}").status_code == 404
    names = [item["name"] for item in admin.get("/v1/admin/projects").json()["data"]]
    assert names == ["default", "team-a"]
    page = admin.get("/v1/admin/projects", params={"limit": 1, "after": other}).json()
    assert [item["id"] for item in page["data"]] == [project["id"]]


def test_a_key_of_the_longest_life_is_rotated_too(db: Database) -> None:
    with db.as_control() as tx:
        project = projects.create(tx, "p")
        for _ in range(5):
            key, _ = keys.create(tx, project, ["read"], expires_days=keys.MOST_DAYS)
            assert keys.rotate(tx, key)[0].expires_at


def test_the_commands_do_the_same(server: Served, db: Database) -> None:
    key = create_key(db, "default", ["read"], name="cron", expires_days=1)
    (line,) = [line for line in list_keys(db, "default").splitlines() if "cron" in line]
    id_, prefix = line.split()[:2]
    assert key.startswith(prefix)
    assert key not in line
    newer = rotate_key(db, id_, 60)
    assert [says(server, each)[0] for each in (key, newer)] == [200, 200]
    revoke_key(db, newer[: keys.PREFIX_LENGTH])
    assert [says(server, each)[0] for each in (key, newer)] == [200, 401]


def test_a_key_that_cannot_be_one_is_refused_in_words_and_without_the_database(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = server.key[-1]
    mistyped = server.key[:-1] + ("0" if last != "0" else "1")
    with db.as_control() as tx:
        tx.execute(
            update(ApiKey)
            .where(ApiKey.hash == keys.hash_of(server.worker_key))
            .values(hash=keys.hash_of("sk-tunery-" + "a" * 43), scopes=["read"])
        )
    assert says(server, "sk-tunery-" + "a" * 43) == (200, ""), (
        "a key of before there were checksums"
    )
    assert "unknown or revoked" in says(server, "sk-tunery-" + "b" * 43)[1]
    monkeypatch.setattr(keys, "hash_of", None)
    assert "checksum" in says(server, mistyped)[1]
    assert "begin with 'sk-tunery-'" in says(server, "sk-proj-abc")[1]


def test_the_last_use_of_a_key_is_noted_once_a_minute(server: Served, db: Database) -> None:
    def noted(ago: float | None = None) -> Any:
        with db.as_control() as tx:
            if ago is not None:
                tx.execute(update(ApiKey).values(last_used_at=from_now(-ago)))
            return tx.scalar(
                select(ApiKey.last_used_at).where(ApiKey.hash == keys.hash_of(server.key))
            )

    assert noted() is None
    says(server, server.key)
    first = noted()
    assert first
    says(server, server.key)
    assert noted() == first
    before = noted(ago=61)
    says(server, server.key)
    assert noted() > before


def test_the_database_holds_no_key(server: Served, db: Database) -> None:
    with db.as_control() as tx:
        rows = [str(row) for row in tx.execute(text("SELECT * FROM api_key"))]
    assert len(rows) == 3
    for key in (server.key, server.admin_key, server.worker_key):
        assert not any(key[keys.PREFIX_LENGTH + 20 :] in row for row in rows)
