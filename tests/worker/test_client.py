"""What a worker makes of answers that are not the API's."""

import httpx
import pytest

from tests.factories import worker_facts
from worker.client import ApiAway, ApiRefused, Client


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
