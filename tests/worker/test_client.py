"""What a worker makes of answers that are not the API's."""

import threading
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.factories import worker_facts
from tunery.base_model import file_facts
from tunery.facts import FileFacts
from tunery.messages import Lease
from worker.client import FILES_AT_ONCE, ApiAway, ApiRefused, Client

LEASE = cast("Any", Lease).model_construct(job_id="ftjob-1", secret="secret")


def client_of(answer: httpx.Response) -> Client:
    client = Client("http://api", "key")
    client.http = httpx.Client(
        base_url="http://api", transport=httpx.MockTransport(lambda _: answer)
    )
    return client


@pytest.mark.parametrize("error", ["Bad Gateway", {"message": "no upstream"}, None])
def test_a_proxys_error_is_an_api_that_is_away(error: object) -> None:
    with pytest.raises(ApiAway):
        client_of(httpx.Response(502, json={"error": error})).claim(worker_facts())


def test_a_redirect_is_no_answer() -> None:
    elsewhere = httpx.Response(308, headers={"location": "https://api/"})
    with pytest.raises(ApiRefused, match="308"):
        client_of(elsewhere).claim(worker_facts())


def test_files_are_sent_a_few_at_once_and_those_of_one_content_once(tmp_path: Path) -> None:
    under_way = threading.Barrier(FILES_AT_ONCE)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(FileFacts.model_validate_json(request.content).sha256)
        under_way.wait(timeout=10)  # breaks if they come one after the other
        return httpx.Response(200, json={"url": None})

    client = Client("http://api", "key")
    client.http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    files: list[FileFacts] = []
    for number in [*range(FILES_AT_ONCE), 0]:
        path = tmp_path / f"{len(files)}.bin"
        path.write_bytes(bytes([number]))
        files.append(file_facts(path))
    client.upload_all(LEASE, tmp_path, files, patience=0)
    assert sorted(asked) == sorted({facts.sha256 for facts in files})


def test_a_file_that_cannot_be_sent_ends_the_sending(tmp_path: Path) -> None:
    client = client_of(httpx.Response(422, json={"error": {"message": "no", "code": "no"}}))
    (tmp_path / "a.bin").write_bytes(b"a")
    with pytest.raises(ApiRefused):
        client.upload_all(LEASE, tmp_path, [file_facts(tmp_path / "a.bin")], patience=0)
