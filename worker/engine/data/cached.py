"""Data sets that have been read before, so that the next job on one starts at once."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tunery.spec import Overflow
from worker.engine.data.reading import Kind, TokenRows

LIMIT_BYTES = 256 << 20


class Name(NamedTuple):
    """Which rows they are. The project is part of it: whether a file has been here before is no
    other project's business, and its start would tell.
    """

    project_id: str
    file_sha256: str
    tokenizer_sha256: str
    max_length: int
    objective: str
    train_on_inputs: bool
    overflow: Overflow
    columns: tuple[tuple[str, str], ...] = ()


class KnownData:
    """At most `limit` bytes in memory; what was used longest ago goes first."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.sets: OrderedDict[Name, TokenRows] = OrderedDict()

    def rows(self, name: Name, kind: Kind, read: Callable[[], TokenRows]) -> TokenRows:
        """The rows of that name, for the caller to keep: each is made anew when it is asked for, so
        that nobody changes another's. `read` is called if they are not known, and what it raises is
        raised.
        """
        if name not in self.sets:
            data = read()
            if data.bytes > self.limit:
                return data
            self.sets[name] = data
            while sum(known.bytes for known in self.sets.values()) > self.limit:
                self.sets.popitem(last=False)
            return replace(data)
        self.sets.move_to_end(name)
        return replace(self.sets[name], kind=kind)
