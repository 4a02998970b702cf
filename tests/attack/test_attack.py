"""The short round of the attack suite; `make attack` is the long one."""

import pytest

from tests.attack.attacks import short_round
from tests.attack.town import Town
from tests.chaos.nursery import Nursery
from tests.chaos.stores import Stores


@pytest.fixture(scope="module")
def town(nursery: Nursery, mortal_stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Town:
    return Town(nursery, mortal_stores, tmp_path_factory.mktemp("attack"))


@pytest.mark.long
@pytest.mark.parametrize("name", short_round())
def test_the_service_holds(name: str, town: Town) -> None:
    outcome = short_round()[name](town)
    assert outcome.misses == []
    assert outcome.count > 0
