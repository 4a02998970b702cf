"""Clients that send too slowly or without end, do not read, or only hold on."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from api.http import connection, edge
from api.settings import Settings
from tests.api.storage.test_disk_full import wait_until_ready
from tests.conftest import ROOT, Served
from tests.factories import chat, upload
from tunery.cli.embedded import free_port

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
    assert [at for at in server.settings.folder.rglob("[!.]*") if at.is_file()] == []


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
    assert [at for at in server.settings.folder.rglob("[!.]*") if at.is_file()] == []


@pytest.mark.parametrize("headers", ["", "range: bytes=0-\r\n"], ids=["whole", "streamed"])
def test_a_client_that_does_not_read_its_answer_is_let_go(
    server: Served, monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    monkeypatch.setattr(connection, "STRETCH_SECONDS", 0.3)
    content = chat(answer="x" * 15_000_000).encode()  # more than the sockets hold
    file = upload(server.client, content)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address(server))
        client.sendall(
            f"GET /v1/files/{file.id}/content HTTP/1.1\r\nhost: a\r\n{headers}"
            f"authorization: Bearer {server.key}\r\n\r\n".encode()
        )
        with pytest.raises(ConnectionError):  # noqa: PT012 - any of the bytes may meet the end
            for _ in range(600):
                client.sendall(b"x")
                time.sleep(0.05)
    assert server.client.files.content(file.id).read() == content


def address(server: Served) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_request_with_two_lengths_is_refused_and_its_connection_closed(server: Served) -> None:
    inner = f"GET /v1/project HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.key}\r\n\r\n"
    head = (
        f"POST /v1/fine_tuning/jobs HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {server.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {5 + len(inner)}\r\n"
        f"transfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
    )
    with socket.create_connection(address(server), timeout=30) as client:
        client.sendall(head.encode())
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_who_only_holds_connections_takes_no_descriptor_from_others(
    settings: Settings, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    env = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_STORAGE": str(settings.folder),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
    }
    command = f"ulimit -n 512; exec {sys.executable} -m api --port {port}"
    with log.open("w") as out, ExitStack() as held:
        process = subprocess.Popen(["sh", "-c", command], cwd=ROOT, env=env, stderr=out)
        held.callback(process.wait)
        held.callback(process.kill)
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        for _ in range(700):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(5):
            answer = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30)
            assert answer.status_code == 200
            time.sleep(0.3)
    assert len(log.read_text().splitlines()) < 20
