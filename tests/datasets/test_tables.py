from __future__ import annotations

import datetime
import os
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

from boneage.datasets import cells as table_cells
from boneage.datasets.cells import missing_column
from boneage.datasets.tables import read_sheet
from boneage.errors import InputError

NAMESPACE = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
START, END = b"<worksheet " + NAMESPACE + b"><sheetData>", b"</sheetData></worksheet>"
PLAIN = {"id": ["7"], "age": ["1"]}


def excel(path: Path, *rows: Sequence[Any], **further: Sequence[Sequence[Any]]) -> Path:
    book = openpyxl.Workbook()
    for name, content in {"Ages": rows, **further}.items():
        page = book.create_sheet(name)
        for row in content:
            page.append(row)
    book.remove(book.worksheets[0])
    book.save(path)
    return path


def with_sheet(path: Path, sheet: bytes) -> Path:
    """A small workbook whose worksheet is this XML."""
    with zipfile.ZipFile(excel(path, ["id", "age"], [1, 2])) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["xl/worksheets/sheet1.xml"] = sheet
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
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


def findings(path: Path) -> list[str]:
    return [str(finding.fault) for finding in read_sheet(path).findings]


def test_the_same_table_in_every_format_is_the_same_text(tmp_path: Path) -> None:
    lines = "id,age\n007,10.5\n8,3\n"
    frame = pd.DataFrame({"id": ["007", "8"], "age": [10.5, 3.0]})
    frame.to_parquet(tmp_path / "a.csv")  # recognized by content, not by suffix
    for path in (
        written(tmp_path / "1", lines),
        written(tmp_path / "2", lines.replace(",", "\t")),
        written(tmp_path / "3", lines.replace(",", ";")),
        written(tmp_path / "4", lines, "utf-8-sig"),
        written(tmp_path / "5", lines.replace(",", "\t"), "utf-16"),
        written(tmp_path / "6", "sep=;\n" + lines.replace(",", ";")),
        written(tmp_path / "7", lines.replace("\n", "\r\n")),
        excel(tmp_path / "a.txt.xlsx", ["id", "age"], ["007", 10.5], ["8", 3.0]),
        tmp_path / "a.csv",
    ):
        assert cells_of(path) == {"id": ["007", "8"], "age": ["10.5", "3"]}, path
        assert read_sheet(path).rows == (2, 3)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('id,age,note\n1,2,"a;b;c;d;e"\n', ["id", "age", "note"]),
        ('"Alter, Jahre";id;sex\n10,5;1;f\n', ["Alter, Jahre", "id", "sex"]),
        ('"Bone age\n(months)";id\n10,5;1\n', ["Bone age (months)", "id"]),
        ("id\n1\n2\n", ["id"]),
        ("id,,age,\n1,,2,\n", ["id", "age"]),  # columns without a name do no harm
    ],
)
def test_the_separator_is_the_one_of_the_header(
    tmp_path: Path, text: str, columns: list[str]
) -> None:
    assert list(cells_of(written(tmp_path / "a.csv", text))) == columns


def test_quoted_cells_behind_a_blank(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '"id", "age"\n"1", "10,5"\n"2", "9"\n')
    assert cells_of(path) == {"id": ["1", "2"], "age": ["10,5", "9"]}
    path = written(tmp_path / "a.csv", 'id,note\n1, "odd" cell\n2,x\n3,y\n4,z\n')
    assert cells_of(path)["note"] == ['"odd" cell', "x", "y", "z"]


def test_short_and_long_rows_and_repeated_columns_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,age,age\n1,2,3\n\n4,5\n6,7,8,9\n")
    short, long = findings(path)
    assert "row 4: it has 2 fields; expected 3 fields separated by commas" in short
    assert "row 5: it has 4 fields" in long
    assert read_sheet(path).rows == (2,)
    written(path, "id,age\n" + "1,2,3\n" * 40)  # no cell shifts into another column
    (long,) = findings(path)
    assert "row 2: it has 3 fields, and 39 other rows likewise; expected 2 fields" in long
    assert "If a column has no name in the header, add it." in long
    assert read_sheet(path).table.empty
    written(path, "Readings, of the year\nid,age,sex\n1,2,F\n")
    (title,) = findings(path)
    assert title.endswith("If the line above is no header, remove it.")


@pytest.mark.parametrize(
    "text",
    [
        "id,age\n1,2,\n3,4,,\n5,6\n",
        "id,age,,\n1,2\n3,4,,\n5,6,\n",
        "id;age\n1;2;;\n3;4;;\n5;6;;\n",
    ],
)
def test_empty_cells_behind_the_last_column_shift_no_other(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.csv", text)
    assert cells_of(path) == {"id": ["1", "3", "5"], "age": ["2", "4", "6"]}
    assert findings(path) == []
    written(path, "sex,age,,\nF,10,5\nM,9\n")  # 10,5 in quotes was meant
    (shifted,) = findings(path)
    assert "row 2: it has 3 fields; expected 2" in shifted
    assert read_sheet(path).table.to_dict("list") == {"sex": ["M"], "age": ["9"]}


@pytest.mark.parametrize(
    "text", ["id^age^sex\n1^2^F\n", '"id,age,sex"\n"1,2,F"\n', "sep=;\nid,age,sex\n1,2,F\n"]
)
def test_a_header_of_one_cell_asks_for_separators(tmp_path: Path, text: str) -> None:
    said = str(missing_column(read_sheet(written(tmp_path / "a.csv", text)), "age").fault)
    assert "there is no column 'age': the header is one cell, 'id" in said
    assert "Separate the cells by commas, tabs, semicolons or vertical bars" in said


def test_rows_with_another_separator_than_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,age,sex\n1;2;F\n3;4;M\n")
    (finding,) = read_sheet(path, names=["age"]).findings
    fault = str(finding.fault)
    assert "expected 3 fields separated by commas, like the header. Its cells are" in fault
    assert "separated by semicolons. Use one separator only." in fault


def test_the_column_that_contains_the_name_is_suggested(tmp_path: Path) -> None:
    cells = read_sheet(written(tmp_path / "a.csv", "image,age [months]\na,1\n"))
    assert "Did you mean 'age [months]'?" in str(missing_column(cells, "age").fault)


@pytest.mark.parametrize(
    "text",
    [
        'id,age,note\n1,2,"see\n3,4,x\n5,6,below"\n7,8,x\n',
        'id,note,age\n1,"see,2\n3,x,4\n5,below",6\n7,x,8\n',
    ],
)
def test_rows_between_two_stray_quotation_marks_are_not_lost(tmp_path: Path, text: str) -> None:
    (fault,) = findings(written(tmp_path / "a.csv", text))
    assert "row 2: a cell holds the end of 2 further rows" in fault
    for note in ("\n", "first\nsecond", "a, b\nc", "a\n\nb\n"):
        path = written(tmp_path / "b.csv", f'id,age,note\n1,2,"{note}"\n')
        assert cells_of(path)["note"] == [note.strip()]


def test_a_repeated_header_is_one_fault(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,age\n1,2\n\ufeffid,age\n3,4\n id , age\n")
    (fault,) = findings(path)
    assert fault.startswith(f"{path}: 2 rows (3, 5): the header is repeated. Remove the line.")
    assert read_sheet(path).table.to_dict("list") == {"id": ["1", "3"], "age": ["2", "4"]}


def test_columns_without_a_name_and_names_that_nobody_uses_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id;;age;note;;note\n1;;2;x;?;y\n3;;4;;;\n")
    assert cells_of(path) == {"id": ["1", "3"], "age": ["2", "4"]}
    cells = read_sheet(path)
    assert list(cells.unusable) == ["note"]
    said = str(missing_column(cells, "note").fault)
    assert "the header has several columns called 'note'. Rename or remove one of them." in said


def test_the_row_with_all_names_is_the_header_whatever_is_above_it(tmp_path: Path) -> None:
    title, groups = "Bone ages, 2019, Hospital, Y", "Patient,,Reading"
    for above in (title, groups, f"{title}\n\n{groups}", "a;b;c;d;e"):
        path = written(tmp_path / "a.csv", f"{above}\nid,age,sex\n1,10,f\n")
        cells = read_sheet(path, names=["sex", "age"])
        assert cells.findings == ()
        assert cells.table.to_dict("list") == {"id": ["1"], "age": ["10"], "sex": ["f"]}
    path = excel(tmp_path / "a.xlsx", ["Patient", "", "Reading"], ["id", "sex", "age"], [1, "f", 2])
    assert list(read_sheet(path, names=["age"]).table.columns) == ["id", "sex", "age"]
    assert list(read_sheet(path, names=["Age"]).table.columns) == ["Patient", "Reading"]


def test_a_header_of_very_many_columns_costs_little_time(tmp_path: Path) -> None:
    begin = time.process_time()
    names = ",".join(f"c{i % 30_000}" for i in range(40_000))
    cells = read_sheet(written(tmp_path / "a.csv", f"{names}\n{',' * 39_999}\nx{',' * 39_999}\n"))
    assert len(cells.unusable) == 10_000
    assert time.process_time() - begin < 8


def test_marks_in_a_header_that_nobody_can_type(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "\ufeffid,bone\u00a0age\n1,2\n", "utf-8-sig")
    assert list(cells_of(path)) == ["id", "bone age"]
    path = excel(tmp_path / "a.xlsx", ["id\u200b", "bone age \r\n(months)"], [1, 2])
    assert list(cells_of(path)) == ["id", "bone age (months)"]


@pytest.mark.parametrize(
    "text",
    [
        # Two rows with a semicolon too many: fewer rows agree with the header than with commas.
        "id;age;sex\n" + "".join(f"{i};{i},5;f{';' * (i < 4)}\n" for i in range(9)),
        "id|age|sex\n1|10,5|f\n",
        "# exported on May 31, 2024\nid,age,sex\n1,10,f\n",
        "# one; two; three; four\nid;age;sex\n1;10,5;f\n",
        "id;age;sex, as in PACS\n1;10,5;f\n2;9,25;m\n",
        "#;age;sex\n1;10,5;f\n",
    ],
)
def test_one_odd_row_does_not_hide_the_separator_of_the_header(tmp_path: Path, text: str) -> None:
    cells = read_sheet(written(tmp_path / "a.csv", text))
    assert len(cells.table.columns) == 3
    assert len(cells.table)


def test_excel_cells_are_as_a_person_would_write_them(tmp_path: Path) -> None:
    values = {
        12.0: "12",
        12.5: "12.5",
        0.1 + 0.2: "0.3",
        1e-7: "0.0000001",
        123456789012345: "123456789012345",
        1.5e14: "150000000000000",
        "007": "007",
        True: "TRUE",
        " blank ": "blank",
        datetime.date(2024, 5, 31): "2024-05-31",
        datetime.datetime(2024, 5, 31, 10, 6): "2024-05-31 10:06:00",
        datetime.time(10, 6): "10:06:00",
    }
    path = excel(tmp_path / "a.xlsx", ["key", "value"], *([i, v] for i, v in enumerate(values)))
    assert cells_of(path)["value"] == list(values.values())


def test_parquet_values_are_as_a_person_would_write_them(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "float": [12.0, np.nan],
            "single": np.array([10.6, 3], np.float32),
            "whole": pd.array([2**60 + 1, None], dtype="Int64"),
            "when": pd.to_datetime(["2024-05-31", "2024-06-01"]),
            "class": pd.Categorical(["f", None]),
            "flag": [True, None],
            "text": ['a "quoted", text\r\nof two lines', None],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    assert cells_of(tmp_path / "a.parquet") == {
        "float": ["12", ""],
        "single": ["10.6", "3"],
        "whole": [str(2**60 + 1), ""],
        "when": ["2024-05-31", "2024-06-01"],
        "class": ["f", ""],
        "flag": ["True", ""],
        "text": ['a "quoted", text\r\nof two lines', ""],
    }


def test_rows_keep_the_numbers_that_the_spreadsheet_shows(tmp_path: Path) -> None:
    rows = [["", "Readings"], [], ["", "id", "", "age"], ["", 7, "", 1], [], ["", 8, "", 2]]
    text = 'Readings, of the year\n\n"id";age\n7;1\n\n8;2\n'
    for path in (excel(tmp_path / "a.xlsx", *rows), written(tmp_path / "a.csv", text)):
        cells = read_sheet(path)
        assert cells.rows == (4, 6)
        assert cells.table.to_dict("list") == {"id": ["7", "8"], "age": ["1", "2"]}


def test_excels_plain_csv_is_refused_with_how_to_save_it(tmp_path: Path) -> None:
    said = refusal(written(tmp_path / "a.csv", "id;größe\n1;2\n", "cp1252"))
    assert "byte 5 (0xf6) is not UTF-8 text" in said
    assert "save it as 'CSV UTF-8 (comma delimited)'" in said


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "a workbook with a password",
        ),
        (b"%PDF-1.7", "it is a PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is a binary file"),
        (b"\n<html><table>", "it is an HTML or XML page"),  # what many a hospital system calls .xls
        (b"", "it is empty"),
        (b"id,age\n", "it has a header and no rows"),
        (b'id,age\n"1,2\n', "it is not valid CSV"),
        (b"PK\x03\x04 and nothing more", "it can't be read as an Excel workbook"),
        (b"PAR1PAR1", "it can't be read as Parquet"),
        (b"\xff\xfea", "it starts as UTF-16 text"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert what in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize("names", [("images/1.png",), ("[Content_Types].xml", "xl/workbook.bin")])
def test_other_archives_are_refused(tmp_path: Path, names: Sequence[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        for name in names:
            archive.writestr(name, b"<a/>")
    said = refusal(tmp_path / "a.xlsx")
    assert "it can't be read as an Excel workbook" in said
    assert "save the table as .xlsx or as 'CSV UTF-8'" in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_no_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "there is no such file" in refusal(tmp_path / "none.xlsx")
    assert "it is a folder" in refusal(tmp_path)
    assert "a pipe or a device" in refusal(tmp_path / "pipe")
    assert "the file can't be read" in refusal(tmp_path / ("x" * 5000))


def test_the_only_worksheet_with_a_table_is_taken(tmp_path: Path) -> None:
    rows = [["id", "age"], [7, 1]]
    codes = [["code", "means"], ["f", "girl"]]
    path = excel(
        tmp_path / "a.xlsx", *rows, Notes=[["Made in May"], ["by us"]], Empty=[], Codes=codes
    )
    book = openpyxl.load_workbook(path)
    book["Codes"].sheet_state = "hidden"
    book.save(path)
    assert cells_of(path) == PLAIN
    assert read_sheet(path).where == f"{path}, sheet 'Ages'"
    assert "its worksheets are empty ('Ages')" in refusal(excel(tmp_path / "b.xlsx"))


def test_of_several_worksheets_one_is_named(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["id", "age"], [7, 1], Old=[["id", "age"], [8, 2]])
    said = refusal(path)
    assert "it has 2 worksheets with data" in said
    assert "Name one with --sheet: 'Ages', 'Old'." in said
    assert cells_of(path, sheet="Old") == {"id": ["8"], "age": ["2"]}
    assert "there is no worksheet 'old'" in refusal(path, sheet="old")
    text = written(tmp_path / "a.csv", "id,age\n1,2\n")
    assert "it is not an Excel workbook" in refusal(text, sheet="Old")


def test_formulas_without_results_and_errors_are_named_by_their_cells(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["id", "age"], [7, "=1+1"], [8, "#N/A"], [9, "=B2"])
    formulas, errors = findings(path)
    assert "cells are formulas without a stored result: B2, B4" in formulas
    assert "Open the file in Excel or LibreOffice and save it once." in formulas
    assert "cells are errors: B3 (#N/A)" in errors


def test_unusable_cells_are_a_fault_only_of_a_column_that_is_used(tmp_path: Path) -> None:
    rows = [[7, 1, "#DIV/0!", "A"], [8, "#N/A", "=1+1", None], [9, 3, 22, "B"]]
    path = excel(
        tmp_path / "a.xlsx", ["id", "age", "bmi", "ward"], *rows, [None, None, None, "", "=2"]
    )
    book = openpyxl.load_workbook(path)
    book["Ages"].merge_cells("D2:D3")
    book.save(path)
    cells = read_sheet(path)
    assert sorted(str(finding.column) for finding in cells.findings) == [
        "",
        "age",
        "bmi",
        "bmi",
        "ward",
    ]
    (error,) = cells.using(["id", "age"]).findings
    assert "cells are errors: B3 (#N/A)" in str(error.fault)
    assert len(cells.using(["bmi", "ward"]).findings) == 3


def test_the_only_worksheet_with_the_names_is_taken(tmp_path: Path) -> None:
    codes = [["column", "meaning"], ["age", "bone age"], ["sex", "F or M"]]
    path = excel(tmp_path / "a.xlsx", ["id", "age", "sex"], [7, 1, "F"], Codes=codes)
    assert read_sheet(path, names=["id", "age", "sex"]).table["id"].tolist() == ["7"]
    assert "it has 2 worksheets with data" in refusal(path)
    assert "it has 2 worksheets with data" in refusal(path, names=["id", "weight"])
    others = [["ID", "Age", "Sex"], [8, 2, "M"]]  # perhaps more of the same
    path = excel(tmp_path / "a.xlsx", ["id", "age", "sex"], [7, 1, "F"], Other=others)
    assert "it has 2 worksheets with data" in refusal(path, names=["id", "age", "sex"])


def test_results_of_formulas_are_taken(tmp_path: Path) -> None:
    rows = (
        b"<row r='1'><c r='A1' t='str'><v>id</v></c><c r='B1' t='str'><v>age</v></c></row>"
        b"<row r='2'><c r='A2'><v>7</v></c><c r='B2'><f>6*2</f><v>12</v></c></row>"
        b"<row r='3'><c r='A3'><v>8</v></c><c r='B3' t='str'><f>\"\"</f><v></v></c></row>"
    )
    path = with_sheet(tmp_path / "a.xlsx", START + rows + END)
    assert cells_of(path) == {"id": ["7", "8"], "age": ["12", ""]}


def test_merged_cells_below_the_header_are_a_fault(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["Title", ""], ["pid", "age"], ["p1", 1], [None, 2])
    book = openpyxl.load_workbook(path)
    book["Ages"].merge_cells("A1:B1")
    book.save(path)
    assert len(cells_of(path)["age"]) == 2
    book["Ages"].merge_cells("A3:A4")
    book.save(path)
    (merged,) = findings(path)
    assert "cells are merged: A3:A4" in merged


def test_header_cells_that_are_merged_downwards_are_no_fault(tmp_path: Path) -> None:
    path = excel(tmp_path / "a.xlsx", ["pid", "age"], [None, None], ["p1", 1])
    book = openpyxl.load_workbook(path)
    for area in ("A1:A2", "B1:B2"):
        book["Ages"].merge_cells(area)
    book.save(path)
    assert cells_of(path) == {"pid": ["p1"], "age": ["1"]}
    assert findings(path) == []


HOSTILE = {
    "a row far away": (START + b"<row r='10000000000'><c><v>1</v></c></row>" + END, "rows"),
    "cells out of order": (
        START + b"<row r='1'><c r='B1'><v>1</v></c><c r='A1'><v>1</v></c></row>" + END,
        "its cells are out of order",
    ),
    "entities": (b'<!DOCTYPE x [<!ENTITY a "aa">]>' + START + END, "it can't be read"),
    "wide rows": (
        START + b"".join(b"<row><c r='XFD%d'/></row>" % i for i in range(1, 400)) + END,
        "cells or more",
    ),
    "a bomb": (START + b" " * (130 << 20) + END, "it unpacks to"),
    "no XML": (b"<worksheet", "it can't be read as an Excel workbook"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_workbook_made_to_do_harm_is_refused_at_once(tmp_path: Path, name: str) -> None:
    part, what = HOSTILE[name]
    path = with_sheet(tmp_path / "a.xlsx", part)
    begin = time.process_time()
    assert what in refusal(path)
    assert time.process_time() - begin < 5


@pytest.mark.slow
def test_an_ordinary_hospital_workbook_is_read(tmp_path: Path) -> None:
    row = [*range(6), *(f"text {i}" for i in range(6))]
    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet("Ages")
    for i in range(20_001):
        page.append([f"{name}" if i == 0 else f"{name} {i}" for name in row])
    book.save(tmp_path / "a.xlsx")
    cells = read_sheet(tmp_path / "a.xlsx")
    assert cells.table.shape == (20_000, 12)
    assert cells.findings == ()


def test_a_table_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", "id,age\n" + "1,2\n" * 50)
    frame = tmp_path / "a.parquet"
    pd.DataFrame({"id": ["x" * 100] * 51}).to_parquet(frame)
    monkeypatch.setattr(table_cells, "MAX_ROWS", 50)
    assert "it has 51 rows and 102 cells or more, and at most 50 rows" in refusal(path)
    assert "it has 51 rows" in refusal(frame)
    assert "it has 51 rows" in refusal(with_sheet(tmp_path / "a", START + b"<row/>" * 60 + END))


def test_a_long_text_that_stands_in_every_row_is_refused(tmp_path: Path) -> None:
    text = pa.array(["x" * 100_000])  # once in the file, 70 MB in the table
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 700, pa.int32()), text)
    pq.write_table(pa.table({"id": column}), tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 200_000
    assert "its cells have 70,000,002 characters" in refusal(tmp_path / "a")


def test_parquet_that_is_nested_or_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"id": [1], "boxes": [[1, 2]], "raw": [b"1"], "age": [2.5]})
    frame.to_parquet(path)
    assert cells_of(path) == {"id": ["1"], "age": ["2.5"]}
    said = str(missing_column(read_sheet(path), "boxes").fault)
    assert "the column 'boxes' holds lists, records or bytes. Write it as text" in said
    frame[["boxes", "raw"]].to_parquet(path)
    assert "the columns 'boxes', 'raw' hold lists, records or bytes" in refusal(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "it can't be read as Parquet" in refusal(path)


def test_parquet_without_pyarrow_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'Run pip install "boneage[train]", or' in refusal(tmp_path / "a.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xlsx", "parquet", "csv"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
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
    for _ in range(8 if kind == "parquet" else 80):  # each starts a process
        path.write_bytes(damaged(whole, lot))
        with suppress(InputError):
            read_sheet(path)


def damaged(content: bytes, lot: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(lot.choice([1, 2, 20])):
        changed[lot.randrange(len(changed))] = lot.randrange(256)
    return bytes(changed[: lot.randrange(len(changed))] if lot.random() < 0.2 else changed)
