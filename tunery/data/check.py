"""The check of a whole data set: every fault with its line, streaming.

`python -m tunery.data.check FILE` prints the report as JSON; the API runs it so, in a process
with limits, because a data set is a stranger's input.
"""

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tunery.data.read import read_rows
from tunery.data.rows import Fault

MAX_FAULTS = 1_000
MEMORY_LIMIT_BYTES = 1 << 30


@dataclass
class Report:
    """`faults` holds the first 1,000; `fault_count` counts all of them. The bytes are those of the
    rows' texts in UTF-8, without the JSON around them.
    """

    rows: int = 0
    text_bytes: int = 0
    longest_row_bytes: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.fault_count == 0

    def add(self, fault: Fault) -> None:
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    def summary(self) -> str | None:
        """The first fault, and how many more there are; None if there is none."""
        if self.ok:
            return None
        more = self.fault_count - 1
        rest = f" ({more} more fault{'s' if more > 1 else ''}; see the report)" if more else ""
        return f"{self.faults[0]}{rest}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "object": "file.report",
            "ok": self.ok,
            "rows": self.rows,
            "formats": self.formats,
            "text_bytes": self.text_bytes,
            "longest_row_bytes": self.longest_row_bytes,
            "fault_count": self.fault_count,
            "summary": self.summary(),
            "faults": [fault.as_dict() | {"message": str(fault)} for fault in self.faults],
        }


def check(path: Path) -> Report:
    """Reads the file once. Memory stays bounded however large the file is."""
    report = Report()
    for row in read_rows(path):
        if isinstance(row, Fault):
            report.add(row)
            continue
        if report.formats and row.format not in report.formats:
            report.add(
                Fault(
                    row.line,
                    "",
                    "mixed_formats",
                    f"the row is {row.format}, the rows before are {next(iter(report.formats))}",
                    "Use one format in a file",
                )
            )
            continue
        size = len(row.text.encode())
        report.rows += 1
        report.text_bytes += size
        report.longest_row_bytes = max(report.longest_row_bytes, size)
        report.formats[row.format] = report.formats.get(row.format, 0) + 1
    if report.rows == 0 and report.ok:
        report.add(
            Fault(1, "", "no_rows", "the file has no rows", "Write one JSON object on each line")
        )
    return report


def limit_this_process(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    limit_this_process(MEMORY_LIMIT_BYTES, 900)
    sys.stdout.buffer.write(orjson.dumps(check(Path(sys.argv[1])).as_dict()))
