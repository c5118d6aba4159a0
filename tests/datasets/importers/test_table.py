from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boneage.datasets.importers.table import TableColumns, import_table
from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError


@pytest.fixture
def radiographs(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital"
    (folder / "films").mkdir(parents=True)
    for i in range(30):
        (folder / "films" / f"{i}.tif").touch()
    return folder


COLUMNS = {"image": "film", "age": "bone age", "sex": "Geschlecht"}
CODES = {"female": ["f"], "male": ["m"], "age_unit": "years"}


def table(folder: Path, *rows: str, header: str = "film,bone age,Geschlecht") -> Path:
    path = folder / "readings.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def imported(file: Path, **options: Any) -> Any:
    out = file.parent.parent / "out" / "manifest.csv"
    rest = {name: options.pop(name) for name in ("image_root", "sheet", "seed") if name in options}
    return import_table(file, out, TableColumns(**{**COLUMNS, **CODES, **options}), **rest)


def faults(file: Path, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        imported(file, **options)
    assert not (file.parent.parent / "out").exists(), "something was written despite faults"
    return [str(fault).replace(str(file), file.name) for fault in caught.value.faults]


YEARS = [f"films/{i}.tif,{1.5 + i / 2},{'fm'[i % 2]}" for i in range(30)]


def test_years_and_codes_become_months_and_f_or_m(radiographs: Path) -> None:
    manifest = imported(table(radiographs, *YEARS))
    assert manifest.table["age_months"].tolist() == [18.0 + 6 * i for i in range(30)]
    assert manifest.table["sex"].tolist() == ["F", "M"] * 15
    assert manifest.table["image_id"].tolist() == [str(i) for i in range(30)]
    assert set(manifest.table["source"]) == {"readings, seeded split"}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "val": 3, "test": 3}
    assert manifest.image_paths()[0] == (radiographs / "films" / "0.tif").resolve()
    assert read_manifest(manifest.path).table.equals(manifest.table)


def test_a_column_of_years_imported_as_months(radiographs: Path) -> None:
    rows = ["films/0.tif,10.6,f", "films/1.tif,14.1,m", "films/2.tif,3,m"]
    (fault,) = faults(table(radiographs, *rows), age_unit="months")
    assert "row 3 (film films/1.tif): bone age is 14.1, the largest of the column" in fault
    assert fault.endswith("Are the ages in years? Pass --age-unit years.")


def test_infants_are_imported_when_the_unit_leaves_no_doubt(radiographs: Path) -> None:
    manifest = imported(table(radiographs, "films/0.tif,0.5,f", "films/1.tif,1.25,m"))
    assert manifest.table["age_months"].tolist() == [6.0, 15.0]
    assert set(manifest.table["source"]) == {"readings, infants, seeded split"}
    assert manifest.notes == (
        "All children are infants: the largest age is 15 months, since bone age is in years.",
    )
    assert read_manifest(manifest.path).table.equals(manifest.table)


def test_months_imported_as_years(radiographs: Path) -> None:
    assert faults(table(radiographs, *YEARS, "films/0,126,f"))[1] == (
        "readings.csv: row 32 (film films/0): bone age is 126; expected years from 0 to 20; the "
        "median of the column is 9. Correct the label."
    )
    rows = [f"films/{i}.tif,{60 + 3 * i},f" for i in range(30)]
    found = faults(table(radiographs, *rows))
    assert len(found) == 1
    assert "30 rows" in found[0]
    assert "bone age is 60, and 29 others likewise" in found[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("films/5.tif,9,F", "row 3 (film films/5.tif): Geschlecht is 'F'; expected 'f' (--female)"),
        ("films/5.tif,9,", "Geschlecht is empty; expected 'f' (--female) or 'm' (--male)"),
        ('films/5.tif,"1,250",f', "bone age is '1,250'; expected a number of years"),
        ("films/5.tif,20.5,f", "bone age is 20.5; expected years from 0 to 20"),
        ("films/99.tif,9,f", "there is no image films/99.tif. Paths start from"),
        (",9,f", "film is empty"),
        ("films/../films/0.tif,9,f", "film films/../films/0.tif is already in row 2"),
        ("films/5.tif,9", "it has 2 fields; expected 3"),
    ],
)
def test_a_wrong_row_is_one_clear_message(radiographs: Path, row: str, message: str) -> None:
    found = faults(table(radiographs, "films/0.tif,8,f", row))
    assert len(found) == 1
    assert message in found[0]


def test_one_wrong_age_among_many_casts_no_doubt_on_the_unit(radiographs: Path) -> None:
    rows = [f"films/{i % 30}.tif,{5 + i % 12},f" for i in range(59)]
    (fault,) = [f for f in faults(table(radiographs, *rows, "films/5.tif,-3,f")) if "is -3" in f]
    assert fault.endswith("the median of the column is 10. Correct the label.")


def test_columns_that_are_not_there_are_named_with_their_options(radiographs: Path) -> None:
    file = table(radiographs, *YEARS)
    found = faults(file, age="Bone Age", sex="sex", patient="pid")
    assert "readings.csv (--age Bone Age): there is no column 'Bone Age'" in found[0]
    assert found[0].endswith("Did you mean 'bone age'?")
    assert "(--sex sex): there is no column 'sex' among film, bone age" in found[1]
    assert "(--patient pid)" in found[2]


def test_wrong_options_are_named_together(radiographs: Path) -> None:
    found = faults(
        table(radiographs, *YEARS), age_unit="year", male=["f"], image_root=radiographs / "none"
    )
    assert "--age-unit: unknown unit 'year'" in found[0]
    assert "Did you mean 'years'?" in found[0]
    assert "--female and --male: both are 'f'" in found[1]
    assert "--image-root: there is no folder" in found[2]


def test_an_image_root_and_names_without_suffix(radiographs: Path) -> None:
    rows = [f"{i},{1.5 + i / 2},f" for i in range(30)]
    manifest = imported(table(radiographs, *rows), image_root=radiographs / "films")
    assert manifest.image_paths()[3] == (radiographs / "films" / "3.tif").resolve()
    (radiographs / "films" / "3.png").touch()
    found = faults_of_new(table(radiographs, *rows), image_root=radiographs / "films")
    assert "row 5 (film 3): 3 fits 2 files: 3.png, 3.tif" in found[0]


def test_equal_names_in_two_folders_keep_their_folder_in_the_id(radiographs: Path) -> None:
    (radiographs / "more").mkdir()
    (radiographs / "more" / "0.tif").touch()
    manifest = imported(table(radiographs, "films/0.tif,8,f", "more/0.tif,9,m"))
    assert manifest.table["image_id"].tolist() == ["films/0", "more/0"]


def test_a_split_column_is_kept_and_checked(radiographs: Path) -> None:
    header = "film,bone age,Geschlecht,pid,fold"
    words = ["training", "Validation", "test"]
    rows = [f"{row},p{i},{words[i % 3]}" for i, row in enumerate(YEARS)]
    manifest = imported(table(radiographs, *rows, header=header), split="fold")
    assert manifest.table["split"].tolist() == ["train", "val", "test"] * 10
    assert set(manifest.table["source"]) == {"readings"}


def test_a_patient_in_two_splits_and_an_unknown_split(radiographs: Path) -> None:
    rows = [f"{YEARS[0]},ann,train", f"{YEARS[1]},ann,test", f"{YEARS[2]},ben,3"]
    file = table(radiographs, *rows, header="film,bone age,Geschlecht,pid,split")
    found = faults(file, patient="pid", split="split")
    assert "row 4 (film films/2.tif): split is '3'; expected train, val or test" in found[0]
    assert "row 3 (film films/1.tif): patient ann is in test here and in train in row 2" in found[1]


def test_one_patient_with_two_sexes_is_named_by_the_rows_of_the_table(radiographs: Path) -> None:
    header = "film,bone age,Geschlecht,pid"
    rows = ["films/0.tif,8,f,60", "films/1.tif,9,m,60", "films/2.tif,9,m,61", "films/3.tif,9,m,"]
    (fault,) = faults(table(radiographs, *rows, header=header), patient="pid")
    assert "readings.csv: row 3 (film films/1.tif): patient 60 is M here and F in row 2" in fault
    assert len(imported(table(radiographs, *rows, header=header))) == 4


def test_patients_that_a_spreadsheet_made_numbers_are_the_same(radiographs: Path) -> None:
    header = "film,bone age,Geschlecht,patient,split"
    rows = [
        "films/0,8,f,7.0,train",
        "films/1,9,m,7,train",
        "films/2,9,f,8,val",
        "films/3,9,f,8.0,test",
    ]
    found = faults(table(radiographs, *rows, header=header), patient="patient", split="split")
    assert len(found) == 2
    assert "patient 8.0 is in test here and in val in row 4" in found[0]
    assert "row 3 (film films/1): patient 7 is M here and F in row 2" in found[1]
    rows = ["films/0,8,f,007,", "films/1,9,m,7,", "films/2,9,f,00,", "films/3,9,f,0,"]
    (fault,) = faults(table(radiographs, *rows, header=header), patient="patient")
    assert "row 3 (film films/1): patient 7 is M here and F in row 2" in fault
    rows = [
        f"films/{i},{5 + i / 3},{'fm'[i // 2 % 2]},{i // 2}{'.0' * (i % 2)}," for i in range(30)
    ]
    made = imported(table(radiographs, *rows, header=header), patient="patient").table
    assert made["patient_id"].tolist()[:3] == ["0", "0.0", "1"]
    number = made["patient_id"].str.removesuffix(".0")
    assert made["split"].groupby(number).nunique().max() == 1


def test_a_letter_that_looks_like_the_code_is_named(radiographs: Path) -> None:
    (fault,) = faults(table(radiographs, "films/0,8,\u041c", "films/1,8,F"), female="F", male="M")
    assert "Geschlecht is '\u041c' (CYRILLIC CAPITAL LETTER EM); expected 'F'" in fault


def test_what_is_wrong_with_other_columns_is_no_fault(radiographs: Path) -> None:
    frame = pd.DataFrame([["films/0", 8, "f", "#DIV/0!"], ["films/1", 9, "m", "=1+1"]])
    file = radiographs / "readings.xlsx"
    frame.to_excel(file, header=["film", "bone age", "Geschlecht", "bmi"], index=False)
    assert len(imported(file)) == 2


def test_a_column_twice_is_a_fault_only_if_it_is_used(radiographs: Path) -> None:
    rows = [f"{row},a,,b" for row in YEARS]
    file = table(radiographs, *rows, header="film,bone age,Geschlecht,note,,note")
    (fault,) = faults(file, patient="note")
    assert "(--patient note): the header has several columns called 'note'" in fault
    assert len(imported(file)) == 30


@pytest.mark.parametrize(
    ("texts", "codes"),
    [
        (("0.0", "1.0"), {"female": ["0"], "male": ["1"]}),
        (("FALSE", "TRUE"), {"female": ["False"], "male": ["true"]}),
        (("m\u00e4nnlich", "weiblich"), {"female": ["m\u00e4nnlich"], "male": ["weiblich"]}),
    ],
)
def test_codes_as_spreadsheets_and_pandas_write_them(
    radiographs: Path, texts: tuple[str, str], codes: dict[str, list[str]]
) -> None:
    rows = [f"films/0.tif,8,{texts[0]}", f"films/1.tif,9,{texts[1]}"]
    assert imported(table(radiographs, *rows), **codes).table["sex"].tolist() == ["F", "M"]


def test_the_first_import_of_a_newcomer(tmp_path: Path) -> None:
    """A CSV of years and codes beside a folder of scans; the ids have no folder and no suffix."""
    folder = tmp_path / "clinic"
    (folder / "scans").mkdir(parents=True)
    for i in range(12):
        (folder / "scans" / f"{i:03}.TIF").touch()
    file = table(folder, *(f"{i:03},{i + 1.5},{'fm'[i % 2]}" for i in range(12)))
    root = (folder / "scans").resolve()
    found = faults(file)
    assert len(found) == 12
    assert found[0].endswith(f"Images of such names are in {root}: pass --image-root {root}.")
    manifest = imported(file, image_root=root)
    assert manifest.image_paths()[11] == root / "011.TIF"
    assert manifest.table["image_id"].tolist()[:2] == ["000", "001"]


def test_decimal_commas_are_read_where_they_leave_no_doubt(radiographs: Path) -> None:
    header = "film;bone age;Geschlecht"
    manifest = imported(table(radiographs, "films/0;10,5;f", "films/1;9;m", header=header))
    assert manifest.table["age_months"].tolist() == [126.0, 108.0]
    assert manifest.notes == ("bone age was read with decimal commas: 10,5 is 10.5.",)
    (fault,) = faults_of_new(table(radiographs, "films/0;10,5;f", "films/1;9.5;m", header=header))
    assert "bone age is '10,5'; expected a number of years" in fault


def faults_of_new(file: Path, **options: Any) -> list[str]:
    """As `faults`, where an earlier import of the same test has written something."""
    with pytest.raises(InputError) as caught:
        imported(file, **options)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "months"),
    [
        ("10y6m", 126),
        ("10-06", 126),
        ("10 years, 6 months", 126),
        ("10 Jahre 6 Monate", 126),
        ("10yrs.", 120),
        ("18m", 18),
    ],
)
def test_years_and_months_in_one_cell(radiographs: Path, text: str, months: int) -> None:
    rows = [f'films/0.tif,"{text}",f', "films/1.tif,12y0m,m"]
    ages = imported(table(radiographs, *rows), age_unit="years-months").table["age_months"]
    assert ages.tolist() == [months, 144]


@pytest.mark.parametrize("text", ["10", "10.6", "10-12", "2024-06-10"])
def test_years_and_months_that_could_be_something_else(radiographs: Path, text: str) -> None:
    (fault,) = faults(table(radiographs, f"films/0.tif,{text},f"), age_unit="years-months")
    assert f"bone age is {text!r}; expected years and months such as 10y6m or 10-06" in fault


def test_days_are_months_of_a_twelfth_of_a_year(radiographs: Path) -> None:
    manifest = imported(table(radiographs, "films/0,3652.5,f", "films/1,30,m"), age_unit="days")
    np.testing.assert_allclose(manifest.table["age_months"], [120, 30 / 30.4375], rtol=1e-9)
    (fault,) = faults_of_new(table(radiographs, "films/0,126,f", "films/1,30,m"), age_unit="days")
    assert "bone age is 126, the largest of the column; expected days from 0 to 7305" in fault
    (fault,) = faults_of_new(table(radiographs, "films/0,7306,f"), age_unit="days")
    assert "expected days from 0 to 7305" in fault


@pytest.mark.parametrize(
    ("codes", "what"),
    [
        ({"female": ["f", "m"], "male": ["m"]}, "both are 'm'"),
        ({"female": ["1"], "male": ["1.0"]}, "both are '1'"),
        ({"female": ["True"], "male": ["TRUE"]}, "both are 'True'"),
        ({"female": [], "male": ["m"]}, "one of them is empty"),
    ],
)
def test_codes_that_tell_no_sex(radiographs: Path, codes: dict[str, Any], what: str) -> None:
    assert f"--female and --male: {what}" in faults(table(radiographs, *YEARS), **codes)[0]


def test_chronological_age_has_its_own_unit_and_may_be_empty(radiographs: Path) -> None:
    header = "film,bone age,Geschlecht,lived"
    file = table(radiographs, "films/0,8,f,100", "films/1,9,m,", header=header)
    options = {"chronological": "lived", "chronological_unit": "months"}
    ages = imported(file, **options).table["chronological_age_months"]
    assert ages[0] == 100
    assert np.isnan(ages[1])
    assert (
        "--chronological-unit: unknown unit 'month'"
        in (faults_of_new(file, **{**options, "chronological_unit": "month"})[0])
    )
    (fault,) = faults_of_new(file, chronological="lived")  # the unit of the bone age
    assert "lived is 100; expected years from 0 to 40" in fault
    file = table(radiographs, "films/0,8,f,8.5", "films/1,9,m,old", header=header)
    found = faults_of_new(file, **options)
    assert "lived is 'old'; expected a number of months, or nothing" in found[0]
    assert "Are the ages in years? Pass --chronological-unit years." in found[1]


def patterned(radiographs: Path, *ids: str, **options: Any) -> Any:
    file = table(
        radiographs, *(f"{i},{8 + k},f" for k, i in enumerate(ids)), header="id,bone age,Geschlecht"
    )
    return imported(file, **options)


def make(radiographs: Path, *names: str) -> None:
    for name in names:
        path = radiographs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("films/{id}.tif", ["films/1.tif", "films/12.tif"]),
        ("xs/{id}_*.png", ["xs/1_20240101.png", "xs/12_20230101.png"]),
        ("xs/*_{id}.png", ["xs/left_1.png", "xs/left_12.png"]),
        ("xs/{id:04}*.jpg", ["xs/0001.jpg", "xs/0012b.jpg"]),
        ("xs/**/{id}.png", ["xs/1.png", "xs/a/b/12.png"]),
        ("**/x{id}-*/*/f_*", ["x1-/a/f_1.png", "y/x12-b/b/f_0.png"]),
        ("xs/*/{id}.*", ["xs/a/1.png", "xs/b/12.dcm"]),
        ("xs/{id}/*.png", ["xs/1/film.png", "xs/12/film.png"]),
        ("{id}*/film.png", ["1-a/film.png", "12-a/film.png"]),
    ],
)
def test_a_pattern_fits_one_image_a_row(radiographs: Path, pattern: str, names: list[str]) -> None:
    make(radiographs, *names, "xs/other.txt", "xs/a/1.xml", "xs/a/._1.png")
    make(radiographs, *(f"xs/more{i}.png" for i in range(9)))
    ids = ["1-", "12"] if pattern.startswith("{") else ["1", "12"]  # 1* would fit both
    manifest = patterned(radiographs, *ids, image=pattern)
    assert manifest.image_paths() == [(radiographs / name).resolve() for name in names]
    assert manifest.table["image_id"].tolist() == ids


@pytest.mark.parametrize("image", ["id", "{id}.png", "{id:03}.png", "{id}*.png"])
def test_ids_that_a_spreadsheet_made_numbers(radiographs: Path, image: str) -> None:
    make(radiographs, "001.png", "012.png", "7.png")
    ids = ["012.0", "7.0"] if image == "{id}*.png" else ["1.0", "12.0", "7.0"]
    if image == "{id:03}.png":
        make(radiographs, "007.png")
    manifest = patterned(radiographs, *ids, image=image)
    numbers = [int(path.stem) for path in manifest.image_paths()]
    assert numbers == [int(float(name)) for name in ids]


def test_numbers_find_an_image_only_if_one_fits(radiographs: Path) -> None:
    make(radiographs, "001.png", "1.png", "02.png", "0003.png")
    manifest = patterned(radiographs, "1", "2", "3.0", image="id")  # 1.png is exactly that name
    assert [path.name for path in manifest.image_paths()] == ["1.png", "02.png", "0003.png"]
    assert manifest.table["image_id"].tolist() == ["1", "02", "0003"]
    assert "2 images were found by their number: 2 is 02.png." in manifest.notes
    manifest = patterned(radiographs, "2.png", "3.0.png", image="id")
    assert [path.name for path in manifest.image_paths()] == ["02.png", "0003.png"]
    with pytest.raises(InputError, match="there is no image 2.jpg"):
        patterned(radiographs, "2.jpg", image="id")
    with pytest.raises(InputError, match="1.0 fits 2 files: 001.png, 1.png"):
        patterned(radiographs, "1.0", "2", image="id")
    with pytest.raises(InputError, match="id 2 is already in row 2"):
        patterned(radiographs, "02", "2", image="id")
    with pytest.raises(InputError, match="there is no image 1.5"):
        patterned(radiographs, "1.5", image="id")


def test_a_pattern_that_fits_none_or_several_images(radiographs: Path) -> None:
    make(radiographs, "xs/1_a.png", "xs/1_b.png", "xs/2_a.png", "xs/2_a.txt")
    with pytest.raises(InputError) as caught:
        patterned(radiographs, "1", "2", "3", "", image="xs/{id}_*")
    found = [str(fault).partition("readings.csv: ")[2] for fault in caught.value.faults]
    assert "row 5: id is empty. Give every image a name" in found[0]
    assert "row 4 (id 3): there is no image xs/3_*. Paths start from" in found[1]
    assert "row 2 (id 1): xs/1_* fits 2 files: xs/1_a.png, xs/1_b.png" in found[2]
    assert len(found) == 3


def test_signs_of_patterns_in_a_cell_are_plain_letters(radiographs: Path) -> None:
    make(radiographs, "xs/[1]_a.png", "xs/2_a.png")
    with pytest.raises(InputError) as caught:
        patterned(radiographs, "[1]", "*", "?", image="xs/{id}_*.png")
    assert len(caught.value.faults) == 2
    assert "there is no image xs/*_*.png" in str(caught.value.faults[0])


def test_a_pattern_with_no_column_and_a_column_that_is_not_there(radiographs: Path) -> None:
    for pattern, what in (
        ("films/*.tif", "the pattern names no column"),
        ("films/{ID}.tif", "(--image ID): there is no column 'ID'"),
        ("none/{id}_*.tif", "there is no folder"),
    ):
        with pytest.raises(InputError, match=re.escape(what)):
            patterned(radiographs, "1", image=pattern)


@pytest.mark.parametrize(
    "name", ["films\\0.tif", "films/0.TIF", "./films/0", "films/../films/0.tif", "mu\u0308.png"]
)
def test_names_as_other_systems_write_them(radiographs: Path, name: str) -> None:
    make(radiographs, "m\u00fc.png")
    path = imported(table(radiographs, f"{name},8,f")).image_paths()[0]
    assert path.name in ("0.tif", "m\u00fc.png")


def test_control_characters_in_names(radiographs: Path) -> None:
    file = table(radiographs, "films/0.tif,8,f,p\x00q", header="film,bone age,Geschlecht,pid")
    (fault,) = faults(file, patient="pid")
    assert "pid is 'p\\x00q', with control characters" in fault


# Generated tables: what comes out is what each row says, or every wrong row is named. The generator
# knows what each cell means, so nothing of the importer is needed to tell what must come out.
MONTHS = {"months": 1.0, "years": 12.0, "days": 12 / 365.25}
SEXES = {"f": "F", "girl": "F", "2": "F", "m": "M", "1": "M"}
WRONG_AGES = ("", "nan", "-inf", "1e400", "-1", "10.5.2", "ten", "0x10", "\uff11\uff12")
SPELLINGS = ("films/{}.tif", "films/{}", "./films/{}.tif", "films\\{}.tif", "films/../films/{}.TIF")


@st.composite
def generated(
    draw: st.DrawFn,
) -> tuple[str, list[list[str]], list[tuple[str, float, str]], list[int]]:
    """Return the unit, the cells, what they mean, and the positions of the wrong rows."""
    unit = draw(st.sampled_from(list(MONTHS)))
    odds = draw(st.sampled_from([10**9, 6]))
    cells, meanings, wrong = [], [], []
    for number in draw(st.lists(st.integers(0, 29), min_size=2, max_size=8, unique=True)):
        # From 120 months on, no unit may be mistaken for another.
        age = draw(st.integers(int(1200 / MONTHS[unit]), int(2399 / MONTHS[unit]))) / 10
        sex, meant = draw(st.sampled_from(list(SEXES.items())))
        row = [draw(st.sampled_from(SPELLINGS)).format(number), f"{age:.1f}", sex]
        if draw(st.integers(1, odds)) == odds:
            wrong.append(len(cells))
            column = draw(st.integers(0, 2))
            row[column] = draw(
                [
                    st.sampled_from(["", "none.png", "films", "..", "x" * 300]),
                    st.sampled_from(WRONG_AGES),
                    st.sampled_from(["", "F", "male", "0", "f m"]),
                ][column]
            )
        cells.append([draw(st.sampled_from(["", " ", "\t", "\u00a0"])) + cell for cell in row])
        meanings.append((f"{number}.tif", age * MONTHS[unit], meant))
    return unit, cells, meanings, wrong


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=generated())
def test_a_table_comes_out_as_its_rows_say_or_every_wrong_row_is_named(
    radiographs: Path, made: Any
) -> None:
    unit, cells, meanings, wrong = made
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    file = table(radiographs, text.getvalue())
    options = {"age_unit": unit, "female": ["f", "girl", "2"], "male": ["m", "1"]}
    if wrong:
        named = {
            int(n) for n in re.findall(r": row ([0-9]+)", "\n".join(faults_of_new(file, **options)))
        }
        assert {2 + position for position in wrong} <= named
        return
    manifest = imported(file, **options)
    assert [path.name for path in manifest.image_paths()] == [name for name, _, _ in meanings]
    np.testing.assert_allclose(manifest.table["age_months"], [age for _, age, _ in meanings])
    assert manifest.table["sex"].tolist() == [sex for _, _, sex in meanings]
