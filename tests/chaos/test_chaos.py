"""The short round of the chaos suite; `make chaos` is the long one."""

import random
import secrets

import pytest

from tests.chaos.bench import Bench
from tests.chaos.cluster import LONG, SHORT
from tests.chaos.nursery import Nursery
from tests.chaos.scenarios import short_round
from tests.chaos.stores import Stores


@pytest.fixture(scope="module")
def bench(
    nursery: Nursery, mortal_stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    bench = Bench(nursery, mortal_stores, tmp_path_factory.mktemp("chaos"))
    bench.learn(*SHORT, LONG)
    return bench


@pytest.mark.parametrize("name", short_round())
def test_every_job_ends_once_and_bit_equal_after(name: str, bench: Bench) -> None:
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    outcome = short_round()[name](bench, random.Random(seed))
    assert outcome.misses == []
    assert outcome.count > 0
