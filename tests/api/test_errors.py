import httpx
import pytest
from openai import AuthenticationError

from tests.conftest import Served


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
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


def test_a_body_that_is_not_json_is_refused_in_words(server: Served) -> None:
    headers = {"content-type": "application/json"}
    answer = server.http().post("/v1/fine_tuning/jobs", content=b"{", headers=headers)
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Served) -> None:
    answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", content=b"[" * (2 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_crash_is_an_envelope_without_its_insides(server: Served) -> None:
    server.settings.storage.joinpath("incoming").rmdir()
    parts = {"file": ("a", b"{}"), "purpose": (None, b"fine-tune")}
    answer = server.http().post("/v1/files", files=list(parts.items()))
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "incoming" not in answer.text
    assert answer.headers["x-request-id"]


def test_no_key_and_a_wrong_key_are_401_and_say_what_to_check(server: Served) -> None:
    nobody = httpx.get(f"{server.url}/v1/files")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        server.client_for("sk-wrong").files.list()


def test_health_needs_no_key(server: Served) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/readyz").json() == {"status": "ok"}
