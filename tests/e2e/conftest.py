"""One service for these tests: its start and its engine's imports take long."""

from collections.abc import Iterator

import pytest

from tests.e2e.up import Up, start


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    service = start(tmp_path_factory.mktemp("up"))
    yield service
    if service.child.poll() is None:
        service.stop()
