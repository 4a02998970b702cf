"""What a step may take on a GPU, by case: `budgets.json`. `python -m tests.gpu --write` writes it
anew; what changes in it is to be read in the diff.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.gpu.cases import LENGTHS, Case, Measured

FILE = Path(__file__).with_name("budgets.json")
# Of bytes: a single pass over the logits is over one percent of a step's.
MORE, LESS = 1.002, 0.98
# What a plan may be too low by.
OVER_PLAN = 1.05


@dataclass(frozen=True)
class Budget:
    """Of one step: kernels, kB that they move for each token, the dtypes that products are computed
    in, and waits for the device by where they come from.
    """

    launches: int
    kilobytes_a_token: float
    products: list[str]
    waits: dict[str, int]

    @classmethod
    def of(cls, found: Measured) -> Self:
        kilobytes = found.bytes / 1000 / sum(LENGTHS)
        waits = found.waits | found.pageable
        return cls(found.launches, round(kilobytes, 1), found.products, without_lines(waits))


def without_lines(waits: dict[str, int]) -> dict[str, int]:
    """By files: a line's number changes with every edit."""
    found: dict[str, int] = {}
    for where, times in sorted(waits.items()):
        file = where.rpartition(":")[0]
        found[file] = found.get(file, 0) + times
    return found


def read() -> dict[str, Budget]:
    return {case: Budget(**budget) for case, budget in json.loads(FILE.read_text()).items()}


def write(found: dict[str, Budget]) -> None:
    lines = (f"{json.dumps(case)}: {json.dumps(vars(budget))}" for case, budget in found.items())
    new = FILE.with_suffix(".new")
    new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    new.rename(FILE)


def faults(case: Case, found: Measured, budget: Budget | None) -> Iterator[str]:
    """In words."""
    now = Budget.of(found)
    if budget is None:
        yield f"{case}: it has no budget. Write one: python -m tests.gpu --write"
        return
    if now.waits != budget.waits:
        seen: dict[str, Any] = found.waits | found.pageable
        yield f"{case}: the host waits {seen or 'for nothing'}, its budget has {budget.waits}"
    if now.products != budget.products:
        yield f"{case}: products are computed in {now.products}, not {budget.products}"
    if now.launches > budget.launches:
        yield f"{case}: {now.launches} kernels, {budget.launches} before"
    if now.kilobytes_a_token > MORE * budget.kilobytes_a_token:
        yield f"{case}: {now.kilobytes_a_token} kB a token, {budget.kilobytes_a_token} before"
    if now.launches < LESS * budget.launches or (
        now.kilobytes_a_token < LESS * budget.kilobytes_a_token
    ):
        yield f"{case}: less than before. Keep the gain: python -m tests.gpu --write"
    if found.peak > OVER_PLAN * found.planned:
        yield f"{case}: it takes {found.peak} bytes, its plan expects {found.planned}"
