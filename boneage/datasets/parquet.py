"""Write a Parquet file, and decode one in a process of its own.

A damaged file can end the process that decodes it: a C++ error in pyarrow is not always a Python
exception. The process imports no pandas, so that it starts in a fifth of a second.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.datasets.cell_text import cell_text
from boneage.errors import Fault, InputError
from boneage.runtime.extras import install_command
from boneage.runtime.files import replacing

MAX_SECONDS = 60
"""Time for one file; 5,000,000 cells take 10 s."""
MAX_MEMORY_BYTES = 8 << 30
"""Address space of the process; a file of 5,000,000 cells needs 2 GiB."""

_FEW = 5
_ROWS_AT_ONCE = 10_000
# The child gets the parent's path, to find this module as the parent did.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from boneage.datasets.parquet import main; main(*map(int, sys.argv[2:]))"
)
_WRITE_AGAIN = "Write it again, or write it as CSV."


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file as text, or only its sizes if it is too large.

    Attributes:
        rows: Number of rows.
        cells: Number of cells.
        unpacked: Bytes that the file announces for its columns.
        names: The names of the columns.
        columns: The cells of each column.
        nested: Columns of lists, records or bytes, which are not read.
    """

    rows: int
    cells: int
    unpacked: int
    names: list[str]
    columns: list[list[str]]
    nested: list[str]


def decode_parquet(content: bytes, where: str, *, most: tuple[int, int, int]) -> ParquetTable:
    """Return a Parquet file as text.

    Args:
        content: The bytes of the file.
        where: The file, as messages name it.
        most: Most rows, cells and unpacked bytes that are decoded.

    Raises:
        InputError: It can't be read.
    """
    if importlib.util.find_spec("pyarrow") is None:
        what = "it is a Parquet file, and pyarrow is not installed"
        fix = f"Run {install_command('pyarrow')}, or save the table as CSV."
        raise InputError(Fault(where, what, fix))
    command = [sys.executable, "-c", _START, json.dumps(sys.path), *map(str, most)]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        what = f"it can't be read as Parquet within {MAX_SECONDS} s"
        raise InputError(Fault(where, what, _WRITE_AGAIN)) from None
    if done.returncode:  # negative: a signal, such as 6 (abort)
        what = f"it can't be read as Parquet (the decoder ended with status {done.returncode})"
        raise InputError(Fault(where, what, _WRITE_AGAIN))
    answer = json.loads(done.stdout)
    if "what" in answer:
        raise InputError(Fault(where, answer["what"], answer["fix"]))
    columns = [
        ["" if i is None else texts[i] for i in indices] for texts, indices in answer.pop("columns")
    ]
    return ParquetTable(columns=columns, **answer)


def main(*most: int) -> None:
    """Decode standard input, and write the answer as JSON to standard output."""
    _limit_resources()
    try:
        answer = _decode(sys.stdin.buffer.read(), most)
    except Exception as error:  # noqa: BLE001 (pyarrow raises anything on a damaged file)
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        answer = {"what": f"it can't be read as Parquet ({reason})", "fix": _WRITE_AGAIN}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _limit_resources() -> None:
    with suppress(ImportError, OSError, ValueError):  # not on Windows; stricter limits remain
        import resource

        for kind, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, MAX_SECONDS),  # also ends it if the parent is killed
            (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        ):
            _, hard = resource.getrlimit(kind)
            known = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (known, hard))


def _decode(content: bytes, most: Sequence[int]) -> dict[str, Any]:
    import pyarrow.parquet as pq
    import pyarrow.types as kinds

    file = pq.ParquetFile(io.BytesIO(content))
    metadata, schema = file.metadata, file.schema_arrow
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    sizes = {
        "rows": metadata.num_rows,
        "cells": metadata.num_rows * metadata.num_columns,
        "unpacked": unpacked,
    }
    if any(size > limit for size, limit in zip(sizes.values(), most, strict=True)):
        return {**sizes, "names": [], "columns": [], "nested": []}
    nested = [f.name for f in schema if kinds.is_nested(f.type) or kinds.is_binary(f.type)]
    flat = [name for name in schema.names if name not in nested]
    if not flat:
        what = f"the columns {', '.join(map(repr, nested[:_FEW]))} hold lists, records or bytes"
        return {"what": what, "fix": "Remove those columns, or write them as text."}
    # As dictionaries: a long text that stands in every row is kept once.
    texts = [column.name for column in schema if kinds.is_string(column.type)]
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    table = file.read(flat if nested else None, use_threads=False)
    columns = [_texts(column.combine_chunks()) for column in table.columns]
    return {**sizes, "names": table.column_names, "columns": columns, "nested": nested}


def _texts(column: Any) -> tuple[list[str], list[int | None]]:
    """Return the different cells of a column, and for each row which of them it has."""
    import pyarrow.types as kinds

    encoded = column if kinds.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if kinds.is_float16(column.type) or kinds.is_float32(column.type):
        # 10.6 is 10.600000381… in 64 bits; the shortest number with the same 32 bits is meant.
        values = [float(str(value)) for value in encoded.dictionary.to_numpy(zero_copy_only=False)]
    return [cell_text(value) for value in values], encoded.indices.to_pylist()


def write_parquet(
    path: Path, columns: Sequence[str], numbers: Container[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a Parquet file in one step, some thousand rows at a time.

    Args:
        path: The file.
        columns: Names of the columns.
        numbers: Those that hold numbers; the others hold text.
        rows: The values of each row, in the order of the columns; None where there is none.

    Raises:
        InputError: The file can't be written.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {name: pa.float64() if name in numbers else pa.string() for name in columns}
    schema, remaining = pa.schema(kinds.items()), iter(rows)
    with replacing(path) as part, ParquetWriter(part, schema) as writer:
        while batch := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
            arrays = [
                pa.array(cells, kind)
                for cells, kind in zip(zip(*batch, strict=True), kinds.values(), strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
