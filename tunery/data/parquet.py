"""The rows of a Parquet file. It is the only module that needs pyarrow."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from tunery.data.container import (
    MOST_RATIO,
    MOST_UNPACKED_BYTES,
    RATIO_COUNTS_FROM_BYTES,
    damaged,
    unpacks_too_far,
)
from tunery.data.lines import Fields
from tunery.data.rows import Fault, Faulty, excerpt
from tunery.data.tables import MAX_RECORD_BYTES, Columns

ROWS_AT_ONCE = 64


def parquet_rows(file: BinaryIO) -> Iterator[tuple[int, Fields | Fault]]:
    """(row number from 1, its fields), a few rows in memory at a time."""
    # The default pool reserves more address space than the check may have.
    pa.set_memory_pool(pa.system_memory_pool())
    packed_bytes = file.seek(0, 2)
    most = min(max(RATIO_COUNTS_FROM_BYTES, MOST_RATIO * packed_bytes), MOST_UNPACKED_BYTES)
    unpacked_bytes = line = 0
    try:
        table = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        columns = Columns(table.schema_arrow.names)
        for batch in table.iter_batches(ROWS_AT_ONCE, use_threads=False):
            unpacked_bytes += batch.nbytes
            if unpacked_bytes > most:
                raise unpacks_too_far()
            for index, cells in enumerate(zip(*batch.to_pydict().values(), strict=True)):
                line += 1
                if batch.nbytes > MAX_RECORD_BYTES < batch.slice(index, 1).nbytes:
                    yield line, too_long().at(line)
                else:
                    yield line, columns.row(line, cells)
    except Faulty as fault:
        yield line + 1, fault.at(line + 1)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        yield line + 1, damaged(excerpt(str(error))).at(line + 1)


def too_long() -> Faulty:
    return Faulty("", "line_too_long", "the row is longer than 1 MiB", "Split the row")
