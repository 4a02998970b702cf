"""A server whose disk takes no more."""

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from api.admin import create_key
from api.db.session import Database
from api.settings import Settings
from api.storage.folder import Folder
from tests.conftest import ROOT
from tests.factories import create_job, data_set, upload
from tunery.cli.embedded import free_port
from tunery.errors import StorageFull


class Apart:
    """A server in a process of its own, so that its disk can be limited."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, key: str) -> None:
        self.process = process
        self.url = url
        self.client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"})

    @contextmanager
    def full_after(self, size: int) -> Iterator[None]:
        """No file may grow past so many bytes: a write fails as on a full disk, with EFBIG."""
        pid, kind = self.process.pid, resource.RLIMIT_FSIZE
        usual = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (size, usual[1]))
        yield
        resource.prlimit(pid, kind, usual)


@pytest.fixture
def apart(settings: Settings, db: Database) -> Iterator[Apart]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_STORAGE": str(settings.folder),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
    }
    serve = ["api", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", *serve], cwd=ROOT, env=env, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(process, url)
        server = Apart(process, url, create_key(db, "default", ["read", "write"]))
        with server.client, server.http:
            yield server
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            httpx.get(f"{url}/readyz", timeout=60).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(url)


def assert_full(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    assert answer.headers["x-should-retry"] == "false"


def test_a_full_disk_is_507_leaves_nothing_and_stops_nothing_that_needs_no_room(
    apart: Apart, settings: Settings
) -> None:
    content = data_set(500)
    file = upload(apart.client, content)
    create_job(apart.client, file.id)
    before = sorted(settings.folder.rglob("*"))
    link = Folder(settings.folder, settings.secret.get_secret_value()).upload_url(
        "jobs/j/1/blob", size=len(content), digest=sha256(content).hexdigest()
    )
    parts = {"file": ("a.jsonl", content), "purpose": (None, b"fine-tune")}
    for room in (0, len(content) - 1):
        with apart.full_after(room):
            assert_full(apart.http.post("/v1/files", files=list(parts.items())))
            assert_full(apart.http.put(link, content=content))
            assert sorted(settings.folder.rglob("*")) == before
            assert apart.client.files.content(file.id).read() == content
            job = create_job(apart.client, file.id)
            assert apart.client.fine_tuning.jobs.list().data[0].id == job.id
    with apart.full_after(0):
        assert_full(apart.http.get("/readyz"))
    assert apart.http.get("/readyz").status_code == 200
    assert apart.http.put(link, content=content).status_code == 204
    assert upload(apart.client, content).status == "processed"


@pytest.mark.parametrize("call", ["open", "mkdir", "rename", "link"])
def test_a_disk_without_room_for_a_name_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    storage = Folder(tmp_path, "secret")
    storage.require_there()

    def store() -> None:
        with storage.receive(limit=1) as incoming:
            incoming.write(b".")
            incoming.keep("a/b")
        storage.copy("a/b", "c/d")

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("io.open" if call == "open" else f"os.{call}", no_room)
        with pytest.raises(StorageFull):
            store()
    assert list(storage.incoming.iterdir()) == []
    store()
