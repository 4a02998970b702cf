"""Whoever has no key, and what a proxy and the service may read differently."""

import json
import secrets
import socket

from tests.attack.town import Town
from tests.chaos.cluster import HOST, wait_for
from tests.chaos.judge import Outcome
from tests.factories import data_set


def guessed_keys(town: Town, count: int) -> Outcome:
    """Requests with keys that are none, each with a line break in its path."""
    outcome = Outcome(count=count)
    outcome.expect_none("let in", "without a line", "keys in the log", "rows of the audit")
    with town.house(workers=0, log="json") as house:
        house.b.upload(data_set())
        before = house.http.get("/v1/admin/audit", params={"limit": 1000}).json()["data"]
        guesses = [f"sk-tunery-{secrets.token_urlsafe(32)}" for _ in range(count)]
        answers = []
        for guess in guesses:
            headers = {"authorization": f"Bearer {guess}"}
            answers.append(house.a.http.get("/v1/files/file-1%0A{}", headers=headers))
        log = house.folder / "api.log"
        last = answers[-1].headers["x-request-id"]
        wait_for(lambda: last in log.read_text(), 60, "the last request's line")
        told = {}
        for line in log.read_text().splitlines():
            if line.startswith("{") and (facts := json.loads(line)).get("request"):
                told[facts["request"]] = facts
        for answer in answers:
            outcome.tally[f"answered {answer.status_code}"] += 1
            line = told.get(answer.headers["x-request-id"], {})
            if answer.status_code != 401:
                outcome.miss("let in", answer.text)
            if (line.get("status"), line.get("code")) != (401, "invalid_api_key"):
                outcome.miss("without a line", str(line))
        text = log.read_text()
        for guess in guesses:
            if guess in text:
                outcome.miss("keys in the log", guess)
        after = house.http.get("/v1/admin/audit", params={"limit": 1000}).json()["data"]
        for row in after[: len(after) - len(before)]:
            outcome.miss("rows of the audit", str(row))
    return outcome


def two_lengths(town: Town, count: int) -> Outcome:
    """Each hides a second request behind the shorter of its two lengths."""
    outcome = Outcome(count=count)
    outcome.expect_none("second answers", "not refused", "left open")
    with town.house(workers=0) as house:
        key = f"Host: {HOST}\r\nAuthorization: Bearer {house.a.key}\r\n"
        hidden = f"GET /v1/project HTTP/1.1\r\n{key}\r\n"
        for number in range(count):
            lengths = [f"Content-Length: {5 + len(hidden)}\r\n", "Transfer-Encoding: chunked\r\n"]
            both = "".join(lengths if number % 2 else reversed(lengths))
            head = f"POST /v1/fine_tuning/jobs HTTP/1.1\r\n{key}{both}\r\n0\r\n\r\n{hidden}"
            with socket.create_connection((HOST, house.port), timeout=10) as client:
                client.sendall(head.encode())
                answer = b""
                try:
                    while news := client.recv(1 << 16):
                        answer += news
                except TimeoutError:
                    outcome.miss("left open", "for 10 s")
            if answer.count(b"HTTP/1.1 ") > 1:
                outcome.miss("second answers", answer.decode("latin1"))
            if not answer.startswith(b"HTTP/1.1 400 "):
                outcome.miss("not refused", answer.decode("latin1"))
    return outcome
