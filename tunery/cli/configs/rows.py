"""The data sets that a config names: what is taken of each, and the one file that is sent."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from tunery.data.lines import read_object
from tunery.data.read import blank, read_records
from tunery.data.rows import Fault, Faulty
from tunery.errors import InvalidRequest

Fields = dict[str, Any]
Change = Callable[[Fields], Fields]

# As `datasets` has it: train, train[:10%], train[100:200].
SLICE = re.compile(r"\w+(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@dataclass(frozen=True)
class DataSet:
    """A file of rows. Of them those from `start` to `stop` are taken, each a number of rows or, as
    "10%", a share of them; None is the beginning, or the end. Each becomes what `change` makes of
    its fields; None: it stays as it is.
    """

    path: Path
    change: Change | None = None
    start: str | None = None
    stop: str | None = None

    @property
    def untouched(self) -> bool:
        return self.change is None and self.start is None and self.stop is None

    def rows(self) -> Iterator[Fields]:
        """Raises `InvalidRequest` for a line that is no row, with its number."""
        for line, fields in self.taken():
            try:
                yield self.change(fields) if self.change else fields
            except KeyError as error:
                raise InvalidRequest(
                    f"{self.path}: line {line}: there is no {error.args[0]}, which the config "
                    "names. Name what the rows have."
                ) from error
            except (TypeError, AttributeError, ValueError) as error:
                raise InvalidRequest(
                    f"{self.path}: line {line} is not as the config says: {error}."
                ) from error

    def taken(self) -> Iterator[tuple[int, Fields]]:
        rows = fields_of(self.path)
        if self.start is None and self.stop is None:
            return rows
        count = 0
        if any(bound is not None and not bound.isdecimal() for bound in (self.start, self.stop)):
            count = sum(1 for _ in fields_of(self.path))
        start = 0 if self.start is None else place(self.start, count)
        return islice(rows, start, None if self.stop is None else place(self.stop, count))


@dataclass(frozen=True)
class Joined:
    """Data sets, one after the other; each row `once`, or as often as it comes."""

    sets: tuple[DataSet, ...]
    once: bool = False

    @property
    def paths(self) -> list[Path]:
        return [each.path for each in self.sets]

    def file(self, folder: Path) -> Path:
        """The file itself, if all of one is taken as it stands; else one that is written into the
        folder. Raises as `DataSet.rows`.
        """
        if len(self.sets) == 1 and self.sets[0].untouched and not self.once:
            return self.sets[0].path
        folder.mkdir(exist_ok=True)
        names = dict.fromkeys(path.name.split(".")[0] for path in self.paths)
        made = folder / f"{'+'.join(names)[:100]}.jsonl"
        seen: set[bytes] = set()
        with made.open("wb") as file:
            for row in (row for each in self.sets for row in each.rows()):
                written = orjson.dumps(row) + b"\n"
                if not self.once or written not in seen:
                    file.write(written)
                if self.once:
                    seen.add(written)
        return made


def fields_of(path: Path) -> Iterator[tuple[int, Fields]]:
    """(line, its row's fields) of a file in any form that is known. Raises `InvalidRequest`."""
    for line, record in read_records(path):
        if blank(record):
            continue
        try:
            found = read_object(record.rstrip(b"\r\n")) if isinstance(record, bytes) else record
        except Faulty as fault:
            found = fault.at(line)
        if isinstance(found, Fault):
            raise InvalidRequest(f"{path}: {found}")
        yield line, found


def bare(fault: InvalidRequest) -> str:
    """Its words within another sentence."""
    return str(fault).removesuffix(".")


def place(bound: str, count: int) -> int:
    """Of `count` rows, where a slice begins or ends. Percent are rounded as `datasets` does."""
    at = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
    return max(0, count + at) if at < 0 else at
