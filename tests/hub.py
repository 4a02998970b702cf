"""A server of the protocol that `huggingface_hub` speaks, with what goes wrong on real ones."""

import hashlib
import json
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import parse_qs, unquote, urlsplit

from tests.conftest import ROOT

TINY = ROOT / "models" / "tiny"
COMMIT = "b" * 40
LFS = (".safetensors", "tokenizer.json")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class Repo:
    """One model. `gated` ones are read with the token alone; `sent` are bytes that the storage
    sends instead of a file's own, and `cut` after how many of them it breaks off, each time. Files
    whose names end as in `lfs` are kept there.
    """

    files: dict[str, bytes] = field(default_factory=lambda: files_of(TINY))
    commit: str = COMMIT
    lfs: tuple[str, ...] = LFS
    card: dict[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


class Hub:
    """The hub at `url`; large files come from another server, as from a real one's."""

    token = "hf_the_right_one"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        # What every request is answered with: a status, or a page in HTML.
        self.status: int | None = None
        self.html = False
        self.asked: Counter[str] = Counter()
        self.sent_bytes = 0
        # Those that were asked for, of large files.
        self.ranges: list[str] = []
        # While this is clear, nothing more of a large file is sent after the first piece.
        self.flows = threading.Event()
        self.flows.set()
        self.front = Server(self, Front)
        self.storage = Server(self, Storage)

    @property
    def url(self) -> str:
        return self.front.url


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub, handler: type["Handler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients that leave are a part of the tests."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    servers = (hub.front, hub.storage)
    threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.flows.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    @property
    def hub(self) -> Hub:
        return cast("Server", self.server).hub

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        headers.setdefault("content_length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def part(self, whole: bytes) -> tuple[int, bytes, dict[str, object]]:
        """Status, bytes and headers of what is asked for."""
        asked = self.headers.get("range")
        if asked is None:
            return 200, whole, {}
        self.hub.ranges.append(asked)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        piece = whole[int(first) : int(last) + 1 if last else None]
        if not piece:
            return 416, b"", {"content_range": f"bytes */{len(whole)}"}
        end = int(first) + len(piece) - 1
        return 206, piece, {"content_range": f"bytes {first}-{end}/{len(whole)}"}


class Front(Handler):
    """What is asked with the token."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked[path] += 1
        if hub.status:
            self.answer(hub.status, b"{}", content_type="application/json")
        elif hub.html:
            self.answer(200, b"<html>Please log in</html>", content_type="text/html")
        elif path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self.tell(name, revision)
        elif "/resolve/" in path:
            name, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            self.resolve(name, revision, file)
        else:
            self.answer(404)

    def find(self, name: str, revision: str) -> Repo | None:
        """Else it has answered."""
        if new := self.hub.renamed.get(name):
            self.answer(307, location=self.path.replace(name, new))
            return None
        repo = self.hub.repos.get(name)
        if repo is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif revision not in {"", "main", repo.commit}:
            self.answer(404, X_Error_Code="RevisionNotFound")
        else:
            return repo
        return None

    def tell(self, name: str, revision: str) -> None:
        repo = self.find(name, revision)
        if repo is None:
            return
        siblings = []
        for file, content in repo.files.items():
            told: dict[str, Any] = {"rfilename": file}
            if parse_qs(urlsplit(self.path).query).get("blobs"):
                told |= {"size": len(content), "blobId": "0" * 40}
                if file.endswith(repo.lfs):
                    sha256 = repo.digest(file)
                    told["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
            siblings.append(told)
        about = {"id": name, "sha": repo.commit, "cardData": repo.card, "siblings": siblings}
        self.answer(200, json.dumps(about).encode(), content_type="application/json")

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.find(name, revision)
        if repo is None:
            return
        token = self.headers.get("authorization")
        if repo.gated and token != f"Bearer {self.hub.token}":
            self.answer(401 if token is None else 403, X_Error_Code="GatedRepo")
        elif file not in repo.files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=repo.commit)
        elif file.endswith(repo.lfs):
            self.answer(
                302,
                location=f"{self.hub.storage.url}/{name}/{file}?signature=secret",
                X_Repo_Commit=repo.commit,
                X_Linked_Etag=f'"{repo.digest(file)}"',
                X_Linked_Size=len(repo.files[file]),
            )
        else:
            content = repo.files[file]
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            status, piece, headers = self.part(content)
            self.answer(status, piece, ETag=f'"{etag}"', X_Repo_Commit=repo.commit, **headers)


class Storage(Handler):
    """What a signed link leads to. No token may come here."""

    PIECE: ClassVar[int] = 1 << 16

    def do_GET(self) -> None:
        assert "authorization" not in self.headers, "the token went to another server"
        path = unquote(urlsplit(self.path).path)[1:]
        name, _, file = path.rpartition("/")
        self.hub.asked[f"/storage/{path}"] += 1
        repo = self.hub.repos[name]
        status, piece, headers = self.part(repo.sent.get(file, repo.files[file]))
        self.send_response(status)
        for key, value in {"content_length": len(piece), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        cut = repo.cut.get(file)
        whole = len(piece)
        if cut and whole > cut[0]:
            piece = piece[: cut.pop(0)]
        for start in range(0, len(piece), self.PIECE):
            self.wfile.write(piece[start : start + self.PIECE])
            self.hub.sent_bytes += min(self.PIECE, len(piece) - start)
            self.hub.flows.wait(60)
        if len(piece) < whole:
            self.close_connection = True
            self.connection.close()
