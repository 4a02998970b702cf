"""A real S3-compatible server, SeaweedFS from its wheel, which checks signatures and checksums; and
a proxy before it that counts what passes and can be made bad.
"""

import http.client
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx

from api.settings import Bucket
from tunery.cli.embedded import free_port

BUCKET = "tunery-tests"
KEY, SECRET = "AKIATUNERYTESTS", "not-a-secret"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
PARTS = ("master", "volume", "filer", "s3")
START_SECONDS = 60
CHUNK_BYTES = 1 << 16


@contextmanager
def start_server(folder: Path) -> Iterator[str]:
    """Its address. It keeps its data in the folder."""
    named = {"accessKey": KEY, "secretKey": SECRET}
    owner = {"name": "tests", "credentials": [named], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [owner]}))
    ports = {part: free_port() for part in (*PARTS, *(f"{part}.grpc" for part in PARTS))}
    command: list[str | Path] = [
        *(Path(sys.executable).with_name("weed"), "-logtostderr=true", "server", "-filer", "-s3"),
        *(f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder}/s3.json"),
        *("-volume.max=50", "-master.volumeSizeLimitMB=64", "-volume.preStopSeconds=0"),
        *(f"-{part}.port={ports[part]}" for part in PARTS),
        *(f"-{part}.port.grpc={ports[part + '.grpc']}" for part in PARTS),
        *(
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.minFreeSpace=0",
            "-s3.autoCreateBucket=false",
        ),
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            url = f"http://127.0.0.1:{ports['s3']}"
            wait_until_it_stores(process, url, folder / "weed.log")
            yield url
        finally:
            process.kill()
            process.wait()


def client_of(url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session(KEY, SECRET, region_name="us-east-1").client(
        "s3",
        endpoint_url=url,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def wait_until_it_stores(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(url, timeout=5)
            client = client_of(url)
            if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b".")
        except Exception:  # noqa: BLE001 - whatever a server says while it starts
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"The S3 server did not start:\n{log.read_text()[-2000:]}")


def new_bucket() -> Bucket:
    """A prefix of its own."""
    return Bucket(BUCKET, f"test-{secrets.token_hex(8)}")


@dataclass(frozen=True)
class Passed:
    """A request and its answer; `sent` and `came` are bytes of their bodies."""

    method: str
    path: str
    status: int
    sent: int
    came: int
    agent: str


@dataclass
class Faults:
    """What the proxy does. `slow_down` so many requests are refused with 503, `cut` so many answers
    break off in the middle; `delay` is waited before each. `methods`: only for these.
    """

    slow_down: int = 0
    cut: int = 0
    refuse: int = 0
    delay: float = 0.0
    methods: tuple[str, ...] = ("GET", "PUT", "POST", "HEAD", "DELETE")
    passed: list[Passed] = field(default_factory=list)


class Proxy:
    """Before the server at `url`. Signatures hold, as the host is passed on as it was called."""

    def __init__(self, url: str) -> None:
        self.faults = Faults()
        there, faults = url.removeprefix("http://"), self.faults

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def pass_on(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                time.sleep(faults.delay)
                if self.command in faults.methods and faults.slow_down > 0:
                    faults.slow_down -= 1
                    self.refuse(503, b"<Error><Code>SlowDown</Code></Error>")
                    return
                if self.command in faults.methods and faults.refuse > 0:
                    faults.refuse -= 1
                    self.refuse(403, b"<Error><Code>AccessDenied</Code></Error>")
                    return
                far = http.client.HTTPConnection(there, timeout=30)
                far.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in {"connection", "expect"}:
                        far.putheader(name, value)
                far.endheaders()
                left = length
                while left and (chunk := self.rfile.read(min(CHUNK_BYTES, left))):
                    far.send(chunk)
                    left -= len(chunk)
                if left:  # whoever sent it is gone
                    far.close()
                    self.close_connection = True
                    return
                answer = far.getresponse()
                body = answer.read()
                far.close()
                agent = self.headers.get("user-agent", "")
                facts = (self.command, self.path, answer.status, length, len(body), agent)
                faults.passed.append(Passed(*facts))
                self.answer(answer, body)

            def answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else None
                self.send_header("content-length", length or str(len(body)))
                self.end_headers()
                if self.command in faults.methods and faults.cut > 0 and len(body) > 1:
                    faults.cut -= 1
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def refuse(self, status: int, body: bytes) -> None:
                self.close_connection = True
                self.send_response_only(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
