"""Clients that send too slowly, or without end."""

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from api.http import connection, edge
from tests.conftest import Served

FORM = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
)


def talk(server: Served, sent: bytes, *, every: float) -> bytes:
    """The answer to what is sent, and then to a byte every so many seconds until the server ends
    the connection.
    """
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(sent)
        client.settimeout(every)
        for _ in range(1000):
            try:
                client.sendall(b"x")
                some = client.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if not some:
                break
            answer += some
        else:
            pytest.fail("the server did not end the connection")
    return answer


@pytest.mark.parametrize(
    ("path", "kind"),
    [("files", "multipart/form-data; boundary=b"), ("fine_tuning/jobs", "application/json")],
)
def test_a_body_that_does_not_come_on_is_408_and_leaves_nothing(
    server: Served, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr(edge, "STRETCH_SECONDS", 0.3)
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.key}\r\n"
        f"content-type: {kind}\r\ncontent-length: 9000\r\n\r\n"
    )
    answer = talk(server, head.encode() + (FORM if path == "files" else b"{"), every=0.05)
    status, _, body = answer.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in status
    assert json.loads(body)["error"]["code"] == "too_slow"
    assert [at for at in server.settings.storage.rglob("[!.]*") if at.is_file()] == []


def test_a_head_that_does_not_come_on_ends_the_connection(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    assert talk(server, b"GET /healthz HTTP/1.1\r\nx: ", every=0.05) == b""


def endless(start: bytes) -> Iterator[bytes]:
    """Sent in chunks, without a `content-length`; 8 MiB, so that the test ends."""
    yield start
    for _ in range(128):
        yield b"[" * (64 << 10)


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/v1/fine_tuning/jobs", b""),
        ("/v1/files", FORM),  # its file is too large
        ("/v1/files", FORM + b"\r\n--b--\r\n"),  # all that follows is nothing
    ],
)
def test_a_body_without_an_announced_length_is_counted(
    serve_with: Callable[..., Served], path: str, start: bytes
) -> None:
    server = serve_with(max_file_bytes=2 << 20)
    http = server.http()
    kind = "multipart/form-data; boundary=b" if path == "/v1/files" else "application/json"
    answer = http.post(path, content=endless(start), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert [at for at in server.settings.storage.rglob("[!.]*") if at.is_file()] == []
