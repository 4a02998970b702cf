"""Whoever has no key."""

import json
import secrets

from tests.attack.town import Town
from tests.chaos.cluster import wait_for
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
