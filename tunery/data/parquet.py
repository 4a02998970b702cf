"""The rows of a Parquet file. It is the only module that needs pyarrow."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from tunery.data.container import (
    MOST_RATIO,
    MOST_UNPACKED_BYTES,
    RATIO_COUNTS_FROM_BYTES,
    damaged,
    unpacks_too_far,
)
from tunery.data.lines import Fields, in_other_encodings, not_utf8
from tunery.data.rows import Fault, Faulty, excerpt
from tunery.data.tables import MAX_RECORD_BYTES, Columns, too_long

ARROW_FILE = b"ARROW1"
# The columns' names, and the rows.
Opened = tuple[list[str], Iterable[pa.RecordBatch]]
# In Arrow and in Python: more break the check's limit on memory.
ROWS_AT_ONCE = 16


def parquet_rows(
    file: BinaryIO, ours: dict[str, str] | None = None
) -> Iterator[tuple[int, Fields | Fault]]:
    """(row number from 1, its fields), a few rows in memory at a time."""

    def opened() -> Opened:
        table = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        return table.schema_arrow.names, table.iter_batches(ROWS_AT_ONCE, use_threads=False)

    return rows_of(file, ours, opened)


def arrow_rows(
    file: BinaryIO, ours: dict[str, str] | None = None
) -> Iterator[tuple[int, Fields | Fault]]:
    """Of an Arrow file or stream: (row number from 1, its fields)."""
    in_file = file.read(len(ARROW_FILE)) == ARROW_FILE

    def opened() -> Opened:
        if in_file:
            whole = pa.ipc.open_file(file)
            numbers = range(whole.num_record_batches)
            return whole.schema.names, (whole.get_batch(number) for number in numbers)
        stream = pa.ipc.open_stream(file)
        return stream.schema.names, stream

    return rows_of(file, ours, opened)


def rows_of(
    file: BinaryIO, ours: dict[str, str] | None, opened: Callable[[], Opened]
) -> Iterator[tuple[int, Fields | Fault]]:
    # The default pool reserves more address space than the check may have.
    pa.set_memory_pool(pa.system_memory_pool())
    packed_bytes = file.seek(0, 2)
    file.seek(0)
    most = min(max(RATIO_COUNTS_FROM_BYTES, MOST_RATIO * packed_bytes), MOST_UNPACKED_BYTES)
    unpacked_bytes = line = 0
    try:
        names, batches = opened()
        columns = Columns(names, ours)
        for large in batches:
            unpacked_bytes += large.nbytes
            if unpacked_bytes > most:
                raise unpacks_too_far()
            for at in range(0, large.num_rows, ROWS_AT_ONCE):
                for cells in cells_within_limits(large.slice(at, ROWS_AT_ONCE)):
                    line += 1
                    if isinstance(cells, Faulty):
                        yield line, cells.at(line)
                    else:
                        yield line, columns.row(line, cells)
    except Faulty as fault:
        yield line + 1, fault.at(line + 1)
    except MemoryError:  # Arrow's own, too
        yield line + 1, too_much_at_once().at(line + 1)
    except (pa.ArrowException, OSError) as error:
        yield line + 1, damaged(excerpt(str(error))).at(line + 1)


def cells_within_limits(batch: pa.RecordBatch) -> Iterable[tuple[Any, ...] | Faulty]:
    """Large rows come into Python one at a time, too large ones not at all."""
    if batch.nbytes <= MAX_RECORD_BYTES:
        return cells_of(batch)
    if batch.num_rows == 1:
        return [too_long()]
    return chain.from_iterable(
        cells_within_limits(batch.slice(row, 1)) for row in range(batch.num_rows)
    )


def cells_of(batch: pa.RecordBatch) -> Iterable[tuple[Any, ...] | Faulty]:
    """Row by row only where a value has no counterpart in Python, or is no UTF-8."""
    try:
        return list(zip(*batch.to_pydict().values(), strict=True))
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            return [unreadable(error)]
        return chain.from_iterable(cells_of(batch.slice(row, 1)) for row in range(batch.num_rows))


def unreadable(error: Exception) -> Faulty:
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(in_other_encodings(error.object, error))
    return Faulty(
        "",
        "unreadable_value",
        f"a value cannot be read ({excerpt(str(error))})",
        "Save its column as text",
    )


def too_much_at_once() -> Faulty:
    return Faulty(
        "",
        "too_much_at_once",
        "the file's pages are too large to be read in the memory that there is",
        "Write it with a smaller row_group_size, such as 100 rows",
    )
