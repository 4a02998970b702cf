"""What a data set is for one base model: how many tokens, what is cut or left out, and the first
rows as the model will see them.

`python -m tunery.data.tokens FILE NAME FOLDER MAX_LENGTH ROWS TEXT_BYTES ENCODER SAMPLE SECONDS
TEMPLATE COLUMNS` prints it as JSON; the API runs it so, in a process with limits, because a chat
template is a program and a data set a stranger's input. ENCODER is 1 if the base is one, else 0; of
more than SAMPLE bytes a sample is measured, for SECONDS at most. TEMPLATE is a chat template
instead of the base's own, or empty; COLUMNS are those of `read_rows` in JSON, or null.
"""

import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from tunery.data.answers import THOUGHTS
from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.check import limit_this_process
from tunery.data.columns import Columns
from tunery.data.incomplete import LINES_NAMED
from tunery.data.jinja import TemplateError
from tunery.data.lines import row_of
from tunery.data.read import blank, read_records
from tunery.data.rows import Fault, Preference, Row, Text
from tunery.data.template import ChatTokenizer, Example

PERCENTILES = (5, 50, 90, 95, 99)
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
PREVIEWED_ROWS = 3
PREVIEWED_TOKENS = 2_000

# What the API measures of a file, so that it can answer while somebody waits. The tokenizer is
# loaded within the seconds.
SAMPLE_BYTES = 4 << 20
SAMPLE_SECONDS = 7
MEMORY_LIMIT_BYTES = 2 << 30
CPU_LIMIT_SECONDS = 10


@dataclass
class TokenReport:
    """As a job reads the file that leaves it all to us. `rows` are all of the file's; only the
    `measured` ones are counted and named. `lengths` has the tokens of each row that is trained on,
    before it is cut: of a preference those of both answers. For an encoder `trained_tokens` are
    those that may be masked.
    """

    max_length: int
    rows: int
    measured: int = 0
    lengths: list[int] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    split: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    apart: list[int] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=dict)
    adapted: dict[str, list[int]] = field(default_factory=dict)
    reasoning: int = 0
    in_pieces: list[str] = field(default_factory=list)
    preview: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Row, examples: list[Example]) -> None:
        parts, pair = isinstance(row, Text), isinstance(row, Preference)
        self.reasoning += any(example.reasoning for example in examples)
        for words in {words for example in examples for words in example.lost}:
            self.lost.setdefault(words, []).append(row.line)
        if adapted := examples[0].adapted:
            self.adapted.setdefault(adapted, []).append(row.line)
        if not (all if pair else any)(example.trained_tokens for example in examples):
            self.dropped.append(row.line)
            return
        self.lengths.append(sum(example.tokens for example in examples))
        self.tokens += sum(len(example.ids) for example in examples)
        self.trained_tokens += sum(example.trained_tokens for example in examples)
        if len(examples) > 1 and not pair:
            (self.split if parts else self.apart).append(row.line)
        if any(example.cut for example in examples):
            self.cut.append(row.line)

    @property
    def incomplete(self) -> int:
        """Rows that are left out, or that the template leaves something out of."""
        lines = {*self.dropped, *(line for line, _ in self.refused)}
        return len(lines.union(*self.lost.values()))

    def in_all(self, measured: int) -> int:
        """A sum over the measured rows as one over all rows, about."""
        return round(measured * self.rows / self.measured) if self.measured else 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "max_length": self.max_length,
            "rows": self.rows,
            "measured_rows": self.measured,
            "sampled": self.measured < self.rows,
            "row_tokens": percentiles(self.lengths),
            "histogram": histogram(self.lengths),
            "epoch_tokens": self.in_all(self.tokens),
            "epoch_trained_tokens": self.in_all(self.trained_tokens),
            "split": named(self.split),
            "cut": named(self.cut),
            "nothing_to_train": named(self.dropped),
            "answer_by_answer": named(self.apart),
            "adapted": {words: named(lines) for words, lines in self.adapted.items()},
            "lost": {words: named(lines) for words, lines in self.lost.items()},
            "reasoning": {
                "rows": self.reasoning,
                "kept": self.reasoning - len(self.lost.get(THOUGHTS, ())),
                "dropped": len(self.lost.get(THOUGHTS, ())),
            },
            "in_pieces": self.in_pieces,
            "incomplete_rows": self.incomplete,
            "refused": {
                "rows": len(self.refused),
                "lines": [
                    {"line": line, "reason": reason} for line, reason in self.refused[:LINES_NAMED]
                ],
            },
            "preview": self.preview,
        }


def named(lines: list[int]) -> dict[str, Any]:
    return {"rows": len(lines), "lines": lines[:LINES_NAMED]}


def measure(
    path: Path,
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    rows: int,
    text_bytes: int,
    encoder: bool = False,
    name: str | None = None,
    columns: Columns | None = None,
    sample_bytes: int = sys.maxsize,
    seconds: float = math.inf,
) -> TokenReport:
    """Of a file whose check found `rows` and `text_bytes` and no fault. `name` and `columns` as
    in `read_rows`.

    Of more than `sample_bytes` only about as many are measured, from rows all over the file; and
    none that are left when the seconds are over.

    Raises:
        TemplateTooCostly: the chat template took more for a row than it may.

    """
    report = TokenReport(max_length, rows, in_pieces=tokenizer.written_in_pieces())
    share = min(1.0, sample_bytes / max(1, text_bytes))
    until = time.monotonic() + seconds
    records = (each for each in read_records(path, name, columns) if not blank(each[1]))
    for number, (line, record) in enumerate(records):
        # Multiples of the golden ratio lie evenly, and in step with no pattern of the rows.
        sampled = number * GOLDEN_RATIO % 1 < share
        previewed = number < PREVIEWED_ROWS
        if time.monotonic() > until:
            break
        if not (sampled or previewed):
            continue
        row = row_of(line, record, columns)
        if isinstance(row, Fault):
            continue
        report.measured += sampled
        try:
            examples = examples_of(row, tokenizer, max_length, encoder=encoder)
        except TemplateError as error:
            if sampled:
                report.refused.append((line, str(error)))
            continue
        if previewed:
            shown = examples[:1] if isinstance(row, Text) else examples
            report.preview += [preview(tokenizer, example) for example in shown]
        if sampled:
            report.add(row, examples)
    return report


def examples_of(
    row: Row, tokenizer: ChatTokenizer, max_length: int, *, encoder: bool
) -> list[Example]:
    match row:
        case Preference():
            return list(tokenizer.encode_pair(row, max_length))
        case Text() if encoder:
            return tokenizer.encode_enclosed(row, max_length)
        case Text():
            return tokenizer.encode_parts(row, max_length)
        case _:
            return tokenizer.encode(row, max_length)


def percentiles(lengths: list[int]) -> dict[str, int] | None:
    """By nearest rank. None of no rows."""
    if not lengths:
        return None
    in_order = sorted(lengths)
    found = {f"p{each}": in_order[-(-each * len(lengths) // 100) - 1] for each in PERCENTILES}
    return found | {"max": in_order[-1]}


def histogram(lengths: list[int]) -> list[dict[str, int]]:
    """Rows by tokens, each bin up to twice those of the one before."""
    if not lengths:
        return []
    bins = Counter((length - 1).bit_length() for length in lengths)
    return [{"up_to": 1 << size, "rows": bins[size]} for size in range(min(bins), max(bins) + 1)]


def preview(tokenizer: ChatTokenizer, example: Example) -> dict[str, Any]:
    """The row's text, in runs that are trained and runs that are not."""
    ids, mask = example.ids[:PREVIEWED_TOKENS], example.mask[:PREVIEWED_TOKENS]
    whole = tokenizer.text_of(ids)
    if len(ids) < example.tokens:
        whole = whole.rstrip("\N{REPLACEMENT CHARACTER}")  # half a character, where it is cut
    texts: list[str] = []
    kinds: list[bool] = []
    begin = end = 0
    for trained, run in groupby(mask):
        end += len(list(run))
        # A character whose bytes are in two runs belongs to the second, which makes it whole.
        until = in_common(whole, tokenizer.text_of(ids[:end]))
        texts.append(whole[begin:until])
        kinds.append(trained == 1)
        begin = until
    texts[-1] += whole[begin:]
    return {
        "line": example.line,
        "tokens": example.tokens,
        "shortened": len(example.ids) > PREVIEWED_TOKENS,
        "segments": [
            {"text": text, "trained": kind} for text, kind in zip(texts, kinds, strict=True)
        ],
    }


def in_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    began = time.monotonic()
    limit_this_process(MEMORY_LIMIT_BYTES, CPU_LIMIT_SECONDS)
    file, name, folder, max_length, rows, text_bytes, encoder, sample, *rest = sys.argv[1:]
    seconds, own, columns = rest
    try:
        with renderings_bounded(MEMORY_LIMIT_BYTES):
            found = measure(
                Path(file),
                ChatTokenizer(Path(folder), own or None),
                max_length=int(max_length),
                rows=int(rows),
                text_bytes=int(text_bytes),
                encoder=encoder == "1",
                name=name,
                columns=orjson.loads(columns),
                sample_bytes=int(sample),
                seconds=began + float(seconds) - time.monotonic(),
            ).as_dict()
    except (TemplateError, TemplateTooCostly) as error:
        found = {"broken": str(error)}
    sys.stdout.buffer.write(orjson.dumps(found))
