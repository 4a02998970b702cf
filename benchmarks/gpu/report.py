"""Tables that say each row as soon as it is known, and all of it as JSON at their end."""

import json
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self

from tunery.plan import duration
from worker.engine.device import device, device_memory, device_name

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl")


def on_gpu() -> bool:
    return device().type == "cuda"


def peak_flops() -> float | None:
    """FLOP/s in bf16; None for a device whose data sheet is not at hand."""
    return duration.peak_flops(device_name())


def version_of(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def machine() -> str:
    versions = ", ".join(map(version_of, PACKAGES))
    date, memory = time.strftime("%Y-%m-%d"), device_memory() / 2**30
    return f"{date}, {device_name()}, {memory:.0f} GiB; {versions}"


@dataclass
class Table:
    """`columns` are names with the format of their numbers. A value that is words is printed as it
    is: what could not be measured says why.
    """

    name: str
    title: str
    columns: dict[str, str]
    notes: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        print(f"\n### {self.title}\n\n{self.notes}")
        if not on_gpu():
            print("On a CPU: no figure is the engine's speed, and what needs a GPU is empty.")
        print(f"\n| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}", flush=True)
        return self

    def row(self, *values: object) -> None:
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        cells = [
            value if isinstance(value, str) else "-" if value is None else format(value, form)
            for value, form in zip(values, self.columns.values(), strict=True)
        ]
        print(f"| {' | '.join(cells)} |", flush=True)

    def without(self, *known: object, why: str) -> None:
        """A row that says in its last column why the rest of it was not measured."""
        self.row(*known, *[None] * (len(self.columns) - len(known) - 1), why)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        said = {"slice": self.name, "table": self.title, "machine": machine(), "rows": self.rows}
        print(f"\n{json.dumps(said)}", flush=True)


@dataclass
class Clock:
    """The time that one slice has."""

    seconds: float = 570
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()


TIME_IS_UP = "not measured: the slice's time was up"
NO_MEMORY = "ran out of memory"
