"""The check of a whole data set: every fault with its line, streaming.

`python -m tunery.data.check FILE [NAME [MOST_ROWS [COLUMNS]]]` prints the report as JSON; the API
runs it so, in a process with limits, because a data set is a stranger's input.
"""

import os
import resource
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from xxhash import xxh3_64_intdigest as digest

from tunery import privileges
from tunery.data.columns import Columns
from tunery.data.jsonl import Lines
from tunery.data.lines import Fields, row_of
from tunery.data.read import container_of, encoding_at, read_blocks, sheets_of
from tunery.data.repeats import Repeats
from tunery.data.rows import Chat, Fault, Faulty, Preference, Row, excerpt, holds_reasoning, quoted
from tunery.data.usual import UsualRows, usual_rows, written_bytes

MAX_FAULTS = 1_000
FEWEST_ROWS = 10  # as OpenAI asks for
MOST_NAMED = 10
# A file could have a name of its own in each row.
MOST_LEFT_OUT = 1_000
MEMORY_LIMIT_BYTES = 1 << 30
# So much for any file, and more for a larger one: a good one needs a hundredth of it.
CPU_SECONDS = 20
CPU_SECONDS_PER_MIB = 20
CPU_LIMIT_SECONDS = 900

# What a row costs has little to do with its length, neither here nor in a training.
MOST_ROWS = 10_000_000
# Of a packed file: a bomb is small and unpacks to far more rows than any data set has.
MOST_ROWS_PER_BYTE = 1
RATIO_COUNTS_FROM_ROWS = 100_000


@dataclass
class Report:
    """`faults` holds the first 1,000; `fault_count` counts all of them. The bytes are those of the
    rows' texts in JSON as UTF-8, without what is around them. `pairs` are the first ten lines with
    the bytes of an earlier one; where there are very many rows, not all are remembered. `sheets`
    are those of an Excel workbook that have rows; the first is read. `left_out` counts the rows
    that have something no training reads, by its name.
    """

    container: str = "jsonl"
    encoding: str = "utf-8"
    columns: Columns | None = None
    sheets: list[str] = field(default_factory=list)
    rows: int = 0
    text_bytes: int = 0
    longest_row_bytes: int = 0
    formats: dict[str, int] = field(default_factory=Counter)
    messages: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    rows_with_tools: int = 0
    rows_with_reasoning: int = 0
    tool_calls: int = 0
    duplicate_rows: int = 0
    pairs: list[tuple[int, int]] = field(default_factory=list)
    all_compared: bool = True
    faulty_rows: int = 0
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return self.fault_count == 0

    def add(self, fault: Fault) -> None:
        """A row's, with the others of that row."""
        self.faulty_rows += 1
        for each in (fault, *fault.others):
            self.fault_count += 1
            self.rules[each.rule] += 1
            if len(self.faults) < MAX_FAULTS:
                self.faults.append(each)

    def summary(self) -> str | None:
        """The first fault, and how many more there are; None if there is none."""
        if self.ok:
            return None
        more = self.fault_count - 1
        rest = f" ({more} more fault{'s' if more > 1 else ''}; see the report)" if more else ""
        return f"{self.faults[0]}{rest}"

    def warnings(self) -> list[str]:
        """What can be trained on, and may not be meant."""
        said = []
        if self.ok and self.rows < FEWEST_ROWS:
            count = "1 row" if self.rows == 1 else f"{self.rows} rows"
            said.append(
                f"The file has only {count}; a model learns little from fewer than {FEWEST_ROWS}."
            )
        if self.duplicate_rows:
            first, again = self.pairs[0]
            least = "" if self.all_compared else "At least "
            said.append(
                f"{least}{self.duplicate_rows:,} rows are the same as an earlier one: line {again} "
                f"as line {first}. Each is trained on as often as it comes."
            )
        if self.sheets[1:]:
            read, *others = (excerpt(name) for name in self.sheets)
            said.append(
                f"Only the sheet `{read}` is read; {quoted(tuple(others[:MOST_NAMED]))} "
                f"{'have' if others[1:] else 'has'} rows too. Save each as a file of its own."
            )
        if self.encoding != "utf-8":
            said.append(
                f"The file is read as {self.encoding}, for it is not in UTF-8. See in the preview "
                "that its letters are right."
            )
        if self.left_out:
            names = ", ".join(
                f"{name} ({count:,} rows)" for name, count in self.left_out.most_common(MOST_NAMED)
            )
            more = ", …" if len(self.left_out) > MOST_NAMED else ""
            why = "as `columns` does not name it" if self.columns else "as no training reads it"
            said.append(f"Left out, {why}: {names}{more}.")
        return said

    def as_dict(self) -> dict[str, Any]:
        return {
            "object": "file.report",
            "ok": self.ok,
            "container": self.container,
            "encoding": self.encoding,
            "columns": self.columns,
            "sheets": self.sheets,
            "rows": self.rows,
            "formats": dict(self.formats),
            "text_bytes": self.text_bytes,
            "longest_row_bytes": self.longest_row_bytes,
            "messages": self.messages,
            "roles": {role: count for role, count in self.roles.items() if count},
            "left_out": dict(self.left_out),
            "rows_with_tools": self.rows_with_tools,
            "rows_with_reasoning": self.rows_with_reasoning,
            "tool_calls": self.tool_calls,
            "duplicates": {
                "rows": self.duplicate_rows,
                "lines": self.pairs,
                "complete": self.all_compared,
            },
            "warnings": self.warnings(),
            "faulty_rows": self.faulty_rows,
            "fault_count": self.fault_count,
            "rules": dict(self.rules),
            "summary": self.summary(),
            "faults": [fault.as_dict() | {"message": str(fault)} for fault in self.faults],
        }


def check(
    path: Path,
    name: str | None = None,
    most_rows: int = MOST_ROWS,
    columns: Columns | None = None,
) -> Report:
    """Reads the file once, and no further than its first `most_rows` rows. Memory stays bounded
    however large the file is. `name` and `columns` as in `read_rows`.
    """
    report = Report(container_of(path, name), encoding_at(path, name), columns)
    if report.container == "xlsx":
        report.sheets = sheets_of(path)
    reading = Reading(report)
    most_packed = max(RATIO_COUNTS_FROM_ROWS, MOST_ROWS_PER_BYTE * path.stat().st_size)
    for line, found in read_blocks(path, name, columns):
        if isinstance(found, Lines):
            reading.see(line, found)
        else:
            reading.judge(line, found)
        judged = report.rows + report.faulty_rows
        if judged > min(most_rows, most_packed):
            too_many = too_many_rows(most_rows) if judged > most_rows else unpacks_to_many_rows()
            report.add(too_many.at(line))
            break
    reading.end()
    if report.rows == 0 and report.ok:
        report.add(
            Fault(1, "", "no_rows", "the file has no rows", "Write one JSON object on each line")
        )
    return report


def too_many_rows(most: int) -> Faulty:
    return Faulty(
        "",
        "too_many_rows",
        f"the file has more than {most:,} rows, and is read no further",
        "Leave some out, or join short ones into longer ones; an operator can raise "
        "TUNERY_MAX_FILE_ROWS",
    )


def unpacks_to_many_rows() -> Faulty:
    return Faulty(
        "",
        "unpacks_too_far",
        f"the file unpacks to over {RATIO_COUNTS_FROM_ROWS:,} rows, more than "
        f"{MOST_ROWS_PER_BYTE} for each of its bytes, and is read no further",
        "Remove rows that come again, or upload it as plain .jsonl",
    )


class Reading:
    """A report in the making."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.repeats = Repeats()

    def see(self, first: int, lines: Lines) -> None:
        """Some lines of JSONL: at once if all are usual, else one by one."""
        if not self.report.formats:  # the first row says what the others should be
            lines, first = self.see_first(first, lines)
        plain = "chat" in self.report.formats and not self.report.columns
        usual = usual_rows(lines) if plain and lines.each else None
        if usual:
            self.take(first, lines.each, usual)
        else:
            for line, raw in enumerate(lines.each, first):
                if not raw.isspace():
                    self.judge(line, raw)

    def see_first(self, first: int, lines: Lines) -> tuple[Lines, int]:
        """Judges lines until one is a row; returns the others, and where they begin."""
        for line, raw in enumerate(lines.each, first):
            if not raw.isspace():
                self.judge(line, raw)
            if self.report.formats:
                rest = lines.each[line - first + 1 :]
                return Lines(b"".join(rest), rest), line + 1
        return Lines(b"", []), first

    def take(self, first: int, lines: list[bytes], usual: UsualRows) -> None:
        report = self.report
        report.rows += len(lines)
        report.formats["chat"] += len(lines)
        report.text_bytes += usual.text_bytes
        report.rows_with_reasoning += usual.thinking
        report.messages += sum(usual.roles.values())
        for role, count in usual.roles.items():
            report.roles[role] += count
        if max(map(len, lines)) > report.longest_row_bytes:
            for raw, chat in zip(lines, usual.chats, strict=True):
                if len(raw) > report.longest_row_bytes:
                    size = written_bytes([message.content for message in chat.messages])
                    report.longest_row_bytes = max(report.longest_row_bytes, size)
        self.repeats.add(first, [*map(digest, lines[:-1]), digest_of_line(lines[-1])])

    def end(self) -> None:
        repeats = self.repeats
        repeats.look_back()
        self.report.duplicate_rows = repeats.rows
        self.report.pairs, self.report.all_compared = repeats.pairs, repeats.complete

    def judge(self, line: int, record: bytes | Fields | Fault) -> None:
        """One row by itself."""
        report = self.report
        row = row_of(line, record, report.columns)
        if isinstance(row, Fault):
            report.add(row)
            return
        if report.formats and row.format not in report.formats:
            report.add(
                Fault(
                    line,
                    "",
                    "mixed_formats",
                    f"the row is {row.format}, the rows before are {next(iter(report.formats))}",
                    "Use one format in a file",
                )
            )
            return
        size = written_bytes([row.text])
        report.rows += 1
        report.formats[row.format] += 1
        report.text_bytes += size
        report.longest_row_bytes = max(report.longest_row_bytes, size)
        report.rows_with_reasoning += holds_reasoning(row)
        count_messages(report, row)
        for name in set(row.left_out):
            if name in report.left_out or len(report.left_out) < MOST_LEFT_OUT:
                report.left_out[name] += 1
        raw = record if isinstance(record, bytes) else orjson.dumps(record)
        self.repeats.add(line, [digest_of_line(raw)])


def digest_of_line(raw: bytes) -> int:
    """The last line of a file may lack its end, and is the same row nevertheless."""
    return digest(raw if raw.endswith(b"\n") else raw + b"\n")


def count_messages(report: Report, row: Row) -> None:
    if isinstance(row, Chat):
        messages = row.messages
    elif isinstance(row, Preference):
        messages = (*row.input, *row.preferred, *row.non_preferred)
    else:
        return
    report.messages += len(messages)
    report.roles.update(message.role for message in messages)
    report.tool_calls += sum(len(message.tool_calls) for message in messages)
    report.rows_with_tools += bool(row.tools)


def limit_this_process(memory_bytes: int, cpu_seconds: int) -> None:
    privileges.give_up()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def cpu_seconds(size: int) -> int:
    """What the check of a file of so many bytes may take."""
    return min(CPU_LIMIT_SECONDS, CPU_SECONDS + CPU_SECONDS_PER_MIB * (size >> 20))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    name = sys.argv[2] if len(sys.argv) > 2 else None
    most_rows = int(sys.argv[3]) if len(sys.argv) > 3 else MOST_ROWS
    columns = orjson.loads(sys.argv[4]) if len(sys.argv) > 4 else None
    try:
        limit_this_process(MEMORY_LIMIT_BYTES, cpu_seconds(path.stat().st_size))
        found = check(path, name, most_rows, columns)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(os.EX_IOERR)
    sys.stdout.buffer.write(orjson.dumps(found.as_dict()))
