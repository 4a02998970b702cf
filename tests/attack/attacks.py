"""The suite's attacks."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack import neighbours, silence
from tests.attack.town import Town
from tests.chaos.judge import Outcome


@dataclass(frozen=True)
class Attack:
    """`few` of it in `make test` (0: none), `usual` in `make attack`: connections, files, requests
    or tries, as `what` says.
    """

    name: str
    what: str
    run: Callable[[Town, int], Outcome]
    few: int
    usual: int

    def run_few(self, town: Town) -> Outcome:
        return self.run(town, self.few)


ATTACKS = (
    Attack(
        "creates",
        "connections of one tenant that create jobs, beside another tenant's reads",
        neighbours.creates,
        *(0, 300),
    ),
    Attack(
        "parameters",
        "query parameters that no route has",
        silence.parameters,
        *(0, 500),
    ),
)


def short_round() -> dict[str, Callable[[Town], Outcome]]:
    return {one.name: one.run_few for one in ATTACKS if one.few}
