from __future__ import annotations

import datetime
import io
import random
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from boneage.datasets.tables import excel as workbook
from boneage.datasets.tables import parquet
from boneage.datasets.tables import reader as sheet
from boneage.datasets.tables.reader import read_sheet
from boneage.errors import InputError

PLAIN = {"id": ["007", "8"], "age": ["10.5", "3"]}
NAMESPACE = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
START, END = b"<worksheet " + NAMESPACE + b"><sheetData>", b"</sheetData></worksheet>"


def excel(path: Path, *rows: Sequence[Any], **further: Sequence[Sequence[Any]]) -> Path:
    book = openpyxl.Workbook()
    for name, content in {"Ages": rows, **further}.items():
        page = book.create_sheet(name)
        for row in content:
            page.append(row)
    book.remove(book.worksheets[0])
    book.save(path)
    return path


def repacked(path: Path, **parts: bytes) -> Path:
    """A small workbook, some of whose parts are others (`sheet1`, `styles`)."""
    names = {"sheet1": "xl/worksheets/sheet1.xml", "styles": "xl/styles.xml"}
    with zipfile.ZipFile(excel(path, ["id", "age"], [1, 2])) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {names[name]: part for name, part in parts.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in content.items():
            archive.writestr(name, part)
    return path


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def cells_of(path: Path, **options: Any) -> dict[str, list[str]]:
    cells = read_sheet(path, **options)
    assert cells.findings == ()
    return {str(name): cells.table[name].tolist() for name in cells.table}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_sheet(path, **options)
    return str(caught.value).removeprefix(str(path))


def test_the_same_table_in_every_format_is_the_same_text(tmp_path: Path) -> None:
    rows = [["id", "age"], ["007", 10.5], ["8", 3.0]]
    lines = "id,age\n007,10.5\n8,3\n"
    frame = pd.DataFrame({"id": ["007", "8"], "age": [10.5, 3.0]})
    frame.to_parquet(tmp_path / "a.csv")  # told by content, not by its suffix
    for path in (
        written(tmp_path / "1", lines),
        written(tmp_path / "2", lines.replace(",", "\t")),
        written(tmp_path / "3", lines.replace(",", ";")),
        written(tmp_path / "4", lines, "utf-8-sig"),
        written(tmp_path / "5", lines.replace(",", "\t"), "utf-16"),
        written(tmp_path / "6", "sep=;\n" + lines.replace(",", ";")),
        written(tmp_path / "7", lines.replace("\n", "\r\n")),
        excel(tmp_path / "a.txt.xlsx", *rows),
        tmp_path / "a.csv",
    ):
        cells = read_sheet(path)
        assert {name: cells.table[name].tolist() for name in cells.table} == PLAIN, path
        assert cells.rows == (2, 3)


def test_excel_cells_are_as_a_person_would_write_them(tmp_path: Path) -> None:
    values = {
        12.0: "12",
        12.5: "12.5",
        0.1 + 0.2: "0.3",
        1e-7: "0.0000001",
        123456789012345: "123456789012345",
        1.5e14: "150000000000000",
        "007": "007",
        True: "True",
        " blank ": "blank",
        datetime.date(2024, 5, 31): "2024-05-31",
        datetime.datetime(2024, 5, 31, 10, 6): "2024-05-31 10:06:00",
        datetime.time(10, 6): "10:06:00",
    }
    path = excel(tmp_path / "a.xlsx", ["key", "value"], *([i, v] for i, v in enumerate(values)))
    assert cells_of(path)["value"] == list(values.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567890123456.0, "1234567890123456"),
        (1234567890123457.0, "1234567890123457"),
        (-12.0, "-12"),
        (0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (2.0**53, "9007199254740990"),  # the fifteen digits that are sure
        (1e20, "100000000000000000000"),
    ],
)
def test_floats_are_written_without_a_fraction_or_an_exponent(value: float, text: str) -> None:
    assert workbook.cell_text(value) == text


def test_parquet_values_are_as_a_person_would_write_them(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "float": [12.0, np.nan],
            "single": np.array([10.6, 3], np.float32),
            "when": pd.to_datetime(["2024-05-31", "2024-06-01"]),
            "class": pd.Categorical(["f", "m"]),
            "flag": [True, None],
            "text": ['a "quoted", text\r\nof two lines', None],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert cells_of(tmp_path / "a.parquet") == {
        "float": ["12", ""],
        "single": ["10.6", "3"],
        "when": ["2024-05-31", "2024-06-01"],
        "class": ["f", "m"],
        "flag": ["True", ""],
        "text": ['a "quoted", text\r\nof two lines', ""],
    }


def test_rows_keep_the_numbers_that_the_spreadsheet_shows(tmp_path: Path) -> None:
    rows = [
        ["", "Readings of the year"],
        [],
        ["", "id", "", "age"],
        ["", 7, "", 1],
        [],
        ["", 8, "", 2],
    ]
    path = excel(tmp_path / "a.xlsx", *rows)
    cells = read_sheet(path)
    assert cells.rows == (4, 6)
    assert cells.table.to_dict("list") == {"id": ["7", "8"], "age": ["1", "2"]}
    text = 'Readings, of the year\n\n"id";age\n7;1\n\n8;2\n'
    cells = read_sheet(written(tmp_path / "a.csv", text))
    assert cells.rows == (4, 6)
    assert cells.table.to_dict("list") == {"id": ["7", "8"], "age": ["1", "2"]}


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('id,age,note\n1,2,"a;b;c;d;e"\n', ["id", "age", "note"]),
        ('"Alter, Jahre";id;sex\n10,5;1;f\n', ["Alter, Jahre", "id", "sex"]),
        ('"Bone age\n(months)";id\n10,5;1\n', ["Bone age\n(months)", "id"]),
        ("id\n1\n2\n", ["id"]),
    ],
)
def test_the_separator_is_the_one_that_the_records_agree_on(
    tmp_path: Path, text: str, columns: list[str]
) -> None:
    assert list(cells_of(written(tmp_path / "a.csv", text))) == columns


def test_excels_plain_csv_is_refused_with_how_to_save_it(tmp_path: Path) -> None:
    said = refusal(written(tmp_path / "a.csv", "id;größe\n1;2\n", "cp1252"))
    assert "byte 5 (0xf6) is not UTF-8 text" in said
    assert "save it as 'CSV UTF-8 (comma delimited)', or run iconv -f WINDOWS-1252" in said


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "it is an old Excel file (.xls)"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "it is a workbook with a password",
        ),
        (b"%PDF-1.7", "it is a PDF"),
        (b"\x1f\x8b\x08", "it is compressed by gzip"),
        (b"\n<html><table>", "it is an HTML page"),  # what many a hospital system calls .xls
        (b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
        (b"", "it is empty"),
        (b"PK\x03\x04 and nothing more", "its archive is broken"),
        (b"PAR1PAR1", "it can't be read as Parquet"),
        (b"\xff\xfea", "it starts as UTF-16 text"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert what in refusal(path)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("mimetype", "content.xml"), "it is an OpenDocument file (.ods)"),
        (("[Content_Types].xml", "xl/workbook.bin"), "it is an Excel binary workbook (.xlsb)"),
        (("[Content_Types].xml", "word/document.xml"), "it is an archive without a workbook"),
        (("films/1.png",), "it is an archive without a workbook"),
        (("Index/Document.iwa",), "it is an Apple Numbers file"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, names: Sequence[str], what: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        for name in names:
            archive.writestr(name, b"<a/>")
    said = refusal(tmp_path / "a.xlsx")
    assert what in said
    assert "save it as .xlsx or as 'CSV UTF-8'" in said


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "none.xlsx")
    assert "it is a folder" in refusal(tmp_path)


def test_one_worksheet_with_a_table_is_taken(tmp_path: Path) -> None:
    rows = [["id", "age"], [7, 1]]
    path = excel(tmp_path / "a.xlsx", *rows, Notes=[["Made in May"], ["by us"]], Empty=[])
    assert cells_of(path) == {"id": ["7"], "age": ["1"]}
    assert read_sheet(path).where == f"{path}, sheet 'Ages'"


def test_of_several_worksheets_one_is_named(tmp_path: Path) -> None:
    rows = [["id", "age"], [7, 1]]
    path = excel(tmp_path / "a.xlsx", *rows, Old=[["id", "age"], [8, 2]])
    said = refusal(path)
    assert "it has 2 worksheets with data; expected one, or to be told which" in said
    assert "Name one with --sheet: 'Ages', 'Old'." in said
    assert cells_of(path, sheet="Old") == {"id": ["8"], "age": ["2"]}
    assert "there is no worksheet 'old'; expected one of 'Ages', 'Old'" in refusal(
        path, sheet="old"
    )
    text = written(tmp_path / "a.csv", "id,age\n1,2\n")
    assert "it is no workbook, and sheet 'Old' is asked for" in refusal(text, sheet="Old")


def test_a_hidden_worksheet_is_not_in_the_way(tmp_path: Path) -> None:
    rows = [["id", "age"], [7, 1]]
    path = excel(tmp_path / "a.xlsx", *rows, Codes=[["code", "means"], ["f", "girl"]])
    book = openpyxl.load_workbook(path)
    book["Codes"].sheet_state = "hidden"
    book.save(path)
    assert cells_of(path)["id"] == ["7"]


def test_an_empty_workbook(tmp_path: Path) -> None:
    assert "its worksheets are empty ('Ages')" in refusal(excel(tmp_path / "a.xlsx"))


def test_formulas_without_results_and_errors_are_named_by_their_cells(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["id", "age"], [7, "=1+1"], [8, "#N/A"], [9, "=B2"])
    found = [str(finding.fault) for finding in read_sheet(path).findings]
    assert "2 cells (B2, B4) hold a formula whose result was never stored" in found[0]
    assert "Open the file in Excel or LibreOffice and save it once." in found[0]
    assert "cell B3 holds the error #N/A" in found[1]


def test_results_of_formulas_are_taken(tmp_path: Path) -> None:
    rows = (
        b"<row r='1'><c r='A1' t='str'><v>id</v></c><c r='B1' t='str'><v>age</v></c></row>"
        b"<row r='2'><c r='A2'><v>7</v></c><c r='B2'><f>6*2</f><v>12</v></c></row>"
        b"<row r='3'><c r='A3'><v>8</v></c><c r='B3' t='str'><f>\"\"</f><v></v></c></row>"
    )
    path = repacked(tmp_path / "a.xlsx", sheet1=START + rows + END)
    assert cells_of(path) == {"id": ["7", "8"], "age": ["12", ""]}


def test_merged_cells_below_the_header_are_refused(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["Title", ""], ["pid", "age"], ["p1", 1], [None, 2])
    book = openpyxl.load_workbook(path)
    book["Ages"].merge_cells("A1:B1")
    book.save(path)
    assert len(read_sheet(path).table) == 2
    book["Ages"].merge_cells("A3:A4")
    book.save(path)
    (finding,) = read_sheet(path).findings
    assert "the cells A3:A4 are merged, which leaves all but the first of them empty" in str(
        finding.fault
    )


HOSTILE = {
    "a row far away": (
        START + b"<row r='10000000000'><c><v>1</v></c></row>" + END,
        "has '10000000000' where the row after 0 belongs",
    ),
    "rows out of order": (
        START + b"<row r='2'><c r='A2'/></row><row r='1'><c r='A1'/></row>" + END,
        "has '1' where the row after 2 belongs",
    ),
    "cells out of order": (
        START + b"<row r='1'><c r='B1'><v>1</v></c><c r='A1'><v>1</v></c></row>" + END,
        "has cell A1 out of order",
    ),
    "a cell of another row": (START + b"<row r='1'><c r='A2'/></row>" + END, "has 'A2' where"),
    "entities": (b'<!DOCTYPE x [<!ENTITY a "aa">]>' + START + END, "declares XML entities"),
    "another encoding": ("<worksheet/>".encode("utf-16"), "is not UTF-8"),
    "wide rows": (
        START + b"".join(b"<row><c r='XFD%d'/></row>" % i for i in range(1, 20)) + END,
        "cells or more; expected at most",
    ),
    "many cells": (START + (b"<row>" + b"<c/>" * 100 + b"</row>") * 2_001 + END, "200,001 cells"),
    "many rows": (START + b"<row/>" * 250_001 + END, "250,001 rows"),
    "many links": (START + b"<hyperlink/>" * 30_001 + END, "elements beside cells and texts"),
    "one long text": (START + b"<c t='str'><v>" + b"x" * 300_000 + b"</v></c>" + END, "a text of"),
    "a bomb": (START + b" " * (130 << 20) + END, "bytes when unpacked; expected at most"),
    "no XML": (b"<worksheet", "it can't be read as a workbook"),
    "never closed": (START + b"<c " * 1_000_000, "cells or more"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_workbook_made_to_do_harm_is_refused_at_once(tmp_path: Path, name: str) -> None:
    part, what = HOSTILE[name]
    path = repacked(tmp_path / "a.xlsx", sheet1=part)
    begin = time.process_time()
    assert what in refusal(path)
    assert time.process_time() - begin < 5


def test_a_table_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", "id,age\n" + "1,2\n" * 50)
    monkeypatch.setattr(sheet, "MOST_ROWS", 50)
    assert "it has about 51 rows and 102 cells; expected at most 50 rows" in refusal(path)
    monkeypatch.setattr(sheet, "MOST_BYTES", 100)
    assert "it has 207 bytes; expected a table of at most 100" in refusal(path)
    frame = tmp_path / "a.parquet"
    pd.DataFrame({"id": ["x" * 100] * 50}).to_parquet(frame)
    monkeypatch.setattr(sheet, "MOST_BYTES", 100_000)
    monkeypatch.setattr(parquet, "MOST_UNPACKED_BYTES", 4_999)
    assert "its texts have 5,000 bytes" in refusal(frame)
    monkeypatch.setattr(parquet, "MOST_CELLS", 49)
    assert "it has 50 rows of 1 columns" in refusal(frame)
    monkeypatch.setattr(workbook, "MOST_BYTES", 100)
    assert "bytes; expected a workbook of at most 100" in refusal(excel(tmp_path / "a.xlsx", [1]))


def lying(content: bytes, truth: int, lie: int) -> bytes:
    """The file with another number for one in its footer, of as many bytes."""
    size = int.from_bytes(content[-8:-4], "little")
    pages, footer = content[: -8 - size], content[-8 - size :]
    assert len(varint(truth)) == len(varint(lie))
    assert varint(truth) in footer
    return pages + footer.replace(varint(truth), varint(lie))


def varint(number: int) -> bytes:
    """A positive number as a footer has it."""
    groups, rest = [], 2 * number
    while rest > 127:
        groups.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*groups, rest])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_parquet_whose_footer_lies_about_its_size_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, dictionary: bool
) -> None:
    path, names = tmp_path / "a.parquet", ["x" * 30_000_000, "y" * 40_000_000]
    table = pa.table({"id": names})
    options = {"compression": "zstd", "use_dictionary": dictionary, "data_page_version": version}
    pq.write_table(table, path, **options)
    honest = pq.ParquetFile(path).metadata.row_group(0)
    sizes = {honest.total_byte_size, honest.column(0).total_uncompressed_size}
    content = path.read_bytes()
    for size in sizes:
        content = lying(content, size, 3_000_000)
    path.write_bytes(content)
    assert len(content) < 30_000
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size == 3_000_000
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    assert "bytes unpacked" in refusal(path)


def test_parquet_with_texts_that_repeat_each_other_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": [f"x{i}" for i in range(9)]})
    encoding = {"id": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, path, use_dictionary=False, column_encoding=encoding)
    assert "column 'id' is encoded as DELTA_BYTE_ARRAY" in refusal(path)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parquet_of_every_codec_and_many_pages_is_read(
    tmp_path: Path, compression: str, version: str
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": [f"{i}" for i in range(500)], "age": [0.5, None] * 250})
    sizes = {"row_group_size": 200, "data_page_size": 128, "write_page_index": True}
    pq.write_table(
        table,
        path,
        compression=compression,
        data_page_version=version,
        **sizes,
        write_page_checksum=True,
    )
    assert cells_of(path) == {"id": [f"{i}" for i in range(500)], "age": ["0.5", ""] * 250}


def test_parquet_that_is_nested_or_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": [1], "boxes": [[1, 2]], "raw": [b"1"]}).to_parquet(path)
    assert "the columns 'boxes', 'raw' hold lists, records or bytes" in refusal(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "Was it cut off? Write it again, or as CSV." in refusal(path)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Run pip install pyarrow" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["xlsx", "xml", "parquet", "csv"])
def test_spoilt_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    lot = random.Random(kind)
    frame = pd.DataFrame({"id": range(20), "age": np.arange(20) / 3, "sex": ["f", "m"] * 10})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False, encoding="utf-16")
    else:
        excel(path, list(frame.columns), *frame.astype(object).to_numpy().tolist())
    whole = path.read_bytes()
    for _ in range(80):
        path.write_bytes(_spoilt_part(whole, lot) if kind == "xml" else _spoilt(whole, lot))
        with suppress(InputError):
            read_sheet(path)


def _spoilt(content: bytes, lot: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(lot.choice([1, 2, 20])):
        spoilt[lot.randrange(len(spoilt))] = lot.randrange(256)
    return bytes(spoilt[: lot.randrange(len(spoilt))] if lot.random() < 0.2 else spoilt)


def _spoilt_part(content: bytes, lot: random.Random) -> bytes:
    """A whole archive around XML that has letters changed and stretches moved."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    part = parts[lot.choice(list(parts))]
    for _ in range(lot.choice([1, 2, 5])):
        at, other = lot.randrange(len(part)), lot.randrange(len(part))
        if lot.random() < 0.5:
            part[at] = lot.choice(b"<>/\"'=09AZaz&;- ")
        else:
            part[at : at + lot.randrange(8)] = part[other : other + lot.randrange(20)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, bytes(text))
    return buffer.getvalue()


def test_a_file_that_is_not_there_may_be_any_table(tmp_path: Path) -> None:
    said = refusal(tmp_path / "ages.xlsx")
    assert "there is no such file; expected a table (CSV, Excel or Parquet)" in said
