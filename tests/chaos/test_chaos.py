"""The short round of the chaos suite, most of it in `make long`; `make chaos` is the long one."""

import random
import secrets

import pytest

from tests.chaos.bench import Bench
from tests.chaos.cluster import LONG, SHORT
from tests.chaos.nursery import Nursery
from tests.chaos.scenarios import short_round
from tests.chaos.stores import Stores

# In `make test`: with them nearly all of the service dies, at any moment and at the worst.
OFTEN = {"kills", "failpoints"}


@pytest.fixture(scope="module")
def bench(
    nursery: Nursery, mortal_stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    return Bench(nursery, mortal_stores, tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.long) for name in short_round()],
)
def test_every_job_ends_once_and_bit_equal_after(name: str, bench: Bench) -> None:
    bench.learn(*SHORT, *(() if name in OFTEN else (LONG,)))
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    outcome = short_round()[name](bench, random.Random(seed))
    assert outcome.misses == []
    assert outcome.count > 0
