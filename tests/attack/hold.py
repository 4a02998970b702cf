"""Connections that are held, answers that are not read, files that are long to check."""

import socket
import time
from contextlib import ExitStack

import httpx

from tests.attack.town import House, Tenant, Town
from tests.chaos.cluster import HOST
from tests.chaos.judge import Outcome
from tests.factories import chat, data_set

LOG_BYTES = 100_000
# The server's own patience is a minute.
LET_GO_SECONDS = 150.0


def idle(town: Town, count: int) -> Outcome:
    """Nobody's connections, each with half a head."""
    outcome = Outcome(count=count)
    outcome.expect_none("health unanswered", "log grew")
    with town.house(workers=0) as house, ExitStack() as held:
        before = house.log_size()
        for _ in range(count):
            one = held.enter_context(socket.create_connection((HOST, house.port), timeout=30))
            one.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            began = time.monotonic()
            try:
                httpx.get(f"http://{HOST}:{house.port}/healthz", timeout=10).raise_for_status()
            except httpx.HTTPError as error:
                outcome.miss("health unanswered", repr(error))
            outcome.seconds.setdefault("healthz", []).append(time.monotonic() - began)
            time.sleep(0.5)
        grown = house.log_size() - before
        outcome.tally["bytes of log"] += grown
        if grown > LOG_BYTES:
            outcome.miss("log grew", f"{grown:,} bytes")
    return outcome


def unread(town: Town, count: int) -> Outcome:
    """Downloads by clients that do not read them."""
    outcome = Outcome(count=count)
    outcome.expect_none("not let go")
    with town.house(workers=0) as house, ExitStack() as held:
        file_id = house.a.upload(chat(answer="x" * 15_000_000).encode()).json()["id"]
        open_ = [held.enter_context(deaf(house, file_id)) for _ in range(count)]
        until = time.monotonic() + LET_GO_SECONDS
        while open_ and time.monotonic() < until:
            time.sleep(1)
            open_ = [each for each in open_ if still_open(each)]
        for _ in open_:
            outcome.miss("not let go", f"after {LET_GO_SECONDS:.0f} s")
    return outcome


def deaf(house: House, file_id: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, house.port))
    client.sendall(
        f"GET /v1/files/{file_id}/content HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Authorization: Bearer {house.a.key}\r\n\r\n".encode()
    )
    return client


def still_open(client: socket.socket) -> bool:
    try:
        client.sendall(b"x")
    except ConnectionError:
        return False
    return True


def checks(town: Town, count: int) -> Outcome:
    """`a` has `count` large files checked; then `b` one."""
    outcome = Outcome(count=count)
    outcome.expect_none("slower than 3 x alone", "nobody before b")
    rows = data_set(200_000)
    with town.house(workers=0, check_at_once_bytes=1, sweep_seconds=0.5) as house:
        alone = checked_in(house.b, data_set(4_000))
        for number in range(count):
            house.a.upload(rows + chat(answer=str(number)).encode())
        beside = checked_in(house.b, data_set(4_001))
        listed = house.a.http.get("/v1/files").json()["data"]
        waiting = sum(file["status"] == "uploaded" for file in listed)
    outcome.tally["of a's still waiting when b's was done"] = waiting
    if not waiting:
        outcome.miss("nobody before b", "a's files were all checked before b's came")
    outcome.seconds["b's check, alone"] = [alone]
    outcome.seconds["b's check, behind a's"] = [beside]
    # A sweep, and a start of the check's process on a core that is taken, cost a second or two.
    if beside > 3 * max(alone, 2.0):
        outcome.miss("slower than 3 x alone", f"{beside:.1f} s, alone {alone:.1f} s")
    return outcome


def checked_in(tenant: Tenant, content: bytes) -> float:
    began = time.monotonic()
    tenant.checked(tenant.upload(content).json()["id"])
    return time.monotonic() - began
