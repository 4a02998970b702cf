from collections.abc import Callable, Iterator

import pytest

from tests.api.sink import Sink, sink
from tests.conftest import Served


@pytest.fixture
def trial(serve_with: Callable[..., Served]) -> Served:
    """A server that may deliver to this machine. It leaves files unchecked, which saves time: a job
    that waits for its files is cancelled like any other.
    """
    return serve_with(webhooks_to_private_addresses=True, check_at_once_bytes=0)


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as made:
        yield made
