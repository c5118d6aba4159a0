"""Parquet files as plain text cells."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from boneage.datasets.delimited import Cells, read_cells
from boneage.datasets.workbook import cell_text
from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 250_000
"""Most rows read."""
MOST_CELLS = 2_000_000
"""Most cells read."""
MOST_UNPACKED_BYTES = 64 << 20
"""Most bytes that its columns may say they have when unpacked, and its texts may have."""


def read_parquet(content: bytes, where: str, key: str) -> Cells:
    """Reads a Parquet file whose columns hold plain values.

    Args:
        content: The file's bytes.
        where: The file, as messages name it.
        key: Column that names a row in messages.

    Raises:
        InputError: pyarrow is not installed, or the file is broken, too large or nested.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            Fault(
                where,
                "it is a Parquet file, and pyarrow is not installed",
                "the extra that reads it",
                "Run pip install 'boneage[parquet]', or save the table as CSV.",
            )
        ) from None
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        texts = _check(file, where)
        # As dictionaries: a long text that stands in every row is kept once.
        file = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
        table = file.read(use_threads=False)
        _check_texts(table, where)
        columns = [_texts(table.column(i)) for i in range(table.num_columns)]
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        what = f"it can't be read as Parquet ({reason})"
        fix = "Was it cut off? Write it again, or as CSV."
        raise InputError(Fault(where, what, "a whole Parquet file", fix)) from None
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(table.column_names)
    writer.writerows(zip(*columns, strict=True))
    return read_cells(buffer.getvalue().encode(), where, key=key)


def _check(file: Any, where: str) -> list[str]:
    """Refuses what is too large or nested; returns the columns of texts."""
    import pyarrow.types as kinds

    meta = file.metadata
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    cells = meta.num_rows * meta.num_columns
    if meta.num_rows > MOST_ROWS or cells > MOST_CELLS or unpacked > MOST_UNPACKED_BYTES:
        what = f"it has {meta.num_rows:,} rows of {meta.num_columns:,} columns"
        raise _too_large(where, f"{what}, {unpacked:,} bytes unpacked")
    nested = [
        field.name
        for field in file.schema_arrow
        if kinds.is_nested(field.type) or kinds.is_binary(field.type)
    ]
    if nested:
        raise InputError(
            Fault(
                where,
                f"the columns {', '.join(map(repr, nested[:5]))} hold lists, records or bytes",
                "one plain value in each cell",
                "Leave those columns out, or write them as text.",
            )
        )

    return [
        field.name
        for field in file.schema_arrow
        if kinds.is_string(field.type) or kinds.is_large_string(field.type)
    ]


def _check_texts(table: pa.Table, where: str) -> None:
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    total = 0
    for column in table.columns:
        if kinds.is_dictionary(column.type) and kinds.is_string(column.type.value_type):
            for chunk in column.chunks:
                lengths = pc.binary_length(chunk.dictionary).cast("int64")
                total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > MOST_UNPACKED_BYTES:
        raise _too_large(where, f"its texts have {total:,} bytes")


def _too_large(where: str, what: str) -> InputError:
    most = f"at most {MOST_ROWS:,} rows, {MOST_CELLS:,} cells, {MOST_UNPACKED_BYTES:,} bytes"
    return InputError(Fault(where, what, most, "Leave out the columns that are not needed."))


def _texts(column: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa

    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        # 10.6 is 10.600000381… in 64 bits; the shortest number of 32 bits that is the same is meant
        return [cell_text(float(str(value))) for value in column.to_numpy()]
    return [cell_text(value) for value in column.to_pylist()]
