"""The short round of the chaos suite; `make chaos` is the long one."""

import random
import secrets
from collections.abc import Iterator

import pytest

from tests.chaos.bench import Bench, start_bench
from tests.chaos.scenarios import short_round


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with start_bench(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.mark.parametrize("name", short_round())
def test_every_job_ends_once_and_bit_equal_after(name: str, bench: Bench) -> None:
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    outcome = short_round()[name](bench, random.Random(seed))
    assert outcome.misses == []
    assert outcome.count > 0
