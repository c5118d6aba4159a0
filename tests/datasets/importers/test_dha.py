from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.importers.dha import import_dha
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import InputError

GROUPS = [f"{race}{sex}" for race in ("ASI", "BLK", "CAU", "HIS") for sex in "FM"]
YEARS = (0, 2, 5, 9, 13, 18)
HEADER = "number,sex,chronological_age,reading_1,reading_2"
READINGS = "number,reading_1,reading_2"
# Group, year and number of every radiograph of the miniature.
RADIOGRAPHS = [
    (group, year, f"{5000 + 100 * g + year}") for g, group in enumerate(GROUPS) for year in YEARS
]


def row(group: str, year: int, number: str, unit: int = 1) -> str:
    """Decimal years, as the atlas has them, or months."""
    born, first, second = year + 0.4, year + 0.3, year + 0.9
    return f"{number},{group[3]},{born * unit:g},{first * unit:g},{second * unit:g}"


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dha")
    for group, year, number in RADIOGRAPHS:
        folder = root / "atlas" / group / f"{group}{year:02d}"
        folder.mkdir(parents=True)
        assert cv2.imwrite(str(folder / f"{number}.jpg"), np.full((9, 9), year, np.uint8))
    write(root, *(row(*radiograph) for radiograph in RADIOGRAPHS))
    return root


@pytest.fixture
def atlas(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "dha"))


def write(root: Path, *rows: str, header: str = HEADER) -> None:
    (root / "readings.csv").write_text("\n".join([header, *rows]) + "\n")


def edit(root: Path, number: str, line: str) -> None:
    path = root / "readings.csv"
    lines = path.read_text().splitlines()
    assert any(text.startswith(f"{number},") for text in lines)
    path.write_text("\n".join(line if t.startswith(f"{number},") else t for t in lines) + "\n")


def run(root: Path, **options: object) -> Manifest:
    out = root / "out" / "manifest.csv"
    options = {"readings": root / "readings.csv", "readings_unit": "years"} | options
    return import_dha(root / "atlas", out, progress=False, **options)  # type: ignore[arg-type]


def faults(root: Path, **options: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(root, **options)
    assert not (root / "out").exists(), "something was written though there are faults"
    return [str(fault) for fault in caught.value.faults]


def test_the_atlas_is_imported_with_the_mean_of_two_readings(atlas: Path) -> None:
    other, again, manifest = run(atlas, seed=1), run(atlas), run(atlas)
    assert manifest.digest == again.digest != other.digest
    table = manifest.table.set_index("image_id")
    assert table["split"].value_counts().to_dict() == {"train": 38, "val": 5, "test": 5}
    child = table.loc["dha-5102"]
    assert (child["sex"], child["race"], child["source"]) == ("M", "ASI", "dha, seeded split")
    assert child["age_months"] == pytest.approx(12 * 2.6)
    assert (child["reading_1_months"], child["reading_2_months"]) == ("27.6", "34.8")
    assert child["chronological_age_months"] == pytest.approx(28.8)
    assert set(table["race"]) == {"ASI", "BLK", "CAU", "HIS"}
    assert read_manifest(manifest.path).table.equals(manifest.table)
    assert manifest.image_paths()[0] == atlas.resolve() / "atlas/ASIF/ASIF00/5000.jpg"
    assert "48 radiographs with two readings; the atlas has about 1,390." in manifest.notes
    assert any("this split is seeded (seed 0)" in note for note in manifest.notes)
    assert any("There is no patient column" in note for note in manifest.notes)


def test_patients_excel_tables_and_numbers_as_paths(atlas: Path) -> None:
    folder = atlas / "atlas" / "ASIF"
    (folder / "ASIF02" / "5002.jpg").rename(folder / "ASIF02" / "05002.JPG")
    (folder / "ASIF05").rename(folder / "asif05")
    wrong = "JPEGimages/ASIF/ASIF05/5009.jpg"  # 5009 is in ASIF09
    rows = [
        row(group, year, f"JPEGimages/{group}/{group}{year:02d}/{n}.jpg") + f",p{i // 8}{group[3]}"
        for i, (group, year, n) in enumerate(RADIOGRAPHS)
    ]
    write(atlas, *rows, row("ASIF", 5, wrong) + ",p0F", header=HEADER + ",patient_id")
    pd.read_csv(atlas / "readings.csv").to_excel(atlas / "readings.xlsx", index=False)
    manifest = run(atlas, readings=atlas / "readings.xlsx")
    assert len(manifest) == 48
    assert "05002.JPG" in {path.name for path in manifest.image_paths()}
    assert len(manifest.table[["patient_id", "split"]].drop_duplicates()) == 12
    note = f"1 rows of readings.xlsx have no radiograph and are left out ({wrong})."
    assert note in manifest.notes


@pytest.mark.parametrize(("unit", "factor"), [("years", 1), ("months", 12)])
def test_the_unit_is_given_and_compared_with_the_age_folders(
    atlas: Path, unit: str, factor: int
) -> None:
    write(atlas, *(row(*radiograph, factor) for radiograph in RADIOGRAPHS))
    table = run(atlas, readings_unit=unit).table
    assert table["age_months"].iloc[1] == pytest.approx(12 * 2.6)
    assert table["chronological_age_months"].iloc[1] == pytest.approx(28.8)
    shutil.rmtree(atlas / "out")
    other = "months" if unit == "years" else "years"
    found = faults(atlas, readings_unit=other, chronological_unit=unit)
    assert sum("years from the age folders in the median" in text for text in found) == 2
    assert "Pass months or years." in faults(atlas, readings_unit="month")[0]


def test_columns_of_any_name_are_named_by_options(atlas: Path) -> None:
    rows = [f"{number}.jpg;{year}.5;{year}.7;{year}.1" for _, year, number in RADIOGRAPHS]
    write(atlas, *rows, header="Bild;Erste;Zweite;Alter")
    text = "\n".join(faults(atlas))
    for option in ("--number", "--reading-1", "--reading-2"):
        assert f"If it has another name, pass it with {option}." in text
    columns = {"number": "Bild", "reading_1": "Erste", "reading_2": "Zweite"}
    assert "(--sex Geschlecht): there is no column" in faults(atlas, **columns, sex="Geschlecht")[0]
    twice = columns | {"reading_2": "Erste"}
    assert "is used for --reading-1 and --reading-2" in faults(atlas, **twice)[0]
    notes = run(atlas, **columns).notes
    assert any("Columns that are not used: Alter." in note for note in notes)
    manifest = run(atlas, **columns, chronological="Alter")
    assert manifest.table["chronological_age_months"].iloc[1] == pytest.approx(25.2)


def test_a_table_as_a_german_spreadsheet_saves_it(atlas: Path) -> None:
    words = {"F": "weiblich", "M": "m\u00e4nnlich"}
    rows = [
        f"{n}.0;{words[group[3]]};{year},4;{year},5;{year},7;;" for group, year, n in RADIOGRAPHS
    ]
    write(atlas, *rows, header=HEADER.replace(",", ";") + ";;")
    manifest = run(atlas)
    assert manifest.table["age_months"].tolist() == pytest.approx(
        [12 * (year + 0.6) for _, year, _ in RADIOGRAPHS]
    )
    assert "reading_1 was read with decimal commas: 10,5 is 10.5." in manifest.notes
    shutil.rmtree(atlas / "out")
    write(atlas, *rows[1:], rows[0].replace(",5", ",n.b."), header=HEADER.replace(",", ";") + ";;")
    (fault,) = faults(atlas)
    assert "with a decimal comma, like 47 other cells, or nothing" in fault


def test_readings_in_years_and_months(atlas: Path) -> None:
    rows = [f"{n},{group[3]},{year}.05,{year}.05,{year}.11" for group, year, n in RADIOGRAPHS]
    write(atlas, *rows)
    assert "pass --readings-unit years-months" in faults(atlas)[0]
    ages = run(atlas, readings_unit="years-months").table["age_months"]
    assert ages.tolist() == [12 * year + 8 for _, year, _ in RADIOGRAPHS]


def test_what_is_left_out_is_named_and_counted(atlas: Path) -> None:
    group = atlas / "atlas" / "BLKF"
    (group / "BLKF13" / "5213.jpg").unlink()  # a reading without a radiograph
    shutil.copy(group / "BLKF02" / "5202.jpg", group / "BLKF02" / "5999.jpg")  # and the reverse
    (atlas / "atlas" / "logo.png").touch()
    edit(atlas, "5205", "5205,F,5.4,,")
    edit(atlas, "5209", "5209,F,9.4,9.5,")
    edit(atlas, "5218", "5218,F,18.4,18.5,15.5")
    manifest = run(atlas)
    assert len(manifest) == 45
    notes = " ".join(manifest.notes)
    for part in (
        "1 rows of readings.csv have no radiograph and are left out (5213)",
        "1 radiographs have no row in readings.csv and are left out (5999)",
        "1 radiographs have no reading and are left out (5205)",
        "1 radiographs have one reading only and are left out (5209)",
        "1 radiographs have readings more than 24 months apart",
        "1 images are not in a folder of race, sex and age",
    ):
        assert part in notes


def test_wrong_folders_are_refused(atlas: Path) -> None:
    root = atlas / "atlas"
    shutil.copy(root / "ASIF/ASIF02/5002.jpg", root / "HISM/HISM02/5002.jpg")
    shutil.copy(root / "ASIF/ASIF05/5005.jpg", root / "ASIF/ASIF05/5005.png")
    (root / "CAUF" / "CAUF09").rename(root / "CAUM" / "CAUF09")
    first, second, *_ = faults(atlas)
    assert "the folder CAUF09 is in CAUM. Find out which" in first
    assert "2 numbers belong to several radiographs (ASIF/ASIF02/5002.jpg, HISM/HISM02" in second


def test_sexes_are_compared_with_the_folders(atlas: Path) -> None:
    edit(atlas, "5002", "5002,Male,2.4,2.3,2.9")
    edit(atlas, "5005", "5005,X,5.4,5.3,5.9")
    edit(atlas, "5009", "5009,,9.4,9.3,9.9")
    first, second = faults(atlas)
    assert "sex is 'X'; expected M or F" in first
    assert "row 3 (number 5002): sex is 'Male', but the radiograph is ASIF02/5002.jpg" in second


@pytest.mark.parametrize(("born", "count"), [(9.4, 1), (3.9, 0), (1.2, 0), (0.9, 1)])
def test_ages_are_compared_with_the_folders(atlas: Path, born: float, count: int) -> None:
    edit(atlas, "5002", f"5002,F,{born},2.3,2.9")
    if count:
        [text] = faults(atlas)
        assert f"chronological_age is {born} ({born} years), but the radiograph is ASIF02" in text
    else:
        assert len(run(atlas)) == 48


def test_all_faults_of_the_readings_come_at_once(atlas: Path) -> None:
    edit(atlas, "5002", "5002,F,2.4,2y6m,2.9")
    edit(atlas, "5005", "5005,F,soon,5.5,5.5")
    edit(atlas, "5009", "5009,F,9.4,25.5,9.9")
    edit(atlas, "5013", "05013.jpg,F,13.4,13.5,-1\n5013,F,13.4,13.5,13.5\n,F,1,1,1")
    text = "\n".join(faults(atlas))
    for part in (
        "row 3 (number 5002): reading_1 is '2y6m'; expected a number of years, or nothing",
        "row 4 (number 5005): chronological_age is 'soon'",
        "row 5 (number 5009): reading_1 is 25.5; expected years from 0 to 20",
        "reading_2 is -1;",
        "number 5013 is already in row 6",
        "number is empty",
    ):
        assert part in text
    assert len(text.splitlines()) == 6


def test_readings_of_another_numbering_are_refused(atlas: Path) -> None:
    write(atlas, *(row(group, year, f"la_dha_{n}.png") for group, year, n in RADIOGRAPHS))
    [text] = faults(atlas)
    assert "none of its 48 rows has two readings and a radiograph" in text
    assert "the atlas's own numbers, such as 5000, 5002" in text


def test_another_layout_is_refused(atlas: Path) -> None:
    assert "there is no such file" in faults(atlas, readings=atlas / "none.csv")[0]
    (atlas / "atlas").rename(atlas / "moved")
    assert "there is no such folder" in faults(atlas)[0]
    (atlas / "atlas" / "ASIF19").mkdir(parents=True)
    (atlas / "atlas" / "ASIF19" / "1.jpg").touch()
    [text] = faults(atlas)
    assert "none of its 1 images is in a folder of race, sex and age; expected ASIF/ASIF02" in text
