"""Parquet files as plain text cells.

What a file unpacks to is bounded by its page headers, not by its footer: pyarrow allocates what
each page says of itself, whatever the footer says of the whole.
Format: https://parquet.apache.org/docs/file-format/, in Thrift's compact protocol,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from boneage.datasets.tables.cells import Cells, read_cells
from boneage.datasets.tables.excel import cell_text
from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 250_000
"""Most rows read."""
MOST_CELLS = 2_000_000
"""Most cells read."""
MOST_UNPACKED_BYTES = 64 << 20
"""Most bytes that its columns may say they have when unpacked, and its texts may have."""

# Numbers of the fields of a page header, and of the encoding in each kind's own header.
_UNPACKED, _PACKED, _DATA, _DATA_2 = 2, 3, 5, 8
_ENCODING = {_DATA: 2, _DATA_2: 4}
_DELTA_BYTE_ARRAY = 7
_MOST_PAGES = 100_000
_MOST_DEPTH = 8  # of a page header's records; four are real


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
                "Run pip install pyarrow, or save the table as CSV.",
                expected="the extra that reads it",
            )
        ) from None
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        texts = _check(file, where)
        _check_pages(file.metadata, content, where)
        # As dictionaries: a long text that stands in every row is kept once.
        file = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
        table = file.read(use_threads=False)
        _check_texts(table, where)
        columns = [_texts(table.column(i)) for i in range(table.num_columns)]
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        what = f"it can't be read as Parquet ({reason})"
        fix = "Was it cut off? Write it again, or as CSV."
        raise InputError(Fault(where, what, fix, expected="a whole Parquet file")) from None
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
    rows = max(meta.num_rows, sum(meta.row_group(i).num_rows for i in range(meta.num_row_groups)))
    cells = rows * meta.num_columns
    if rows > MOST_ROWS or cells > MOST_CELLS or unpacked > MOST_UNPACKED_BYTES:
        what = f"it has {rows:,} rows of {meta.num_columns:,} columns"
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
                "Leave those columns out, or write them as text.",
                expected="one plain value in each cell",
            )
        )

    return [
        field.name
        for field in file.schema_arrow
        if kinds.is_string(field.type) or kinds.is_large_string(field.type)
    ]


def _check_pages(meta: Any, content: bytes, where: str) -> None:
    """Refuses pages that would unpack to too much, or to more than they say.

    Raises:
        InputError: They do.
        ValueError: A page header is broken.
    """
    unpacked = pages = 0
    for group in range(meta.num_row_groups):
        for column in range(meta.num_columns):
            chunk = meta.row_group(group).column(column)
            place = chunk.data_page_offset
            if chunk.has_dictionary_page:
                place = min(place, chunk.dictionary_page_offset)
            end = place + chunk.total_compressed_size
            if not 0 <= place <= end <= len(content):
                raise ValueError("a column is outside the file")
            while place < end:
                header, place = _record(content, place)
                size, packed = header.get(_UNPACKED), header.get(_PACKED)
                if (
                    not isinstance(size, int)
                    or not isinstance(packed, int)
                    or min(size, packed) < 0
                ):
                    raise ValueError("a page has no size")
                place += packed
                unpacked += size
                pages += 1
                if unpacked > MOST_UNPACKED_BYTES or pages > _MOST_PAGES:
                    what = f"its first {pages:,} pages have {unpacked:,} bytes unpacked"
                    raise _too_large(where, what)
                for kind, field in _ENCODING.items():
                    inner = header.get(kind)
                    if isinstance(inner, dict) and inner.get(field) == _DELTA_BYTE_ARRAY:
                        raise _boundless(where, chunk.path_in_schema)


def _boundless(where: str, column: str) -> InputError:
    """Each text repeats the beginning of the last: a short page may hold any amount of text."""
    what = f"column {column!r} is encoded as DELTA_BYTE_ARRAY, whose size can't be told beforehand"
    fix = "Write it again with another encoding, or as CSV."
    return InputError(Fault(where, what, fix, expected="plain or dictionary encoding"))


def _record(content: bytes, place: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A record of Thrift's compact protocol, by field number, and the place after it."""
    if depth > _MOST_DEPTH:
        raise ValueError("a page header is broken")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = _byte(content, place)
        place += 1
        if head == 0:
            return fields, place
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(content, place)
        fields[number], place = _value(content, place, head & 15, depth)


def _value(content: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:  # true, false
            return kind == 1, place
        case 3:  # a byte
            return _byte(content, place), place + 1
        case 4 | 5 | 6:
            return _integer(content, place)
        case 7:  # a double
            return None, place + 8
        case 8:  # bytes
            length, place = _varint(content, place)
            return None, place + length
        case 12:
            return _record(content, place, depth + 1)
    raise ValueError("a page header is broken")  # no page header has lists, sets and maps


def _integer(content: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(content, place)
    return (value >> 1) ^ -(value & 1), place


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(content, place)
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a page header is broken")


def _byte(content: bytes, place: int) -> int:
    if not 0 <= place < len(content):
        raise ValueError("a page header is cut off")
    return content[place]


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
    return InputError(
        Fault(where, what, "Leave out the columns that are not needed.", expected=most)
    )


def _texts(column: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa

    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        # 10.6 is 10.600000381… in 64 bits; the shortest number of 32 bits that is the same is meant
        return [cell_text(float(str(value))) for value in column.to_numpy()]
    return [cell_text(value) for value in column.to_pylist()]
