from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from boneage.datasets.radiograph_table import RadiographColumns, RadiographTable
from boneage.errors import InputError


@pytest.fixture
def read(tmp_path):
    """Write a table with some images next to it, and read it."""
    for name in ("a.png", "b.png", "two.png", "two.jpg"):
        (tmp_path / name).touch()

    def read(text: str, columns: RadiographColumns | None = None, **options):
        file = tmp_path / "table.csv"
        file.write_text(text)
        return list(RadiographTable(file, columns or RadiographColumns(), **options))

    return read


def test_usual_columns_are_found_by_their_names(read, tmp_path):
    rows = read(
        "Image;Sex;Chronological age (months);note\na.png;girl;120;x\n\nb;M;;y\ntwo.jpg;;99,5;\n"
    )
    assert [(Path(row.image).name, row.sex, row.chronological_age_months) for row in rows] == [
        ("a.png", "F", 120.0), ("b.png", "M", None), ("two.jpg", None, 99.5),
    ]  # fmt: skip
    assert Path(rows[0].image).parent == tmp_path


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ("a.png,x,120,,", "sex is 'x'"),
        ("a.png,1,120,,", "sex is '1'"),
        (",F,120,,", "image is empty"),
        ("two,F,120,,", "two fits two.png and two.jpg"),
        ("a.png,F,ten,,", "age is 'ten'"),
        ("a.png,F,-3,,", "age is '-3'"),
        ("a.png,F,3650,,", "age is '3650'"),
        ("a.png,F", "it has 2 fields"),
        ("a.png,F,,2010-05-01,2010-04-30", "the birth date is 1 day after the study date"),
        ("a.png,F,,1900-01-01,2010-04-30", "by its dates, the child is 110 years old"),
        ("a.png,F,,03/04/2001,2010-04-30", "birth_date is no date like 2024-05-31"),
        ("a.png,F,,2001-02-30,2010-04-30", "birth_date is no date like 2024-05-31"),
        ("a.png,F,12,2001-02-03,2010-04-30", "age and the dates differ by 99 months"),
    ],
)
def test_a_wrong_cell_is_the_fault_of_its_row(read, cells, what):
    header = "image,sex,age,birth_date,study_date\n"
    columns = RadiographColumns(chronological="age")
    table = f"{header}{cells}\nb.png,M,100,,\nb.png,M,130,20000101,20101231\n"
    wrong, good, dated = read(table, columns)
    assert what in wrong.fault.what
    assert "2001" not in str(wrong.fault)  # a birth date is not repeated
    assert "table.csv: row 2" in str(wrong.fault)
    assert (good.fault, good.sex, good.chronological_age_months) == (None, "M", 100.0)
    assert dated.chronological_age_months == 130.0


def test_an_age_by_dates_is_in_whole_months(read):
    table = "image,sex,dob,study_date\na.png,F,2000-01-15,2010-03-01 00:00:00\n"
    (row,) = read(table)
    assert row.chronological_age_months == 121.0


@pytest.mark.parametrize(
    ("ages", "unit", "other"),
    [
        ((9.5, 12, 17), "months", "years"),
        ((3500, 4000, 120), "months", "days"),
        ((100, 120, 130), "years", "months"),
        ((100, 120, 130), "days", "months"),
    ],
)
def test_a_column_in_another_unit_is_refused(read, ages, unit, other):
    table = "image,sex,age\n" + "".join(f"a.png,F,{age}\n" for age in ages)
    with pytest.raises(InputError, match=f"probably in {other}.*--chronological-unit {other}"):
        read(table, RadiographColumns(chronological="age"), unit=unit)


@pytest.mark.parametrize(
    ("unit", "cell", "months"), [("years", "10.5", 126.0), ("days", "3652.5", 120.0)]
)
def test_ages_have_a_unit(read, unit, cell, months):
    (row,) = read(f"image,age\na.png,{cell}\n", RadiographColumns(chronological="age"), unit=unit)
    assert row.chronological_age_months == pytest.approx(months)


@pytest.mark.parametrize(
    ("header", "cell", "options", "sex"),
    [
        ("male", "True", {}, "M"),
        ("male", "0", {}, "F"),
        ("sex", "1", {"female": ["1"], "male": ["2"]}, "F"),
        ("sex", "2.0", {"female": ["1"], "male": ["2"]}, "M"),
    ],
)
def test_sexes_are_read_as_importers_read_them(read, header, cell, options, sex):
    (row,) = read(f"image,{header}\na.png,{cell}\n", **options)
    assert row.sex == sex


@pytest.mark.parametrize(
    ("text", "columns", "options", "message"),
    [
        ("picture,sex\na.png,F\n", {}, {}, "there is no column 'image'"),
        ("image,sex\na.png,F\n", {"sex": "sez"}, {}, "Did you mean 'sex'"),
        ("image,sex,sex\na.png,F,F\n", {}, {}, "several columns called 'sex'"),
        ("image,sex\n", {}, {}, "a header and no rows"),
        ("", {}, {}, "it is empty"),
        ('image,sex\n"a.png,F\n', {}, {}, "not valid CSV"),
        ("image\na.png\n", {}, {"unit": "year"}, "Did you mean 'years'"),
    ],
)
def test_a_table_that_can_not_be_read_is_refused(read, text, columns, options, message):
    with pytest.raises(InputError, match=message):
        read(text, RadiographColumns(**columns), **options)


def test_other_texts_and_tables(tmp_path):
    table = pd.DataFrame({"image": ["a.png"], "sex": ["F"], "chronological_age_months": [120.5]})
    for name in ("t.csv", "t.xlsx", "t.parquet", "t.txt"):
        file = tmp_path / name
        match name:
            case "t.csv":
                file.write_bytes(table.to_csv(index=False).encode("utf-16"))
            case "t.xlsx":
                table.to_excel(file, index=False)
            case "t.parquet":
                table.to_parquet(file)
            case _:
                table.to_csv(file, index=False, sep="\t")
        (row,) = RadiographTable(file, RadiographColumns())
        assert (row.sex, row.chronological_age_months) == ("F", 120.5)
    (tmp_path / "latin.csv").write_bytes("image,sex\nä.png,F\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        RadiographTable(tmp_path / "latin.csv", RadiographColumns())


def test_excel_without_pandas_says_what_to_install(tmp_path, monkeypatch):
    pd.DataFrame({"image": ["a.png"]}).to_excel(tmp_path / "t.xlsx", index=False)
    monkeypatch.setitem(__import__("sys").modules, "boneage.datasets.tables", None)
    with pytest.raises(InputError, match=r'pip install "boneage\[train\]"'):
        RadiographTable(tmp_path / "t.xlsx", RadiographColumns())


def test_a_date_of_birth_without_a_date_of_the_radiograph_is_refused(read):
    with pytest.raises(InputError, match="Give both --birth-date and --study-date"):
        read("image,birth\na.png,2010-01-01\n", RadiographColumns(birth="birth"))
