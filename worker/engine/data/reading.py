"""A data set's rows in tokens, and what is said of those that are not whole."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from tunery.data.bounds import TemplateTooCostly, renderings_bounded
from tunery.data.incomplete import Incomplete, Lines
from tunery.data.jinja import TemplateError
from tunery.data.read import read_rows
from tunery.data.rows import Fault, Row, Text
from tunery.data.template import ChatTokenizer, Example, in_pieces
from tunery.data.tokens import MEMORY_LIMIT_BYTES
from tunery.errors import DoesNotFit
from tunery.plan.memory import gib
from tunery.spec import DataFile
from worker.engine.data.rows import Rows, TokenRow
from worker.engine.errors import Untrainable
from worker.engine.host import available_memory
from worker.engine.seeds import seeds_in

LISTED_BYTES = 40  # a line's number in a list
# Of the memory that is free, what one file's rows may take: a second file, the base and the
# training need some too.
ROOM = 0.5

Kind = Literal["training", "validation"]


def next_tokens(example: Example, piece: int = 0) -> TokenRow:
    """For training on the next token, so not on the first, which has no predecessor."""
    trained = torch.tensor(example.mask, dtype=torch.bool)
    trained[:1] = False
    return TokenRow(example.line, torch.tensor(example.ids, dtype=torch.int32), trained, piece)


@dataclass(frozen=True)
class Encoded:
    """A row of the file in tokens: none, if nothing of it can be trained; several, if it was split,
    or if its answers are trained apart. `cut`: it did not fit, and something is missing. `lost` and
    `adapted` as in `Example`.
    """

    rows: list[TokenRow]
    cut: bool
    lost: tuple[str, ...] = ()
    adapted: str | None = None
    reasoning: bool = False

    @classmethod
    def of(cls, examples: Sequence[Example], rows: list[TokenRow]) -> "Encoded":
        return cls(
            [row for row in rows if row.trained_tokens],
            cut=any(example.cut for example in examples),
            lost=tuple(dict.fromkeys(words for each in examples for words in each.lost)),
            adapted=examples[0].adapted,
            reasoning=any(example.reasoning for example in examples),
        )


class Encoder(Protocol):
    """What a training learns from a row."""

    def encode(self, row: Row, tokenizer: ChatTokenizer) -> Encoded:
        """A row of the file in tokens.

        Raises:
            TemplateError: the tokenizer or the chat template cannot take it.

        """

    def counted(self, tokens: int) -> str:
        """What comes of a data set's trained tokens, in words."""


@dataclass
class TokenRows:
    """A data set's trainable rows in the file's order, and the lines of those that are not whole.

    `dropped` lines have no trained token within `max_length`; the template refused the `refused`
    ones, the first of them for the reason `why`. Of a chat `apart` the template writes some answer
    otherwise once others follow, so that it is a row by itself. What a template leaves out of a
    line, and what was changed so that it takes it, are `lost` and `adapted`, by the words for it.
    `reasoning` counts the lines with a thought before an answer.
    """

    kind: Kind
    max_length: int
    rows: Rows = field(default_factory=Rows)
    split: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    why: str = ""
    apart: list[int] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=dict)
    adapted: dict[str, list[int]] = field(default_factory=dict)
    reasoning: int = 0
    reasoning_trained: bool = True
    in_pieces: list[str] = field(default_factory=list)

    def add(self, row: Row, encoded: Encoded) -> None:
        line = row.line
        self.reasoning += encoded.reasoning
        for words in encoded.lost:
            self.lost.setdefault(words, []).append(line)
        if encoded.adapted:
            self.adapted.setdefault(encoded.adapted, []).append(line)
        if not encoded.rows:
            self.dropped.append(line)
            return
        if len(encoded.rows) > 1:
            (self.split if isinstance(row, Text) else self.apart).append(line)
        if encoded.cut:
            self.cut.append(line)
        self.rows += encoded.rows

    def refuse(self, line: int, why: str) -> None:
        self.refused.append(line)
        self.why = self.why or why

    @property
    def bytes(self) -> int:
        """What it holds of the memory, about."""
        lines = [self.split, self.cut, self.dropped, self.refused, self.apart]
        lines += [*self.lost.values(), *self.adapted.values()]
        return self.rows.store.bytes + LISTED_BYTES * sum(map(len, lines))

    @property
    def whole(self) -> bool:
        return not (self.in_pieces or self.cut or self.dropped or self.refused or self.lost)

    @property
    def lines(self) -> int:
        """How many rows the file has."""
        return self.rows.lines + len(self.dropped) + len(self.refused)

    @property
    def incomplete(self) -> set[int]:
        """The lines that are left out, or that the template leaves something out of."""
        return {*self.dropped, *self.refused}.union(*self.lost.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.rows.lengths.max())

    def facts(self) -> dict[str, Any]:
        """For programs: counts of rows, and of tokens in one pass over them."""
        return {
            "file": self.kind,
            "rows": len(self.rows),
            "split_rows": len(self.split),
            "cut_rows": len(self.cut),
            "dropped_rows": len(self.dropped) + len(self.refused),
            "lost": {words: len(lines) for words, lines in self.lost.items()},
            "adapted": {words: len(lines) for words, lines in self.adapted.items()},
            "reasoning_rows": self.reasoning,
            "tokens": self.rows.tokens,
            "trained_tokens": self.rows.trained_tokens,
        }

    def summary(self, objective: Encoder) -> str:
        """For people: what is trained on, and what is not, with its lines."""
        all_rows = self.lines
        loss = objective.counted(self.rows.trained_tokens)
        tokens = self.rows.tokens
        parts = [f"The {self.kind} file: {len(self.rows)} rows, {tokens} tokens, {loss}."]
        if self.split:
            parts.append(
                f"Longer than {self.max_length} tokens and split into rows of at most that: "
                f"{len(self.split)} of {all_rows} ({Lines.of(self.split)})."
            )
        if self.apart:
            parts.append(
                "Trained answer by answer, because the chat template writes one differently once "
                f"others follow: {len(self.apart)} of {all_rows} rows ({Lines.of(self.apart)})."
            )
        if self.reasoning:
            trained = "trained on" if self.reasoning_trained else "read but not trained on"
            parts.append(f"Reasoning is in {self.reasoning} of {all_rows} rows, and is {trained}.")
        for words, lines in self.adapted.items():
            parts.append(
                f"So that the chat template takes them, {words}: {len(lines)} of {all_rows} rows "
                f"({Lines.of(lines)})."
            )
        if self.cut:
            parts.append(
                f"Longer than {self.max_length} tokens and cut at their end: {len(self.cut)} of "
                f"{all_rows} rows ({Lines.of(self.cut)})."
            )
        return " ".join([*parts, *self.missing()])

    def missing(self) -> Iterator[str]:
        """For people: what of the file is not trained, or not as it is meant."""
        if self.in_pieces:
            yield in_pieces(self.in_pieces)
        yield from self.left_out.sentences()

    @property
    def left_out(self) -> Incomplete:
        return Incomplete(
            rows=self.lines,
            max_length=self.max_length,
            lost={words: Lines.of(lines) for words, lines in self.lost.items()},
            dropped=Lines.of(self.dropped),
            refused=Lines.of(self.refused),
            why=self.why,
        )


def read_data(
    kind: Kind,
    path: Path,
    file: DataFile,
    *,
    objective: Encoder,
    tokenizer: ChatTokenizer,
    max_length: int,
    stop_if_asked: Callable[[], None],
) -> TokenRows:
    """Reads and tokenizes a whole file.

    Raises:
        Untrainable: a line has a fault, no row is left to train on, or the chat template takes
            more time or memory than it may.
        DoesNotFit: its rows need more memory than this machine has for them.
        OSError: the file's bytes are not those the spec names.

    """
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            # It was the right one when it arrived.
            raise OSError(f"the {kind} file at hand is not the one the job names ({file.id})")
    data = TokenRows(kind, max_length, reasoning_trained=tokenizer.train_on_reasoning)
    room = int(ROOM * available_memory())
    with renderings_bounded(room + MEMORY_LIMIT_BYTES):
        data.in_pieces = tokenizer.written_in_pieces()
        for row in read_rows(path, columns=file.columns):
            stop_if_asked()
            if data.bytes > room:
                raise too_large(data, row.line, room)
            if isinstance(row, Fault):
                raise Untrainable(f"invalid_{kind}_file", f"The {kind} file has a fault: {row}")
            try:
                data.add(row, objective.encode(row, tokenizer))
            except TemplateError as error:
                data.refuse(row.line, str(error))
            except TemplateTooCostly as error:
                raise Untrainable(
                    "chat_template_too_costly",
                    f"At line {row.line} of the {kind} file {error}. Choose a base model with "
                    "another, or give the job one (training.chat_template).",
                ) from error
            except BaseException as error:
                error.add_note(f"at line {row.line}")
                raise
    if not data.rows:
        raise Untrainable("no_trainable_rows", no_rows(data))
    return data


def split_off(data: TokenRows, share: float, seed: int) -> tuple[TokenRows, TokenRows]:
    """(what is trained on, what is validated on): that share of the lines, chosen by the seed.

    Raises:
        Untrainable: there are too few rows for both.

    """
    lines = list(dict.fromkeys(data.rows.store.lines))
    if len(lines) < 2:
        raise Untrainable(
            "nothing_to_validate",
            "The training file has one row, of which training.validation_split leaves nothing. "
            "Give a longer file, or leave it out.",
        )
    count = min(len(lines) - 1, max(1, round(share * len(lines))))
    seeds = list(seeds_in(("validation", seed), len(lines)))
    order = sorted(range(len(lines)), key=seeds.__getitem__)
    chosen = {lines[number] for number in order[:count]}
    trained = Rows(row for row in data.rows if row.line not in chosen)
    valid = Rows(row for row in data.rows if row.line in chosen)
    return replace(data, rows=trained), TokenRows("validation", data.max_length, valid)


def require_most(data: TokenRows, most_lost: float) -> None:
    """Raises Untrainable if more than that share of a file's rows is not trained as it is."""
    incomplete = len(data.incomplete)
    if incomplete > most_lost * data.lines:
        raise Untrainable(
            "rows_lost",
            data.left_out.refusal(incomplete, f"the {data.kind} file", most_lost),
        )


def too_large(data: TokenRows, line: int, room: int) -> DoesNotFit:
    return DoesNotFit(
        f"The {data.kind} file is too large for this worker: its rows before line {line} need "
        f"{gib(data.bytes)} of memory in tokens, and there are {gib(room)} for them "
        f"({ROOM:.0%} of what is free). Split the file, lower training.max_length, or train it on "
        "a worker with more memory."
    )


def no_rows(data: TokenRows) -> str:
    if data.refused and not data.dropped:
        return (
            f"No row of the {data.kind} file fits the base model's chat template; line "
            f"{data.refused[0]}: {data.why}. Change the rows, or choose a base model with another "
            "template."
        )
    return (
        f"No row of the {data.kind} file has anything to train within {data.max_length} tokens. "
        "Raise max_length, or shorten what comes before the answers."
    )
