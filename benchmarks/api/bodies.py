"""Large uploads and downloads."""

import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import repeat
from typing import Any

from benchmarks.api.servers import API_PORT, FLOOR_PORT, Cost, Servers, cost_of

BLOCK = 1 << 20
LINE = b'{"prompt": "What does a cow eat?", "completion": "A cow eats grass, %08d times."}\n'
ROWS = b"".join(LINE % number for number in range(BLOCK // len(LINE % 0) + 1))[: BLOCK - 1] + b"\n"
BOUNDARY = "7d0f3cb5a9e44f1fb2d1"
HEAD = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="rows.jsonl"\r\n'
    "content-type: application/octet-stream\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def send(
    port: int, method: str, path: str, parts: list[bytes], blocks: int, key: str
) -> dict[str, Any]:
    """The answer to a body of that many blocks, between the two parts."""
    head, tail = parts

    def body() -> Iterator[bytes]:
        yield head
        yield from repeat(ROWS, blocks)
        yield tail

    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {
        "content-length": str(len(head) + len(tail) + blocks * BLOCK),
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "authorization": f"Bearer {key}",
    }
    connection.request(method, path, body(), headers)
    answer = connection.getresponse()
    said: dict[str, Any] = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(said)
    connection.close()
    return said


def upload_to_floor(servers: Servers, blocks: int, at_once: int) -> Cost:
    with cost_of(servers.floor) as cost, ThreadPoolExecutor(at_once) as clients:
        list(
            clients.map(
                lambda number: send(FLOOR_PORT, "PUT", f"/put/{number}", [b"", b""], blocks, ""),
                range(at_once),
            )
        )
    return cost


def upload(servers: Servers, blocks: int, at_once: int) -> Cost:
    with cost_of(servers.api) as cost, ThreadPoolExecutor(at_once) as clients:
        files = list(
            clients.map(
                lambda _: send(API_PORT, "POST", "/v1/files", [HEAD, TAIL], blocks, servers.key),
                range(at_once),
            )
        )
    for file in files:
        fetch(API_PORT, "DELETE", f"/v1/files/{file['id']}", servers.key)
    return cost


def fetch(port: int, method: str, path: str, key: str) -> int:
    """How many bytes came."""
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, headers={"authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read())
    buffer = bytearray(BLOCK)
    size = 0
    while count := answer.readinto(buffer):
        size += count
    connection.close()
    return size


def uploads(servers: Servers, size: int, rounds: int) -> Iterator[str]:
    """Rows of a table: an upload alone, and four at once."""
    blocks = size // BLOCK
    for at_once, turns in ((1, rounds), (4, 1)):
        pairs = [
            (upload_to_floor(servers, blocks, at_once), upload(servers, blocks, at_once))
            for _ in range(turns)
        ]
        what = f"{at_once} upload{'s at once' if at_once > 1 else ''} of {size / 1e9:.2g} GB"
        yield row(what, pairs, at_once * size)


def downloads(servers: Servers, size: int, rounds: int) -> Iterator[str]:
    blocks = size // BLOCK
    file = send(API_PORT, "POST", "/v1/files", [HEAD, TAIL], blocks, servers.key)
    (path,) = (servers.storage / "files").iterdir()
    here = path.relative_to(servers.folder)
    link = servers.folder / "stored"
    link.hardlink_to(servers.folder / here)
    pairs = []
    for _ in range(rounds):
        with cost_of(servers.floor) as floor:
            fetch(FLOOR_PORT, "GET", "/get/stored", "")
        with cost_of(servers.api) as ours:
            got = fetch(API_PORT, "GET", f"/v1/files/{file['id']}/content", servers.key)
        if got != blocks * BLOCK:
            raise RuntimeError(f"{got} bytes came")
        pairs.append((floor, ours))
    link.unlink()
    fetch(API_PORT, "DELETE", f"/v1/files/{file['id']}", servers.key)
    yield row(f"a download of {size / 1e9:.2g} GB", pairs, size)


def row(what: str, pairs: list[tuple[Cost, Cost]], size: int) -> str:
    """CPU seconds per GB of floor and API, the median of their ratios, and how memory grew."""
    floor = statistics.median(floor.cpu for floor, _ in pairs) / size * 1e9
    ours = statistics.median(ours.cpu for _, ours in pairs) / size * 1e9
    ratio = statistics.median(ours.cpu / floor.cpu for floor, ours in pairs)
    grown = max(ours.grown for _, ours in pairs) / 1e6
    speed = max(size / ours.wall for _, ours in pairs) / 1e6
    return f"| {what} | {floor:.2f} | {ours:.2f} | {ratio:.2f} | {grown:.0f} | {speed:.0f} |"
