from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.datasets.table import import_table
from boneage.errors import InputError


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital"
    (folder / "films").mkdir(parents=True)
    for i in range(30):
        (folder / "films" / f"{i}.tif").touch()
    return folder


COLUMNS = {"image": "film", "age": "bone age", "sex": "Geschlecht"}
CODES = {"female": "f", "male": "m", "age_unit": "years"}


def table(folder: Path, *rows: str, header: str = "film,bone age,Geschlecht") -> Path:
    path = folder / "readings.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def imported(file: Path, **options: Any) -> Any:
    out = file.parent.parent / "out" / "manifest.csv"
    return import_table(file, out, **{**COLUMNS, **CODES, **options})


def faults(file: Path, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        imported(file, **options)
    assert not (file.parent.parent / "out").exists(), "something was written despite faults"
    return [str(fault).replace(str(file), file.name) for fault in caught.value.faults]


YEARS = [f"films/{i}.tif,{1.5 + i / 2},{'fm'[i % 2]}" for i in range(30)]


def test_years_and_codes_become_months_and_f_or_m(films: Path) -> None:
    manifest = imported(table(films, *YEARS))
    assert manifest.table["age_months"].tolist() == [18.0 + 6 * i for i in range(30)]
    assert manifest.table["sex"].tolist() == ["F", "M"] * 15
    assert manifest.table["image_id"].tolist() == [str(i) for i in range(30)]
    assert set(manifest.table["source"]) == {"readings, seeded split"}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "val": 3, "test": 3}
    assert manifest.image_paths()[0] == (films / "films" / "0.tif").resolve()
    assert read_manifest(manifest.path).table.equals(manifest.table)


def test_years_leave_no_digits_of_binary_arithmetic(films: Path) -> None:
    manifest = imported(table(films, "films/0.tif,10.6,f", "films/1.tif,3,m"))
    assert ",127.2,F," in manifest.path.read_text()


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_commas_tabs_and_semicolons(films: Path, separator: str) -> None:
    rows = [row.replace(",", separator) for row in YEARS]
    header = separator.join(COLUMNS.values())
    assert len(imported(table(films, *rows, header=header))) == 30


def test_months_are_taken_as_they_are(films: Path) -> None:
    rows = ["films/0.tif,127.25,f", "films/1.tif,30,m"]
    ages = imported(table(films, *rows), age_unit="months").age_months()
    np.testing.assert_array_equal(ages, np.float32([[127.25], [30]]))


def test_a_column_of_years_imported_as_months(films: Path) -> None:
    rows = ["films/0.tif,10.6,f", "films/1.tif,14.1,m", "films/2.tif,3,m"]
    assert faults(table(films, *rows), age_unit="months") == [
        "readings.csv: row 3 (film films/1.tif): bone age is 14.1, the largest of all; expected "
        "months, and this column's median is 10.6. Is it in years? Pass --age-unit years."
    ]


def test_a_column_of_whole_years_imported_as_months(films: Path) -> None:
    (fault,) = faults(table(films, *(f"films/{i}.tif,{i},m" for i in range(18))), age_unit="months")
    assert "bone age is 17, the largest of all" in fault


def test_infants_are_imported_when_the_unit_leaves_no_doubt(films: Path) -> None:
    manifest = imported(table(films, "films/0.tif,0.5,f", "films/1.tif,1.25,m"))
    assert manifest.table["age_months"].tolist() == [6.0, 15.0]
    assert set(manifest.table["source"]) == {"readings, infants, seeded split"}
    assert manifest.notes == (
        "No age passes 15 months: infants all, since bone age is in years as --age-unit says.",
    )
    assert read_manifest(manifest.path).table.equals(manifest.table)


def test_months_imported_as_years(films: Path) -> None:
    assert faults(table(films, *YEARS, "films/0,126,f"))[1] == (
        "readings.csv: row 32 (film films/0): bone age is 126; expected years from 0 to 20, and "
        "this column's median is 9. Is it in months? Pass --age-unit months; else correct the "
        "label."
    )
    rows = [f"films/{i}.tif,{60 + 3 * i},f" for i in range(30)]
    found = faults(table(films, *rows))
    assert len(found) == 1
    assert "30 rows" in found[0]
    assert "bone age is 60, and 29 others likewise" in found[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("films/5.tif,9,F", "row 3 (film films/5.tif): Geschlecht is 'F'; expected 'f' (--female)"),
        ("films/5.tif,9,", "Geschlecht is empty; expected 'f' (--female) or 'm' (--male)"),
        ('films/5.tif,"1,250",f', "bone age is '1,250'; expected a number of years"),
        ("films/5.tif,,f", "bone age is empty"),
        ("films/5.tif,20.5,f", "bone age is 20.5; expected years from 0 to 20"),
        ("films/99.tif,9,f", "there is no image films/99.tif; expected one image of that path"),
        (",9,f", "film is empty"),
        ("films/0.tif,9,f", "film films/0.tif stands in row 2 already"),
        ("films/../films/0.tif,9,f", "film films/../films/0.tif stands in row 2 already"),
        (f"{'x' * 5000},9,f", "there is no image xxx"),
        ("films/5.tif,9", "it has 2 fields; expected 3"),
    ],
)
def test_a_wrong_row_is_one_clear_message(films: Path, row: str, message: str) -> None:
    found = faults(table(films, "films/0.tif,8,f", row))
    assert len(found) == 1
    assert message in found[0]


def test_all_faults_come_at_once(films: Path) -> None:
    found = faults(table(films, "films/0.tif,8,x", "films/77.tif,126,f", "films/2.tif,old,m"))
    assert len(found) == 4


def test_columns_that_are_not_there_are_named_with_their_options(films: Path) -> None:
    file = table(films, *YEARS)
    found = faults(file, age="Bone Age", sex="sex", patient="pid")
    assert "readings.csv (--age Bone Age): there is no column 'Bone Age'" in found[0]
    assert found[0].endswith("Did you mean 'bone age'?")
    assert "(--sex sex): there is no column 'sex'; expected it among film, bone age" in found[1]
    assert "(--patient pid)" in found[2]


def test_wrong_options_are_named_together(films: Path) -> None:
    found = faults(table(films, *YEARS), age_unit="year", male="f", image_root=films / "none")
    assert "--age-unit: unknown unit 'year'" in found[0]
    assert "Did you mean 'years'?" in found[0]
    assert "--female and --male: both are 'f'" in found[1]
    assert "--image-root: there is no folder" in found[2]


def test_an_image_root_and_names_without_suffix(films: Path) -> None:
    rows = [f"{i},{1.5 + i / 2},f" for i in range(30)]
    manifest = imported(table(films, *rows), image_root=films / "films")
    assert manifest.image_paths()[3] == (films / "films" / "3.tif").resolve()
    (films / "films" / "3.png").touch()
    found = faults_again(table(films, *rows), image_root=films / "films")
    assert "row 5 (film 3): 2 files may be meant by 3: 3.png, 3.tif" in found[0]


def faults_again(file: Path, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        imported(file, **options)
    return [str(fault) for fault in caught.value.faults]


def test_equal_names_in_two_folders_keep_their_folder_in_the_id(films: Path) -> None:
    (films / "more").mkdir()
    (films / "more" / "0.tif").touch()
    manifest = imported(table(films, "films/0.tif,8,f", "more/0.tif,9,m"))
    assert manifest.table["image_id"].tolist() == ["films/0", "more/0"]


def test_patients_stay_together(films: Path) -> None:
    rows = [f"{row},p{i % 12}" for i, row in enumerate(YEARS)]
    file = table(films, *rows, header="film,bone age,Geschlecht,pid")
    result = imported(file, patient="pid").table
    assert len(result[["patient_id", "split"]].drop_duplicates()) == 12


def test_a_split_column_is_kept_and_checked(films: Path) -> None:
    header = "film,bone age,Geschlecht,pid,fold"
    words = ["training", "Validation", "test"]
    rows = [f"{row},p{i},{words[i % 3]}" for i, row in enumerate(YEARS)]
    manifest = imported(table(films, *rows, header=header), split="fold")
    assert manifest.table["split"].tolist() == ["train", "val", "test"] * 10
    assert set(manifest.table["source"]) == {"readings"}


def test_a_patient_in_two_splits_and_an_unknown_split(films: Path) -> None:
    rows = [f"{YEARS[0]},ann,train", f"{YEARS[1]},ann,test", f"{YEARS[2]},ben,3"]
    file = table(films, *rows, header="film,bone age,Geschlecht,pid,split")
    found = faults(file, patient="pid", split="split")
    assert "row 4 (film films/2.tif): split is '3'; expected train, val or test" in found[0]
    assert "row 2 (film films/0.tif): patient ann is in test and train" in found[1]


def test_an_empty_table_and_one_that_is_not_there(films: Path) -> None:
    assert "it has a header and no rows" in faults(table(films))[0]
    assert "there is no such file" in faults(films / "none.csv")[0]
