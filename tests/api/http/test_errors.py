from collections.abc import Callable

import httpx
import pytest
from openai import AuthenticationError
from pydantic import SecretStr
from sqlalchemy import Engine, text

from tests.conftest import Served
from tests.factories import create_job, upload


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/v1/files/", 404, "unknown_route"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("GET", "/v1/files/%00", 400, None),
        ("GET", "/v1/files?limit=0", 400, "invalid_value"),
        ("GET", "/v1/files/file-no", 404, "not_found"),
    ],
)
def test_every_refusal_is_an_envelope_with_a_request_id(
    server: Served, method: str, path: str, status: int, code: str | None
) -> None:
    answer = server.http().request(method, path)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["message"]
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_base_url_without_its_v1_is_noticed(server: Served) -> None:
    for method, path in (("GET", "/models"), ("POST", "/files"), ("GET", "/fine_tuning/jobs/x")):
        said = server.http().request(method, path).json()["error"]["message"]
        assert said == f"No route {method} {path}. Add /v1 to the base URL: {server.url}/v1"
    assert "/v1" not in server.http().get("/nothing").json()["error"]["message"]


UNSOUND = [
    ("{", "not valid JSON"),
    ("[1]", "JSON object"),
    ("[" * 100_000, "depth"),
    ("[" * 40 + "]" * 40, "levels"),
    ('{"seed": ' + "9" * 5_000 + "}", "number"),
    ('{"seed": NaN}', "not valid JSON"),
    ('{"model": "a", "model": "b"}', "'model' comes twice"),
    (r'{"model": "\ud800"}', "surrogate"),
    (r'{"model": "\u0000", "training_file": "f"}', "NUL"),
]


def test_json_that_is_not_sound_is_refused_in_words(server: Served) -> None:
    headers = {"content-type": "application/json"}
    for body, words in UNSOUND:
        answer = server.http().post("/v1/fine_tuning/jobs", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
        assert words in answer.json()["error"]["message"]


def test_another_kind_of_body_is_refused_and_an_empty_one_needs_no_kind(server: Served) -> None:
    def post(path: str, kind: dict[str, str], body: bytes = b"") -> httpx.Response:
        return server.http().post(path, content=body, headers=kind)

    for path, kind, needed in (
        ("/v1/fine_tuning/jobs", {"content-type": "text/plain"}, "application/json"),
        ("/v1/fine_tuning/jobs", {}, "application/json"),
        ("/v1/files", {"content-type": "application/json"}, "multipart/form-data"),
    ):
        answer = post(path, kind, b"{}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (415, "unsupported_media_type")
        assert needed in error["message"]
    job = create_job(server.client)
    for kind in ({}, {"content-type": "application/json"}):
        for wish in ("pause", "resume", "cancel"):
            assert post(f"/v1/fine_tuning/jobs/{job.id}/{wish}", kind).status_code in {200, 409}


def test_a_method_that_is_not_there_is_told_which_are(server: Served) -> None:
    answer = server.http().put("/v1/files")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_database_that_is_away_is_worth_waiting_for(serve_with: Callable[..., Served]) -> None:
    nowhere = SecretStr("postgresql://127.0.0.1:1/none")
    answer = httpx.get(f"{serve_with(database_url=nowhere).url}/readyz", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Served) -> None:
    answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", content=b"[" * (2 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_database_that_is_busy_or_full_is_not_called_away(server: Served, owner: Engine) -> None:
    job = create_job(server.client)
    cancel = f"/v1/fine_tuning/jobs/{job.id}/cancel"
    with owner.begin() as holder:
        holder.execute(text("SELECT 1 FROM job FOR UPDATE"))
        busy = server.http().post(cancel)
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    assert busy.headers["retry-after"]
    with owner.begin() as disk:
        disk.execute(
            text("""
                CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$
            """)
        )
        disk.execute(
            text(
                "CREATE TRIGGER full_disk BEFORE UPDATE ON job "
                "FOR EACH ROW EXECUTE FUNCTION no_room()"
            )
        )
    full = server.http().post(cancel)
    assert (full.status_code, full.json()["error"]["code"]) == (507, "storage_full")
    assert "database" in full.json()["error"]["message"]


def test_a_crash_is_an_envelope_without_its_insides(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("incoming")

    monkeypatch.setattr("api.files.routes.read_fields", crash)
    parts = {"file": ("a", b"{}"), "purpose": (None, b"fine-tune")}
    answer = server.http().post("/v1/files", files=list(parts.items()))
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "incoming" not in answer.text
    assert answer.headers["x-request-id"]


def test_no_key_and_a_wrong_key_are_401_and_say_what_to_check(server: Served) -> None:
    nobody = httpx.get(f"{server.url}/v1/files", timeout=60)
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(AuthenticationError, match="tunery keys create"):
        server.client_for("sk-wrong").files.list()


def test_health_needs_no_key(server: Served) -> None:
    assert httpx.get(f"{server.url}/healthz", timeout=60).json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/readyz", timeout=60).json() == {"status": "ok"}


def test_head_is_get_without_the_body(server: Served) -> None:
    file = upload(server.client)
    for path in (f"/v1/files/{file.id}", f"/v1/files/{file.id}/content", "/v1/files/file-no"):
        head, get = server.http().head(path), server.http().get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == str(len(get.content))
