from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.importers.dha import import_dha
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import InputError
from boneage.radiographs.reader import read_radiograph

GROUPS = [f"{race}{sex}" for race in ("ASI", "BLK", "CAU", "HIS") for sex in "FM"]
YEARS = (0, 2, 5, 9, 13, 18)
HEADER = "number,sex,chronological_age,reading_1,reading_2"


def radiographs() -> list[tuple[str, int, str]]:
    """Group, year and number of every radiograph of the miniature."""
    return [
        (group, year, f"{5000 + 100 * g + year}")
        for g, group in enumerate(GROUPS)
        for year in YEARS
    ]


def row(group: str, year: int, number: str, unit: int = 1) -> str:
    """Decimal years, as the atlas has them, or months."""
    born, first, second = year + 0.4, year + 0.3, year + 0.9
    return f"{number},{group[3]},{born * unit:g},{first * unit:g},{second * unit:g}"


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a test that spoils it copies it first."""
    root = tmp_path_factory.mktemp("dha")
    for i, (group, year, number) in enumerate(radiographs()):
        folder = root / "atlas" / "DHA_Original" / group / f"{group}{year:02d}"
        folder.mkdir(parents=True)
        hand = draw_hand(
            12.0 * year + 6, "F" if group[3] == "F" else "M", rng=np.random.default_rng(i), size=64
        )
        assert cv2.imwrite(str(folder / f"{number}.jpg"), hand)
    lines = [HEADER, *(row(*radiograph) for radiograph in radiographs())]
    (root / "readings.csv").write_text("\n".join(lines) + "\n")
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
    options.setdefault("readings", root / "readings.csv")
    return import_dha(root / "atlas", out, progress=False, **options)  # type: ignore[arg-type]


def faults(root: Path, **options: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(root, **options)
    assert not (root / "out").exists(), "something was written though there are faults"
    return [str(fault) for fault in caught.value.faults]


def test_the_atlas_is_imported_with_the_mean_of_two_readings(atlas: Path) -> None:
    manifest = run(atlas)
    table = manifest.table.set_index("image_id")
    assert len(table) == 48
    child = table.loc["dha-5102"]
    assert (child["sex"], child["race"], child["source"]) == ("M", "ASI", "dha, seeded split")
    assert child["age_months"] == pytest.approx(12 * 2.6)
    assert (child["reading_1_months"], child["reading_2_months"]) == ("27.6", "34.8")
    assert child["chronological_age_months"] == pytest.approx(28.8)
    assert set(table["race"]) == {"ASI", "BLK", "CAU", "HIS"}
    assert read_manifest(manifest.path).table.equals(manifest.table)
    path = manifest.image_paths()[0]
    assert path == atlas.resolve() / "atlas/DHA_Original/ASIF/ASIF00/5000.jpg"
    assert read_radiograph(path).shape == (64, 64)


def test_the_split_is_seeded_and_said_to_be(atlas: Path) -> None:
    one, other, again = (run(atlas, seed=seed) for seed in (0, 1, 0))
    assert one.digest == again.digest != other.digest
    assert one.table["split"].value_counts().to_dict() == {"train": 38, "val": 5, "test": 5}
    assert any("no official split: this one is seeded (seed 0)" in note for note in one.notes)
    assert "48 radiographs with two readings; the atlas has about 1,390 radiographs." in one.notes


def test_images_of_a_patient_share_a_split(atlas: Path) -> None:
    rows = [f"{row(*radiograph)},p{i // 4}" for i, radiograph in enumerate(radiographs())]
    write(atlas, *rows, header=HEADER + ",patient_id")
    table = run(atlas).table
    assert table["patient_id"].nunique() == 12
    assert len(table[["patient_id", "split"]].drop_duplicates()) == 12
    assert not any("tells patients apart" in note for note in run(atlas).notes)


@pytest.mark.parametrize(
    ("unit", "factor", "header"),
    [
        (None, 1, HEADER),
        (None, 12, HEADER),
        ("years", 1, HEADER),
        ("months", 12, HEADER),
        (None, 12, "ID,Gender,Chronological age (months),Reading 1 (months),Reading 2 (months)"),
        (None, 1, "Image,Sex,Chron Age (yrs),Reader1_years,Reader2_years"),
    ],
)
def test_the_unit_is_that_of_option_header_or_age_folders(
    atlas: Path, unit: str | None, factor: int, header: str
) -> None:
    write(atlas, *(row(*radiograph, factor) for radiograph in radiographs()), header=header)
    manifest = run(atlas, readings_unit=unit, chronological_unit=unit)
    assert manifest.table["age_months"].iloc[1] == pytest.approx(12 * 2.6)
    assert manifest.table["chronological_age_months"].iloc[1] == pytest.approx(28.8)
    told = [note for note in manifest.notes if "are taken to be in" in note]
    assert len(told) == (3 if unit is None and header == HEADER else 0)
    if told:
        unit_told = "years" if factor == 1 else "months"
        assert told[0].startswith(f"The readings in reading_1 are taken to be in {unit_told}:")
        assert told[2].startswith(
            f"The ages since birth in chronological_age are taken to be in {unit_told}"
        )


def test_readings_and_ages_may_have_different_units(atlas: Path) -> None:
    rows = [f"{n},{12 * year + 5},{year + 0.3},{year + 0.5}" for _, year, n in radiographs()]
    write(atlas, *rows, header="number,chronological_age,reading_1,reading_2")
    table = run(atlas).table
    assert table["age_months"].iloc[5] == pytest.approx(12 * 18.4)
    assert table["chronological_age_months"].iloc[5] == 12 * 18 + 5


@pytest.mark.parametrize(
    "header",
    [
        "number,Reading 1 (years),Reading 2 (months)",
        "number,reading_1,reading_2",
        "number,reading_1,Reading 2 (months)",
    ],
)
def test_the_two_readings_may_have_different_units(atlas: Path, header: str) -> None:
    rows = [f"{n},{year + 0.3},{12 * year + 6}" for _, year, n in radiographs()]
    write(atlas, *rows, header=header)
    table = run(atlas).table
    assert table["reading_1_months"].iloc[5] == "219.6"
    assert table["reading_2_months"].iloc[5] == "222"
    assert table["age_months"].iloc[5] == pytest.approx((219.6 + 222) / 2)


@pytest.mark.parametrize("unit", ["years", "months"])
def test_one_unit_for_readings_of_two_is_refused(atlas: Path, unit: str) -> None:
    rows = [f"{n},{year + 0.3},{12 * year + 6}" for _, year, n in radiographs()]
    write(atlas, *rows, header="number,reading_1,reading_2")
    found = faults(atlas, readings_unit=unit)
    assert len(found) == 1
    assert f"would be in {unit}, as --readings-unit says" in found[0]
    write(atlas, *rows, header="number,Reading 1 (years),Reading 2 (months)")
    found = faults(atlas, readings_unit=unit)
    assert len(found) == 1
    assert f"as the header says, and not in {unit}, as --readings-unit says" in found[0]


def test_a_reading_whose_unit_alone_cannot_be_told_is_refused(atlas: Path) -> None:
    rows = [f"{n},{year + 0.3},60" for _, year, n in radiographs()]
    write(atlas, *rows, header="number,reading_1,reading_2")
    found = faults(atlas)
    assert len(found) == 1
    assert "the unit of the readings in reading_2 can't be told" in found[0]


def test_a_unit_that_cannot_be_told_must_be_given(atlas: Path) -> None:
    header = "number,reading_1,reading_2"
    write(atlas, *(f"{number},60,60" for *_, number in radiographs()), header=header)
    found = faults(atlas)
    assert len(found) == 2
    assert "the unit of the readings in reading_1 can't be told" in found[0]
    assert "the unit of the readings in reading_2 can't be told" in found[1]
    assert "Pass --readings-unit to say it." in found[0]
    assert len(run(atlas, readings_unit="months")) == 48


def test_too_few_readings_to_tell_the_unit(atlas: Path) -> None:
    write(atlas, "5002,2.3,2.5", header="number,reading_1,reading_2")
    assert "too few of the readings in reading_1" in faults(atlas)[0]


@pytest.mark.parametrize(
    ("factor", "unit", "header"),
    [
        (1, "months", HEADER),
        (12, "years", HEADER),
        (12, None, "number,sex,chronological_age,reading_1_years,reading_2_years"),
    ],
)
def test_a_unit_that_the_age_folders_gainsay_is_refused(
    atlas: Path, factor: int, unit: str | None, header: str
) -> None:
    write(atlas, *(row(*radiograph, factor) for radiograph in radiographs()), header=header)
    right = "years" if factor == 1 else "months"
    fix = "Correct the header." if unit is None else f"Pass --readings-unit {right}."
    found = faults(atlas, readings_unit=unit)
    assert sum(fix in fault for fault in found) == 2  # of each reading


def test_an_unknown_unit_is_refused(atlas: Path) -> None:
    assert "Did you mean 'months'?" in faults(atlas, readings_unit="month")[0]


def test_columns_of_any_name_are_taken_as_told(atlas: Path) -> None:
    rows = [f"{number}.jpg;{year}.5;{year}.7;{year}.1" for _, year, number in radiographs()]
    write(atlas, *rows, header="Bild;Erste;Zweite;Alter")
    with pytest.raises(InputError, match=r"name it with --number.*\n.*--reading-1"):
        run(atlas)
    columns = {"number": "Bild", "reading_1": "Erste", "reading_2": "Zweite"}
    manifest = run(atlas, **columns, chronological="Alter", readings_unit="years")
    assert manifest.table["chronological_age_months"].iloc[1] == pytest.approx(25.2)
    found = faults(
        Path(shutil.copytree(atlas / "atlas", atlas / "new" / "atlas")).parent,
        readings=atlas / "readings.csv",
        **columns,
        sex="Geschlecht",
    )
    assert "(--sex Geschlecht): there is no column 'Geschlecht'" in found[0]
    columns["reading_2"] = "Erste"
    assert (
        "column 'Erste' is taken for --reading-1 and --reading-2"
        in faults(atlas / "new", readings=atlas / "readings.csv", **columns)[0]
    )


def test_an_excel_table_is_read(atlas: Path) -> None:
    frame = pd.read_csv(atlas / "readings.csv")
    frame.to_excel(atlas / "readings.xlsx", index=False)
    manifest = run(atlas, readings=atlas / "readings.xlsx")
    assert manifest.table["age_months"].iloc[1] == pytest.approx(31.2)


def test_numbers_may_be_paths_with_folders(atlas: Path) -> None:
    rows = []
    for group, year, number in radiographs():
        rows.append(row(group, year, f"JPEGimages/{group}/{group}{year:02d}/{number}.jpg"))
    write(atlas, *rows)
    assert len(run(atlas)) == 48


def test_a_path_of_another_folder_keeps_a_reading_off_the_wrong_radiograph(atlas: Path) -> None:
    line = row("ASIF", 5, "JPEGimages/ASIF/ASIF05/5009.jpg")  # 5009 is in ASIF09
    write(atlas, *(row(*radiograph) for radiograph in radiographs()), line)
    manifest = run(atlas)
    assert len(manifest) == 48
    assert any(
        "1 rows of readings.csv have no radiograph and are left out (JPEGimages/ASIF/ASIF05/5009.jpg)"
        in note
        for note in manifest.notes
    )


def test_radiographs_and_folders_in_other_spellings(atlas: Path) -> None:
    folder = atlas / "atlas" / "DHA_Original" / "ASIF"
    (folder / "ASIF02" / "5002.jpg").rename(folder / "ASIF02" / "05002.JPG")
    (folder / "ASIF05").rename(folder / "asif05")
    (folder / "asif05" / "5005.jpg").rename(folder / "asif05" / "5005.png")
    (atlas / "atlas" / "DHA_Original").rename(atlas / "atlas" / "JPEGimages")
    manifest = run(atlas)
    assert len(manifest) == 48
    assert {path.name for path in manifest.image_paths()} >= {"05002.JPG", "5005.png"}


def test_what_is_left_out_is_named_and_counted(atlas: Path) -> None:
    group = atlas / "atlas" / "DHA_Original" / "BLKF"
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
        "1 radiographs have readings more than 24 months apart: look whether one is mistyped (5218)",
        "1 images are not in a folder of race, sex and age, such as ASIF02",
        "No column tells patients apart",
    ):
        assert part in notes


def test_a_number_in_two_folders_is_refused(atlas: Path) -> None:
    root = atlas / "atlas" / "DHA_Original"
    shutil.copy(root / "ASIF/ASIF02/5002.jpg", root / "HISM/HISM02/5002.jpg")
    shutil.copy(root / "ASIF/ASIF05/5005.jpg", root / "ASIF/ASIF05/5005.png")
    found = faults(atlas)
    assert len(found) == 2
    assert "2 radiographs have number 5002: DHA_Original/ASIF/ASIF02/5002.jpg, DHA_Orig" in found[0]
    assert "2 radiographs have number 5005" in found[1]


def test_two_copies_of_the_atlas_are_one_fault(atlas: Path) -> None:
    shutil.copytree(atlas / "atlas" / "DHA_Original", atlas / "atlas" / "copy")
    found = faults(atlas)
    assert len(found) == 1
    assert "48 numbers are those of several films" in found[0]


def test_folders_that_contradict_each_other_are_refused(atlas: Path) -> None:
    root = atlas / "atlas" / "DHA_Original"
    (root / "ASIF" / "ASIF02").rename(root / "ASIM" / "ASIF02")
    assert "the folder ASIF02 is in ASIM; expected ASIF02 in ASIF" in faults(atlas)[0]


def test_a_sex_unlike_the_folder_and_one_that_is_none_are_refused(atlas: Path) -> None:
    edit(atlas, "5002", "5002,Male,2.4,2.3,2.9")
    edit(atlas, "5005", "5005,X,5.4,5.3,5.9")
    edit(atlas, "5009", "5009,,9.4,9.3,9.9")
    found = faults(atlas)
    assert len(found) == 2
    assert "sex is 'X'; expected M or F" in found[0]
    assert "row 3 (number 5002): sex is 'Male', and the radiograph is ASIF02/5002.jpg" in found[1]


def test_a_sex_in_codes_that_nothing_explains_is_not_compared_and_said_so(atlas: Path) -> None:
    path = atlas / "readings.csv"
    path.write_text(path.read_text().replace(",F,", ",2,").replace(",M,", ",1,"))
    manifest = run(atlas)
    assert any("Column sex ('2') is not compared" in note for note in manifest.notes)
    assert manifest.table["sex"].tolist()[0] == "F"


@pytest.mark.parametrize(("born", "refused"), [(9.4, 2), (3.9, 1), (2.99, 0), (1.2, 1), (0.9, 2)])
def test_an_age_that_is_not_of_the_folder(atlas: Path, born: float, refused: int) -> None:
    edit(atlas, "5002", f"5002,F,{born},2.3,2.9")
    if refused == 2:
        found = faults(atlas)
        assert len(found) == 1
        assert (
            f"chronological_age is {born} ({born} years), and the radiograph is ASIF02" in found[0]
        )
    else:
        notes = [note for note in run(atlas).notes if "outside that of their folder" in note]
        assert len(notes) == refused


def test_all_faults_of_the_readings_come_at_once(atlas: Path) -> None:
    edit(atlas, "5002", "5002,F,2.4,2y6m,2.9")
    edit(atlas, "5005", "5005,F,soon,5.5,5.5")
    edit(atlas, "5009", "5009,F,9.4,25.5,9.9")
    edit(atlas, "5013", "05013.jpg,F,13.4,13.5,-1\n5013,F,13.4,13.5,13.5\n,F,1,1,1")
    text = "\n".join(faults(atlas))
    for part in (
        "row 3 (number 5002): reading_1 is '2y6m'; expected a number of years, or nothing",
        "row 4 (number 5005): chronological_age is 'soon'",
        "row 5 (number 5009): reading_1 is 25.5 years; expected 0 to 20 years",
        "reading_2 is -1 years",
        "number 5013 stands in row 6 already",
        "number is empty",
    ):
        assert part in text
    assert len(text.splitlines()) == 6


def test_a_table_without_a_header_is_told(atlas: Path) -> None:
    path = atlas / "readings.csv"
    path.write_text("\n".join(path.read_text().replace(",F,", ".jpg,F,").splitlines()[1:]))
    found = faults(atlas)
    assert len(found) == 1
    assert "its first line is a row, not a header (5000.jpg, F, 0.4, …)" in found[0]


def test_readings_of_another_numbering_are_refused(atlas: Path) -> None:
    write(atlas, *(row(group, year, f"la_dha_{n}.png") for group, year, n in radiographs()))
    found = faults(atlas)
    assert len(found) == 1
    assert "none of its 48 rows has two readings and a radiograph (la_dha_5000" in found[0]


def test_infants_alone_are_not_taken_for_years(atlas: Path) -> None:
    for folder in (atlas / "atlas" / "DHA_Original").glob("*/*"):
        if not folder.name.endswith("00"):
            shutil.rmtree(folder)
    assert "the unit of the readings in reading_2 can't be told" in faults(atlas)[0]
    table = run(atlas, readings_unit="years").table
    assert len(table) == 8
    assert table["age_months"].max() == pytest.approx(7.2)


def test_a_folder_that_is_no_atlas(atlas: Path) -> None:
    assert "there is no such folder" in faults(atlas / "none", readings=atlas / "readings.csv")[0]
    shutil.rmtree(atlas / "atlas" / "DHA_Original")
    (atlas / "atlas" / "ASIF19").mkdir()
    (atlas / "atlas" / "ASIF19" / "1.jpg").touch()
    assert "none of its 1 images is in a folder of race, sex and age" in faults(atlas)[0]


def test_a_table_that_is_not_there(atlas: Path) -> None:
    assert "there is no such file" in faults(atlas, readings=atlas / "none.csv")[0]
