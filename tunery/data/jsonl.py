"""The lines of a JSONL file, and the files that are only called so."""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

from tunery.data.rows import Fault, Faulty, excerpt
from tunery.data.spellings import is_known

# Long documents have room. A tokenizer takes 8 seconds and 1.5 GiB for as much.
MAX_LINE_BYTES = 8 << 20
BLOCK_BYTES = 1 << 18  # what a processor keeps close


class Lines(NamedTuple):
    """Some whole lines with their ends: all in one, and each."""

    written: bytes
    each: list[bytes]


def json_lines(file: BinaryIO) -> Iterator[tuple[int, Lines | Fault]]:
    """Lines with the number of the first, counted from 1. A line over 8 MiB is a fault; a file that
    is no JSONL at all has one fault, and is read no further.
    """
    line = 1
    begun = False
    try:
        while written := file.read(BLOCK_BYTES):
            written += file.readline(MAX_LINE_BYTES + 1)
            each = BytesIO(written).readlines()
            if not begun:
                for at, raw in enumerate(each, line):
                    if not raw.isspace():
                        begun = True
                        if other := other_shape(raw):
                            yield at, other.at(at)
                            return
                        break
            last = line + len(each) - 1
            if len(each[-1].rstrip(b"\n")) > MAX_LINE_BYTES:
                if not each.pop().endswith(b"\n"):
                    skip_to_line_end(file)
                yield line, Lines(b"".join(each), each)
                yield last, too_long().at(last)
            else:
                yield line, Lines(written, each)
            line = last + 1
    except Faulty as fault:  # of the packed file
        yield line, fault.at(line)


def too_long() -> Faulty:
    found = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
    return Faulty("", "line_too_long", found, "Split the row")


def skip_to_line_end(file: BinaryIO) -> None:
    while (raw := file.readline(MAX_LINE_BYTES)) and not raw.endswith(b"\n"):
        pass


def other_shape(first: bytes) -> Faulty | None:
    """What a file is, if its first line shows that it is not JSONL."""
    text = first.strip()
    _, *others = text.split(b"\r")
    if any(other.lstrip().startswith(b"{") for other in others):
        return Faulty(
            "",
            "carriage_returns",
            "the lines end with a carriage return alone, as on an old Macintosh",
            "Save the file with line feeds (LF)",
        )
    cells = [cell.strip(b"\"' ").decode(errors="replace") for cell in re.split(rb"[,;\t]", text)]
    if not text.startswith(b"{") and is_known(cells):
        return Faulty(
            "",
            "csv_as_jsonl",
            "the file begins like a CSV file's names of columns",
            "Call the file .csv if it is one",
            excerpt(text.decode()),
        )
    return None
