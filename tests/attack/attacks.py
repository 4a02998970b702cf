"""The suite's attacks."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack import faults, hold, neighbours, silence, storage, stored, strangers, workers
from tests.attack.town import Town
from tests.chaos.judge import Outcome


@dataclass(frozen=True)
class Attack:
    """`few` of it in `make long` (0: none), `usual` in `make attack`: connections, files, requests
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
        "questions",
        "connections of one tenant that ask a model in vain, beside another tenant's reads",
        neighbours.questions,
        *(0, 300),
    ),
    Attack(
        "idle",
        "connections without a key that send half a head and hold on",
        hold.idle,
        *(0, 2_000),
    ),
    Attack(
        "unread",
        "downloads that their client does not read",
        hold.unread,
        *(0, 20),
    ),
    Attack(
        "checks",
        "large files of one tenant that wait for their check, and then another tenant's",
        hold.checks,
        *(0, 12),
    ),
    Attack(
        "reports",
        "connections of one tenant that ask for token reports, beside another tenant's report",
        neighbours.reports,
        *(0, 8),
    ),
    Attack(
        "bombs",
        "Parquet files of 4 kB that unpack to a million rows, and then another tenant's file",
        stored.bombs,
        *(0, 12),
    ),
    Attack(
        "unannounced",
        "uploads of 100 MB at once that do not announce their length, into a quota of 20 MB",
        stored.unannounced,
        *(0, 10),
    ),
    Attack(
        "exports",
        "requests for two exports of one model, and then for more than the quota has room for",
        stored.exports,
        *(0, 600),
    ),
    Attack(
        "names",
        "file names of 256 bytes to 130 kB",
        stored.names,
        *(0, 100),
    ),
    Attack(
        "hostile worker",
        "messages of a worker under its lease, of shapes that no worker sends",
        workers.hostile,
        *(100, 2_000),
    ),
    Attack(
        "two lengths",
        "requests with two lengths and another request hidden behind the shorter one",
        strangers.two_lengths,
        *(0, 100),
    ),
    Attack(
        "parameters",
        "query parameters that no route has",
        silence.parameters,
        *(50, 500),
    ),
    Attack(
        "bad data",
        "files of one tenant that crash the engine, beside another tenant's jobs",
        faults.bad_data,
        *(1, 3),
    ),
    Attack(
        "killed engines",
        "`kill -9` of one job's engine in a row, before its first checkpoint",
        faults.killed_engines,
        *(0, 6),
    ),
    Attack(
        "changed base",
        "a base model's weights changed on disk under a warm engine, and changed back",
        faults.changed_base,
        *(0, 2),
    ),
    Attack(
        "broken base",
        "jobs on a base model that was registered with weights that are no numbers",
        faults.broken_base,
        *(1, 3),
    ),
    Attack(
        "guessed keys",
        "requests with keys that are none: each is a line in the log, and none a row of the audit",
        strangers.guessed_keys,
        *(20, 500),
    ),
    Attack(
        "storage away",
        "jobs that wait while storage is away for 20 s, an empty mount point in its place",
        storage.away,
        *(0, 5),
    ),
    Attack(
        "rot",
        "stored data sets with two bytes changed",
        storage.rot,
        *(1, 5),
    ),
)


def short_round() -> dict[str, Callable[[Town], Outcome]]:
    return {one.name: one.run_few for one in ATTACKS if one.few}
