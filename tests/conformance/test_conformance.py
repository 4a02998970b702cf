"""Every answer against OpenAI's types, and against its schema file where `--schema` names it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.life import CHECKED_AT_ONCE, STATES, Life
from tests.conformance.surface import (
    SURFACE,
    documented_operations,
    mismatches,
    nameless,
    read_schema,
)
from tests.conftest import Served
from worker.client import Client

PAGED = [operation for operation, answer in SURFACE.items() if answer.form == "page"]


@pytest.fixture
def life(serve_with: Callable[..., Served], tmp_path: Path) -> Iterator[Life]:
    server = serve_with(check_at_once_bytes=CHECKED_AT_ONCE, webhooks_to_private_addresses=True)
    worker = Client(server.url, server.worker_key)
    yield Life(server, worker, tmp_path)
    worker.http.close()


def test_every_answer_is_as_openai_has_it(life: Life, request: pytest.FixtureRequest) -> None:
    path = request.config.getoption("--schema")
    schema = read_schema(path) if path else None
    life.live()
    assert life.states == STATES
    routed = set(documented_operations(life.http.get("/openapi.json").json()))
    offered = {operation for operation in SURFACE if nameless(operation) in routed}
    silent = offered - set(life.answers)
    assert not silent, "offered, but life.py does not call it"
    if schema:
        ours = {nameless(operation) for operation in SURFACE}
        assert set(documented_operations(schema)) <= ours, "OpenAI's surface is larger"
    found = {
        operation: sorted({m for answer in answers for m in mismatches(operation, answer, schema)})
        for operation, answers in life.answers.items()
    }
    report = [f"{operation}: {sentence}" for operation in found for sentence in found[operation]]
    count = sum(map(len, life.answers.values()))
    seen = len(set(found))
    print(f"{count} answers of {seen} of {len(SURFACE)} operations, {len(report)} mismatches")  # noqa: T201
    assert not report, "\n".join(report)
    paging(life)


def paging(life: Life) -> None:
    """Pages of one hold what a page of all holds, and a cursor that leads nowhere is refused."""
    for operation in set(life.answers) & set(PAGED):
        url = life.answers[operation][-1].request.url.copy_with(query=None)
        whole = life.http.get(url).json()["data"]
        assert whole
        walked: list[dict[str, str]] = []
        cursor: dict[str, str] = {}
        more = True
        while more:
            page = life.http.get(url, params={"limit": "1", **cursor}).json()
            walked += page["data"]
            cursor, more = {"after": page["last_id"]}, page["has_more"]
        assert [item["id"] for item in walked] == [item["id"] for item in whole], operation
        refused = life.http.get(url, params={"after": "nothing"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after"), operation
