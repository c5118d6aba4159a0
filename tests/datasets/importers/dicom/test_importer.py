from __future__ import annotations

import csv
import io
import stat
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import config
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian

from boneage.datasets.importers.dicom import import_dicom
from boneage.datasets.importers.path_disclosure import Identity, disclosures
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import InputError
from boneage.radiographs.reader import read_radiograph

HAND = draw_hand(120, "F", rng=np.random.default_rng(0), size=64).astype(np.uint16) * 16
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
UID = "1.2.826.0.1.3680043.10.999"
DEFAULTS = {
    "StudyDate": "20190822",
    "AcquisitionDate": "20190822",
    "Modality": "CR",
    "BodyPartExamined": "HAND",
    "PatientSex": "F",
    "PatientBirthDate": "20080317",
    "PatientName": "Zwiebelmeyer^Ottokar",
}
HEADER = "SOPInstanceUID,bone age"


def dicom(path: Path, number: int, **values: object) -> Path:
    """A radiograph with a phantom's pixels; None leaves an element out."""
    filled: dict[str, object] = {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": f"{UID}.{number}",
        "StudyInstanceUID": f"{UID}.7.{number}",
        "AccessionNumber": f"ACC{number:05d}",
        "PatientID": f"PAT{number:05d}",
        **DEFAULTS,
        **values,
    }
    dataset = Dataset()
    for keyword, value in filled.items():
        if value is not None:
            put(dataset, keyword, value)
    dataset.Rows, dataset.Columns = HAND.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = HAND.tobytes()
    return save(dataset, path)


def put(dataset: Dataset, keyword: str, value: object) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = DicomDictionary[tag][0]
    if vr == "IS" and not str(value).isdigit():
        vr = "LO"  # pydicom refuses to write words as a number
    dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)


def save(dataset: Dataset, path: Path, storage: str = COMPUTED_RADIOGRAPHY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or f"{UID}.1"
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("exported")
    return [dicom(folder / "film", number).read_bytes() for number in range(20)]


@pytest.fixture
def pacs(tmp_path: Path, exported: list[bytes]) -> Path:
    """Twenty radiographs of twenty children, in folders as they come off a disc."""
    for number, content in enumerate(exported):
        path = radiograph(tmp_path / "pacs", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "pacs"


def radiograph(pacs: Path, number: int) -> Path:
    return pacs / "DISC" / f"S{number % 3}" / f"IM{number:02d}"


def table(pacs: Path, *rows: str, header: str = HEADER) -> Path:
    path = pacs.parent / "ages.csv"
    path.write_text("\n".join([header, *rows]))
    return path


ROWS = [f"{UID}.{number},{40 + 9 * number}" for number in range(20)]


def imported(pacs: Path, *rows: str, header: str = HEADER, **options: Any) -> Manifest:
    chosen = {"age": "bone age", "age_unit": "months", "progress": False, **options}
    out = chosen.pop("out", pacs.parent / "cohort" / "manifest.csv")
    paths = chosen.pop("paths", [pacs])
    return import_dicom(paths, out, ages=table(pacs, *(rows or ROWS), header=header), **chosen)


def faults(pacs: Path, *rows: str, header: str = HEADER, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        imported(pacs, *rows, header=header, **options)
    assert not [p for p in (pacs.parent / "cohort").rglob("*") if p.is_file()], "something was left"
    return [str(fault).replace(f"{pacs.parent}/", "") for fault in caught.value.faults]


def note(manifest: Manifest, start: str) -> str:
    (found,) = [text for text in manifest.notes if text.startswith(start)]
    return found


def test_a_folder_and_a_table_become_a_manifest(pacs: Path) -> None:
    manifest = imported(pacs)
    result = manifest.table
    assert sorted(result["age_months"]) == [40.0 + 9 * number for number in range(20)]
    assert set(result["sex"]) == {"F"}
    assert set(result["source"]) == {"dicom, seeded split"}
    assert result["split"].value_counts().to_dict() == {"train": 16, "val": 2, "test": 2}
    assert set(result["chronological_age_months"]) == {137.0}  # 11 years, 5 months and 5 days
    assert result["patient_id"].is_unique
    assert result["image_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert result["image_id"].is_monotonic_increasing
    by_age = {
        row.age_months: path
        for row, path in zip(result.itertuples(), manifest.image_paths(), strict=True)
    }
    assert by_age[40.0] == radiograph(pacs, 0)
    assert read_manifest(manifest.path).table.equals(result)


def test_copies_hold_the_pixels_and_nothing_else(pacs: Path) -> None:
    manifest = imported(pacs, radiographs=pacs.parent / "films")
    assert manifest.table["image"][0] == f"../films/{manifest.table['image_id'][0]}.png"
    assert len(list((pacs.parent / "films").iterdir())) == 20
    path = manifest.image_paths()[0]
    np.testing.assert_array_equal(read_radiograph(path), read_radiograph(radiograph(pacs, 0)))
    chunks = [
        path.read_bytes().count(kind) for kind in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf")
    ]
    assert chunks == [0] * 5
    assert not [text for text in manifest.notes if "refers to the DICOM files" in text]


def test_a_second_import_gives_the_same_pseudonyms_and_another_salt_others(pacs: Path) -> None:
    first = imported(pacs)
    salt = first.path.with_name("manifest.csv.salt")
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert "made now" in note(first, "Pseudonyms follow")
    second = imported(pacs)
    assert second.table.equals(first.table)
    assert "made now" not in note(second, "Pseudonyms follow")
    elsewhere = {"out": pacs.parent / "other" / "manifest.csv"}
    other = imported(pacs, **elsewhere)
    assert not set(other.table["patient_id"]) & set(first.table["patient_id"])
    same = imported(pacs, salt=salt, **elsewhere)
    assert list(same.table["patient_id"]) == list(first.table["patient_id"])
    salt.chmod(0o644)
    assert "chmod 600" in note(imported(pacs), f"{salt} can be read by others")


def test_a_salt_must_be_there_and_long_enough(pacs: Path) -> None:
    (found,) = faults(pacs, salt=pacs.parent / "none")
    assert "there is no such file" in found
    (pacs.parent / "short").write_text("secret\n")
    (found,) = faults(pacs, salt=pacs.parent / "short")
    assert "it holds 6 bytes; expected 16 random bytes or more" in found


def test_a_table_in_years_joined_by_accession_in_a_column_of_any_name(pacs: Path) -> None:
    rows = [f"ACC{number:05d};{5 + number / 2}" for number in range(20)]
    manifest = imported(
        pacs,
        *rows,
        header="Auftrag;years",
        join="AccessionNumber",
        join_column="Auftrag",
        age="years",
        age_unit="years",
    )
    assert sorted(manifest.table["age_months"]) == [60.0 + 6 * number for number in range(20)]


@pytest.mark.parametrize("name", ["IM{:02d}", "S{}/IM{:02d}", r"DISC\S{}\IM{:02d}"])
def test_joined_by_file_name_or_path(pacs: Path, name: str) -> None:
    def cell(number: int) -> str:
        return name.format(*([number] if name.count("{") == 1 else [number % 3, number]))

    rows = [f"{cell(number)},{40 + 9 * number}" for number in range(20)]
    assert len(imported(pacs, *rows, header="file,bone age", join="file")) == 20


def test_a_file_name_with_or_without_its_suffix_and_one_that_stands_twice(pacs: Path) -> None:
    for folder in ("a", "b"):
        dicom(pacs / folder / "hand.dcm", 30 + ord(folder), PatientID=folder * 3)
    options = {"header": "path,bone age", "join": "file"}
    manifest = imported(pacs, "a/hand,90", "b/hand.dcm,100", **options)
    assert sorted(manifest.table["age_months"]) == [90, 100]
    (found,) = faults_again(pacs, "hand,90", "b/hand,100", **options)
    assert "ages.csv: row 2: 2 different radiographs have its file name; expected one film" in found


def faults_again(pacs: Path, *rows: str, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        imported(pacs, *rows, out=pacs.parent / "again" / "manifest.csv", **options)
    return [str(fault).replace(f"{pacs.parent}/", "") for fault in caught.value.faults]


def test_a_list_of_files(pacs: Path) -> None:
    listing = pacs.parent / "list.txt"
    listing.write_text(
        "".join(f"{radiograph(pacs, n).relative_to(pacs.parent)}\n\n" for n in range(12))
    )
    assert len(imported(pacs, *ROWS[:12], paths=[], listing=listing)) == 12
    (pacs.parent / "letter.txt").write_text("Dear colleague")
    listing.write_text("letter.txt\npacs/DISC\n")
    (found,) = faults_again(pacs, paths=[], listing=listing)
    assert found.startswith("letter.txt: it is not a DICOM file")
    listing.write_text("letter.txt\nnone\n")
    (found,) = faults_again(pacs, paths=[], listing=listing)
    assert "list.txt: line 2: there is no such file" in found


def test_what_is_no_radiograph_is_counted(pacs: Path) -> None:
    (pacs / "index.html").write_text("<html>")
    (pacs / "empty").touch()
    (pacs / "noise.dcm").write_bytes(np.random.default_rng(1).bytes(5000))
    report = Dataset()
    report.SOPInstanceUID, report.Modality = f"{UID}.900", "SR"
    save(report, pacs / "report.dcm", "1.2.840.10008.5.1.4.1.1.88.11")
    save(Dataset(), pacs / "DICOMDIR", "1.2.840.10008.1.3.10")
    whole = radiograph(pacs, 19).read_bytes()
    (pacs / "cut").write_bytes(whole[:300])
    manifest = imported(pacs, *ROWS[:15])
    assert note(manifest, "Files passed over") == (
        "Files passed over: 3 not DICOM, 1 DICOMDIR, 1 DICOM without a picture (reports, "
        "presentation states), 1 DICOM that can't be read."
    )
    assert "has no row for them: 5 radiographs." in note(manifest, "Left out")


@pytest.mark.parametrize("length", range(0, 600, 37))
def test_a_radiograph_cut_short_is_a_fault_when_a_row_lacks_its_radiograph(
    pacs: Path, length: int
) -> None:
    path = radiograph(pacs, 19)
    path.write_bytes(path.read_bytes()[:length])
    found = faults(pacs)
    assert "ages.csv: row 21: there is no radiograph with its SOPInstanceUID" in found[0]
    assert len(found) == (2 if length >= 132 else 1)


def test_bytes_flipped_in_the_header_never_give_a_traceback(pacs: Path) -> None:
    rng = np.random.default_rng(5)
    path = radiograph(pacs, 3)
    whole = path.read_bytes()
    for _ in range(40):
        damaged = bytearray(whole)
        for position in rng.integers(0, 900, size=6):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(InputError):  # anything else would be a failure
            imported(pacs, *ROWS[3:5], paths=[path, radiograph(pacs, 4)])


def test_copies_are_one_radiograph_and_equal_uids_of_different_radiographs_are_not(
    pacs: Path,
) -> None:
    (pacs / "copy").write_bytes(radiograph(pacs, 4).read_bytes())
    manifest = imported(pacs)
    assert len(manifest) == 20
    assert note(manifest, "Left out, because another").endswith("byte for byte: 1 file.")
    dicom(pacs / "copy", 4, SeriesNumber="2")
    (found,) = faults_again(pacs)
    assert "row 6: 2 different radiographs have the same SOPInstanceUID; expected one film" in found


def test_a_study_of_several_radiographs_needs_one_to_be_named_unless_one_is_a_hand(
    pacs: Path,
) -> None:
    dicom(pacs / "elbow", 50, AccessionNumber="ACC00004", BodyPartExamined="ELBOW")
    rows = [f"ACC{number:05d},{40 + 9 * number}" for number in range(20)]
    options = {"header": "accession,bone age", "join": "AccessionNumber"}
    manifest = imported(pacs, *rows, **options)
    assert "1 study has several radiographs; the only one of a hand" in note(manifest, "1 study")
    dicom(pacs / "oblique", 51, AccessionNumber="ACC00004")
    (found,) = faults_again(pacs, *rows, **options)
    assert "row 6: 3 different radiographs have its accession number" in found
    assert "join by SOPInstanceUID" in found


def test_what_a_spreadsheet_did_to_accession_numbers_is_said(pacs: Path) -> None:
    for number in range(20):
        dicom(radiograph(pacs, number), number, AccessionNumber=f"{number:08d}")
    options = {"header": "accession,bone age", "join": "AccessionNumber"}
    found = faults(pacs, *(f"{number},{40 + number}" for number in range(20)), **options)
    assert "20 rows (2, 3, 4, 5, 6, …)" not in found[0]
    assert "has taken leading zeros away: write that column anew, as text" in found[0]
    (found,) = faults(pacs, "1.23457E+11,100", **options)
    assert "has cut the numbers short" in found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"PatientSex": "O"},
            "row 7: the PatientSex of its radiograph pacs/DISC/S2/IM05 is O; expected",
        ),
        (
            {"PatientSex": None},
            "the PatientSex of its radiograph pacs/DISC/S2/IM05 is empty; expected F",
        ),
        (
            {"PatientSex": "WEIBLICH"},
            "the PatientSex of its radiograph pacs/DISC/S2/IM05 is another",
        ),
        (
            {"NumberOfFrames": "12"},
            "NumberOfFrames of its radiograph pacs/DISC/S2/IM05 is 12; expected",
        ),
        ({"NumberOfFrames": "many"}, "is no number; expected one picture in a file"),
        (
            {"Modality": "CT"},
            "the Modality of its radiograph pacs/DISC/S2/IM05 is CT; expected a radio",
        ),
    ],
)
def test_a_radiograph_that_can_not_be_used(
    pacs: Path, values: dict[str, str], message: str
) -> None:
    dicom(radiograph(pacs, 5), 5, **values)
    (found,) = faults(pacs)
    assert message in found
    assert len(imported(pacs, *ROWS[:5], *ROWS[6:])) == 19  # a fault only where a row means it


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            f"{UID}.77,100",
            "row 3: there is no radiograph with its SOPInstanceUID; expected a radiograph for",
        ),
        (",100", "row 3: it has no SOPInstanceUID"),
        (
            f"{UID}.0,100",
            "row 3: it means the radiograph of row 2 again; expected each radiograph once",
        ),
        (f"{UID}.5,old", "row 3: bone age is '(not shown)'; expected a number of months"),
        (f"{UID}.5,", "row 3: bone age is empty"),
        (f"{UID}.5,1200", "row 3: bone age is 1200; expected months from 0 to 240"),
        (f"{UID}.5", "row 3: it has 1 fields; expected 2"),
    ],
)
def test_a_row_that_can_not_be_used(pacs: Path, row: str, message: str) -> None:
    (found,) = faults(pacs, ROWS[0], row, *ROWS[6:])
    assert message in found


def test_years_given_as_months(pacs: Path) -> None:
    (found,) = faults(pacs, *(f"{UID}.{number},{3 + number / 2}" for number in range(20)))
    assert "Pass --age-unit years" in found


def test_ages_in_days_and_in_years_and_months(pacs: Path) -> None:
    rows = [f"{UID}.{number},{number + 3}y6m" for number in range(10)]
    months = imported(pacs, *rows, age_unit="years-months").table["age_months"]
    assert sorted(months) == [42.0 + 12 * number for number in range(10)]
    months = imported(pacs, f"{UID}.1,3000", f"{UID}.2,1000", age_unit="days").table["age_months"]
    np.testing.assert_allclose(sorted(months), [32.85, 98.56], atol=0.01)
    (found,) = faults_again(pacs, f"{UID}.1,12y3m", f"{UID}.2,Zwiebel", age_unit="years-months")
    assert "row 3: bone age is '(not shown)'" in found


def test_decimal_commas_are_said(pacs: Path) -> None:
    rows = [f"{UID}.{number};{40 + number},5" for number in range(4)]
    manifest = imported(pacs, *rows, header=HEADER.replace(",", ";"))
    assert sorted(manifest.table["age_months"]) == [40.5, 41.5, 42.5, 43.5]
    assert note(manifest, "The bone ages were read with decimal commas")


def test_file_names_in_an_old_encoding_or_with_a_blank_at_the_end(pacs: Path) -> None:
    for number, name in ((3, "IM3 "), (4, "h\udce4nd")):
        radiograph(pacs, number).rename(pacs / name)
    (found,) = faults(pacs, *ROWS[:4])
    assert (
        "row 5: the path of its radiograph has bytes that are no text, or blanks at its end"
        in found
    )
    assert len(faults_again(pacs)) == 2
    assert len(imported(pacs, radiographs=pacs.parent / "films")) == 20


def test_infants_are_imported_when_the_unit_leaves_no_doubt(pacs: Path) -> None:
    manifest = imported(pacs, f"{UID}.1,0.5", f"{UID}.2,1.5", age_unit="years")
    assert set(manifest.table["source"]) == {"dicom, infants, seeded split"}


def test_everything_wrong_comes_at_once(pacs: Path) -> None:
    dicom(radiograph(pacs, 5), 5, PatientSex="O", NumberOfFrames="2", Modality="MR")
    found = faults(pacs, *ROWS, f"{UID}.99,50", f"{UID}.6,x")
    assert len(found) == 6


def test_options_and_columns_that_are_wrong(pacs: Path) -> None:
    found = faults(pacs, join="uid", age_unit="weeks", sex="s", female="x", male="x", paths=[])
    assert [text.split(":")[0] for text in found] == [
        "PATH",
        "--join",
        "--age-unit",
        "--female and --male",
    ]
    found = faults(pacs, age="Bone Age", sex="Geschlecht", split="fold")
    assert found[0] == (
        "ages.csv (--age Bone Age): there is no column 'Bone Age'; expected it among its 2 "
        "columns. Did you mean 'bone age'?"
    )
    assert len(found) == 3
    (found_one,) = faults(pacs, join="AccessionNumber")
    assert "none of its columns is called AccessionNumber" in found_one
    (found_one,) = faults(pacs, paths=[pacs / "nowhere"])
    assert "there is no such file" in found_one


def test_sex_and_split_of_the_table(pacs: Path) -> None:
    dicom(radiograph(pacs, 5), 5, PatientSex="")
    splits = ["train", "Validation", "test", "train"]
    rows = [f"{row},{'wm'[n == 7]},{splits[n % 4]}" for n, row in enumerate(ROWS)]
    options = {"header": f"{HEADER},Sex,set", "sex": "Sex", "female": "w", "male": "m"}
    manifest = imported(pacs, *rows, split="set", **options)
    assert manifest.table["sex"].value_counts().to_dict() == {"F": 19, "M": 1}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 10, "val": 5, "test": 5}
    assert set(manifest.table["source"]) == {"dicom"}
    assert "row 9 is not that of PatientSex (1 in all)" in note(manifest, "The sex in")
    rows[0], rows[1] = rows[0].replace(",w,", ",W,"), rows[1].replace("Validation", "dev")
    found = faults_again(pacs, *rows, split="set", **options)
    assert "row 2: Sex is neither a girl's nor a boy's code; expected 'w' (--female)" in found[0]
    assert "row 3: set is no split; expected train, val or test" in found[1]


def test_several_codes_of_a_sex_and_an_empty_one(pacs: Path) -> None:
    rows = [f"{row},{('w', 'f', 'm')[n % 3]}" for n, row in enumerate(ROWS)]
    options: dict[str, Any] = {"header": f"{HEADER},Sex", "sex": "Sex", "male": ["m"]}
    manifest = imported(pacs, *rows, female=["w", "f"], **options)
    assert manifest.table["sex"].value_counts().to_dict() == {"F": 14, "M": 6}
    (found,) = faults_again(pacs, *rows, female="", **options)
    assert "--female and --male: one of them is empty" in found


def test_radiographs_of_a_patient_stay_together_and_agree(pacs: Path) -> None:
    for number in range(20):
        dicom(
            radiograph(pacs, number), number, PatientID=f"P{number // 2:04d}", IssuerOfPatientID="A"
        )
    result = imported(pacs).table
    assert result["patient_id"].nunique() == 10
    assert len(result[["patient_id", "split"]].drop_duplicates()) == 10
    dicom(radiograph(pacs, 1), 1, PatientID="P0000", IssuerOfPatientID="A", PatientSex="M")
    rows = [f"{row},{'test' if n == 3 else 'train'}" for n, row in enumerate(ROWS)]
    found = faults_again(pacs, *rows, header=f"{HEADER},set", split="set")
    assert "row 3: its patient's sex is M here and F in row 2" in found[0]
    assert "row 5: its patient is in test here and in train in row 4" in found[1]


def test_issuers_keep_equal_ids_apart_unless_one_is_missing(pacs: Path) -> None:
    for number, issuer in enumerate(("A", "B", "A", "B", "")):
        identifier = "SAME1" if number < 2 else "SAME2"
        dicom(radiograph(pacs, number), number, PatientID=identifier, IssuerOfPatientID=issuer)
    patients = imported(pacs, *ROWS[:5]).table.set_index("age_months")["patient_id"]
    assert patients[40.0] != patients[49.0]
    assert patients[58.0] == patients[67.0] == patients[76.0]


def test_placeholders_are_no_patients_and_one_patient_of_all_is_said(pacs: Path) -> None:
    for number in range(20):
        stand_in = ("ANONYMOUS", "0000", "", None)[number % 4]
        dicom(radiograph(pacs, number), number, PatientID=stand_in)
    manifest = imported(pacs)
    assert "patient_id" not in manifest.table
    assert "20 radiographs have no PatientID to go by" in note(manifest, "20 films")
    for number in range(20):
        dicom(radiograph(pacs, number), number, PatientID="STUDY17")
    assert "20 of 20 radiographs: is that PatientID a stand-in?" in note(
        imported(pacs), "One patient"
    )


@pytest.mark.parametrize(
    ("values", "months"),
    [
        ({}, 137),
        ({"PatientAge": "011Y"}, 137),
        ({"PatientBirthDate": ""}, None),
        ({"PatientBirthDate": "", "PatientAge": "012Y"}, 144),
        ({"PatientBirthDate": "", "PatientAge": "100M"}, 100),
        ({"PatientBirthDate": "", "PatientAge": "052W"}, 12),
        ({"PatientBirthDate": "", "PatientAge": "300D"}, 10),
        ({"PatientBirthDate": "", "PatientAge": "eleven"}, None),
        ({"PatientBirthDate": "19000101", "PatientAge": "011Y"}, 132),
        ({"PatientBirthDate": "19000101"}, None),
        ({"PatientBirthDate": "20200101"}, None),
        ({"PatientBirthDate": "20080399"}, None),
        ({"PatientBirthDate": "2008.03.17"}, 137),
        ({"PatientAge": "003Y"}, None),
        ({"StudyDate": "", "AcquisitionDate": "20190301"}, 131),
        ({"StudyDate": "", "AcquisitionDate": "", "AcquisitionDateTime": "20190301101500"}, 131),
    ],
)
def test_chronological_ages(pacs: Path, values: dict[str, str], months: int | None) -> None:
    for number in (0, 1):
        dicom(radiograph(pacs, number), number, **values)
    result = imported(pacs, *ROWS[:2]).table
    if months is None:
        assert "chronological_age_months" not in result
    else:
        assert set(result["chronological_age_months"]) == {months}


def test_what_should_be_looked_at_is_noted(pacs: Path) -> None:
    dicom(radiograph(pacs, 0), 0, Modality="OT", BodyPartExamined="CHEST", BurnedInAnnotation="YES")
    dicom(radiograph(pacs, 1), 1, Modality="", BodyPartExamined="Ottos Hand", ImageLaterality="R")
    dicom(
        radiograph(pacs, 2),
        2,
        BodyPartExamined="Ottos Fuss",
        PatientBirthDate="",
        PatientAge="011Y",
    )
    manifest = imported(pacs)
    assert note(manifest, "Modality") == (
        "Modality is OT (1), empty (1): are these plain radiographs?"
    )
    assert "BodyPartExamined is CHEST (1), another value (1)" in note(manifest, "BodyPart")
    assert "1 radiograph has BurnedInAnnotation YES" in note(manifest, "1 radiograph has")
    assert "1 radiograph is of the right side" in note(manifest, "1 radiograph is")
    assert "in completed years only" in note(manifest, "1 chronological age is")
    assert "20 of 20, in whole months" in note(manifest, "Chronological ages")
    assert "those still say who was filmed" in note(manifest, "The manifest refers")


@pytest.mark.parametrize(
    "path",
    [
        "ZWIEBELMEYER_OTTOKAR_hand.dcm",
        "zwiebelmeyer/1.dcm",
        "OttokarZ/hand.dcm",
        "PAT00005.dcm",
        "pat-000-05/hand",
        "ACC00005/IM1",
        "2008-03-17/IM1",
        "17032008.dcm",
        "2019/08/22/IM1",
        "x_080317.dcm",
        f"{UID}.5.dcm",
        f"{UID}.7.5/IM1".replace(".", "_"),
        "1.3.46.670589.30.1.6.1.963334011378349/IM1",
        "Sankt-Nimmerlein/IM1",
    ],
)
def test_a_path_that_tells_who_the_child_is(pacs: Path, path: str) -> None:
    radiograph(pacs, 5).unlink()
    dicom(pacs / path, 5, InstitutionName="SANKT NIMMERLEIN")
    (found,) = faults(pacs)
    assert "ages.csv: row 7: the paths of 1 of 20 radiographs hold " in found
    assert found.endswith(
        "Pass --films FOLDER: it gets copies named by pseudonyms, with nothing but pixels."
    )
    assert path not in found
    manifest = imported(pacs, radiographs=pacs.parent / "films")
    assert Path(path).parts[0] not in manifest.path.read_text()


@pytest.mark.parametrize(
    ("path", "identity", "told"),
    [
        ("a/mueller.dcm", Identity(names=["Müller^Eva"]), True),
        ("a/Mueller_1.dcm", Identity(names=["MÜLLER^A"]), True),
        ("a/Müller/1.dcm", Identity(names=["MUELLER^A"]), True),
        ("a/Muller.dcm", Identity(names=["MUELLER^A"]), True),
        ("a/Sorensen.dcm", Identity(names=["Sørensen^A"]), True),
        ("a/Soerensen.dcm", Identity(names=["Sørensen^A"]), True),
        ("a/Sørensen.dcm", Identity(names=["Soerensen^A"]), True),
        ("a/Weiss_Malek.dcm", Identity(names=["Weiß^B"]), True),
        ("a/Lukasz Malek.dcm", Identity(names=["Małek^B"]), True),
        ("a/LI_NA.dcm", Identity(names=["LI^NA"]), True),
        ("na/li/1.dcm", Identity(names=["LI^NA"]), True),
        ("a/Kalinax/1.dcm", Identity(names=["LI^NA"]), False),
        ("a/na/scan.dcm", Identity(names=["LI^NA"]), False),
        ("a/wuyi.dcm", Identity(names=["Wu^Yi"]), True),
        ("a/YiWuHand.dcm", Identity(names=["Wu^Yi"]), True),
        ("a/山田太郎.dcm", Identity(names=["山田^太郎"]), True),
        ("a/6.8.2004/1.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/2004-8-6.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/6Aug2004.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/6. August 2004.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/Aug 6, 2004.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/06-08-04.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("1/6.8.2004.dcm", Identity(dates=[date(2004, 8, 6)]), True),
        ("a/1/16.8.2004.dcm", Identity(dates=[date(2004, 8, 6)]), False),
        ("a/7Aug2004.dcm", Identity(dates=[date(2004, 8, 6)]), False),
        ("a/12345.dcm", Identity(identifiers=["0012345"]), True),
        ("a/0012345.dcm", Identity(identifiers=["12345"]), True),
        ("a/123.dcm", Identity(identifiers=["00123"]), True),
        ("a/000123/1.dcm", Identity(identifiers=["123"]), True),
        ("a/01.dcm", Identity(identifiers=["001"]), True),
        ("a/IM01234.dcm", Identity(identifiers=["00123"]), False),
        ("a/0.dcm", Identity(identifiers=["0000"]), False),
        ("a/MÜLLER.dcm", Identity(names=["Mu\u0308ller^Eva"]), True),
        ("a/Eva.dcm", Identity(names=["Müller^Eva"]), True),
        ("a/Evaluation.dcm", Identity(names=["Müller^Eva"]), False),
        ("a/山田.dcm", Identity(names=["Yamada^Tarou=山田^太郎=やまだ^たろう"]), True),
        ("films/7.dcm", Identity(identifiers=["7"]), True),
        ("films/17.dcm", Identity(identifiers=["7"]), False),
        ("films/IM_123.dcm", Identity(identifiers=["123"]), True),
        ("films/IM1234.dcm", Identity(identifiers=["123"]), False),
        ("films/IM1.dcm", Identity(), False),
        ("patient 1/IM1.dcm", Identity(names=["Anonymous^Patient"]), False),
    ],
)
def test_what_a_path_tells(path: str, identity: Identity, told: bool) -> None:
    assert bool(disclosures(path, identity)) == told


# Every element of the standard that text may stand in is planted with a string of its own, apart
# from those that say what kind of picture it is. A superset of PS3.15, table E.1-1.
STRUCTURAL = {"SOPClassUID", "PatientSex", "PatientAge", "NumberOfFrames", "Modality"}
STRUCTURAL |= {"PhotometricInterpretation", "SpecificCharacterSet", "PixelPresentation"}
STRUCTURAL |= {"PresentationLUTShape", "VOILUTFunction", "RescaleType", "PixelDataProviderURL"}
BIRTH, STUDY = "20080317", "20190822"
SECRETS = ("kanari", "1.2.826.0.1.3680043", BIRTH, STUDY, "2008-03-17", "2019-08-22", "101112.13")


def planted(number: int) -> Dataset:
    """Everything a header can say in words, each with a canary in it."""
    dataset = Dataset()
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        if keyword in STRUCTURAL or not keyword or tag >> 16 in (0, 2, 0x7FE0):
            continue
        name = f"KANARI{tag:08X}N{number}"
        value: object = {
            **dict.fromkeys(("PN",), f"{name}^Kanari"),
            **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE", "CS"), name),
            "DA": BIRTH if keyword == "PatientBirthDate" else STUDY,
            "DT": f"{STUDY}101112.13",
            "TM": "101112.13",
            "UI": f"{UID}.{tag}.{number}",
        }.get(vr)
        if value is not None:
            dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
    block = dataset.private_block(0x0011, "KANARI PRIVATE", create=True)
    block.add_new(0x01, "LO", "KANARI PRIVATE VALUE")
    inner = Dataset()
    inner.PatientName, inner.PatientID = "Kanari^Inside", "KANARI-INSIDE"
    dataset.OtherPatientIDsSequence = DicomSequence([inner])
    return dataset


def canary(path: Path, number: int, **values: object) -> Path:
    dataset = planted(number)
    filled = {"PatientSex": "M", "Modality": "CR", "SOPClassUID": COMPUTED_RADIOGRAPHY, **values}
    for keyword, value in filled.items():
        put(dataset, keyword, value)
    dataset.Rows, dataset.Columns = HAND.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = HAND.tobytes()
    return save(dataset, path)


INSTANCE, ACCESSION = tag_for_keyword("SOPInstanceUID"), tag_for_keyword("AccessionNumber")
CANARY_HEADER = ("SOPInstanceUID", "accession", "name", "bone age", "set")


def canary_rows(count: int) -> list[list[str]]:
    return [
        [
            f"{UID}.{INSTANCE}.{n}",
            f"KANARI{ACCESSION:08X}N{n}",
            f"Kanari, {n}",
            f"{90 + n}",
            "train",
        ]
        for n in range(count)
    ]


def canary_table(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path.write_text(text.getvalue())
    return path


def leaks(*texts: str) -> list[str]:
    return [secret for secret in SECRETS for text in texts if secret in text.lower()]


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films full of canaries, at paths without any."""
    folder = tmp_path_factory.mktemp("aviary")
    for number in range(4):
        canary(folder / f"IM{number}", number)
    assert set(leaks((folder / "IM0").read_bytes().decode("latin-1"))) >= set(SECRETS[:4])
    return folder


def test_no_canary_gets_out(
    aviary: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    ages = canary_table(tmp_path / "ages.csv", canary_rows(4), CANARY_HEADER)
    for name, radiographs in (("in-place", None), ("copied", tmp_path / "copied" / "films")):
        manifest = import_dicom(
            [aviary],
            tmp_path / name / "manifest.csv",
            ages=ages,
            age="bone age",
            age_unit="months",
            radiographs=radiographs,
        )
        assert len(manifest) == 4
        assert set(manifest.table["chronological_age_months"]) == {137.0}
        assert set(manifest.table["sex"]) == {"M"}
        written = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert len(written) == (2 if radiographs is None else 6)
        texts = [path.read_bytes().decode("latin-1") for path in written]
        told = capfd.readouterr()
        assert "Reading headers" in told.err
        assert not leaks(*texts, *map(str, written), *manifest.notes, repr(manifest))
        assert not leaks(told.out, told.err, caplog.text)


FAILURES: dict[str, dict[str, Any]] = {
    "no sex": {"tags": {"PatientSex": ""}},
    "a sex in words": {"tags": {"PatientSex": "KANARI GIRL"}},
    "several frames": {"tags": {"NumberOfFrames": "3"}},
    "frames in words": {"tags": {"NumberOfFrames": "KANARI"}},
    "a CT": {"tags": {"Modality": "CT"}},
    "no uid": {"tags": {"SOPInstanceUID": ""}, "join": "AccessionNumber"},
    "accession twice": {
        "tags": {"AccessionNumber": f"KANARI{ACCESSION:08X}N1"},
        "join": "AccessionNumber",
    },
    "accession of nothing": {"cell": (1, "KANARI-NONE"), "join": "AccessionNumber"},
    "uid of nothing": {"cell": (0, f"{UID}.404")},
    "uid twice": {"cell": (0, f"{UID}.{INSTANCE}.1")},
    "different radiographs of a uid": {"tags": {"SOPInstanceUID": f"{UID}.{INSTANCE}.1"}},
    "file of nothing": {"join": "file", "join_column": "name"},
    "an age in words": {"cell": (3, "KANARI")},
    "ages in another column": {"age": "name"},
    "ages that are ids": {"age": "accession"},
    "no such column": {"age": "boneage months"},
    "no header": {"header": canary_rows(5)[4]},
    "sex in another column": {"sex": "name"},
    "split in another column": {"split": "name"},
    "a patient in two splits": {
        "cell": (4, "test"),
        "split": "set",
        "tags": {"PatientID": "KANARI7", "IssuerOfPatientID": ""},
        "tags of 1": {"PatientID": "KANARI7"},
    },
    "a patient of two sexes": {
        "tags": {"PatientID": "KANARI7", "IssuerOfPatientID": "", "PatientSex": "F"},
        "tags of 1": {"PatientID": "KANARI7"},
    },
    "a telling path": {"name": "KANARI_1.dcm"},
    "a telling path and no sex": {"name": "KANARI_1.dcm", "tags": {"PatientSex": ""}},
    "pixels that can't be decoded": {
        "name": "KANARI_1.dcm",
        "tags": {"BitsAllocated": 40},
        "films": True,
    },
    "a header cut short": {"cut": 4000},
}


@pytest.mark.parametrize("case", FAILURES)
def test_no_canary_gets_out_when_something_fails(
    case: str,
    aviary: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    options = {"age": "bone age", **FAILURES[case]}
    tags, others = options.pop("tags", {}), options.pop("tags of 1", {})
    column, text = options.pop("cell", (0, None))
    path = tmp_path / "pacs" / options.pop("name", "IM0")
    for place, name, values in ((path, "IM0", tags), (path.with_name("IM1"), "IM1", others)):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes((aviary / name).read_bytes())
        change(place, values)
    if cut := options.pop("cut", None):
        path.write_bytes(path.read_bytes()[:cut])
    rows = canary_rows(2)
    rows[0][column] = rows[0][column] if text is None else text
    ages = canary_table(tmp_path / "ages.csv", rows, options.pop("header", CANARY_HEADER))
    if options.pop("films", False):
        options["films"] = tmp_path / "out" / "films"
    with pytest.raises(InputError) as caught:
        import_dicom(
            [tmp_path / "pacs"],
            tmp_path / "out" / "manifest.csv",
            ages=ages,
            age_unit="months",
            **options,
        )
    told = capfd.readouterr()
    trace = "".join(traceback.format_exception(caught.value))
    assert not leaks(str(caught.value), repr(caught.value.faults), trace)
    assert not leaks(told.out, told.err, caplog.text)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def change(path: Path, values: dict[str, object]) -> None:
    """Rewrites some elements of a radiograph."""
    import pydicom

    if not values:
        return
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        put(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.1"
    dataset.save_as(path)


def test_the_repr_of_a_radiograph_says_nothing(aviary: Path) -> None:
    from boneage.datasets.importers.dicom_headers import read_radiographs

    found = read_radiographs(sorted(aviary.iterdir()), aviary, progress=False)
    assert len(found.radiographs) == 4
    assert not leaks(repr(found))


def test_a_picture_is_decoded_as_it_is(pacs: Path) -> None:
    manifest = imported(pacs, radiographs=pacs.parent / "films")
    image = cv2.imread(str(manifest.image_paths()[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == HAND.shape
    assert image.ndim == 2


def test_a_real_radiograph(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "shared" / "real" / "dicom"
    if not folder.is_dir():
        pytest.skip("needs the real radiograph, which is not in the repository")
    ages = tmp_path / "ages.csv"
    ages.write_text("file,months\ncr-extremity-monochrome1-j2k,100\n")
    manifest = import_dicom(
        [folder],
        tmp_path / "manifest.csv",
        ages=ages,
        age="months",
        age_unit="months",
        join="file",
        radiographs=tmp_path / "films",
        progress=False,
    )
    assert manifest.table["sex"].tolist() == ["F"]
    assert manifest.table["chronological_age_months"].tolist() == [305]
    assert "BodyPartExamined is EXTREMITY (1)" in note(manifest, "BodyPart")
    text = manifest.path.read_text() + "".join(manifest.notes)
    assert not [
        word for word in ("CompressedSamples", "11RG3", "FUJI95706", "1979") if word in text
    ]


@pytest.mark.parametrize("charset", ["undefined", "punycode", "zlib", "rot13", "nonsense"])
def test_a_character_set_that_is_none_of_dicoms_is_no_codec_of_pythons(
    pacs: Path, charset: str
) -> None:
    from boneage.datasets.importers.dicom_headers import read_radiographs

    path = dicom(pacs / "odd", 70, SpecificCharacterSet="ISO_IR 100", PatientAge="011Y")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", charset.ljust(10).encode()))
    found = read_radiographs([path], pacs, progress=False)
    assert [radiograph.age.months for radiograph in found.radiographs] == [137]
    assert [radiograph.sex for radiograph in found.radiographs] == ["F"]


def test_what_can_not_be_parsed_is_broken(pacs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from boneage.datasets.importers import dicom_headers as dicom_radiograph

    def fail(*_: object) -> None:
        raise UnicodeError("Zwiebelmeyer")

    monkeypatch.setattr(dicom_radiograph, "_film", fail)
    found = dicom_radiograph.read_radiographs([radiograph(pacs, 0)], pacs, progress=False)
    assert "its header can't be read" in str(found.broken[0])
    assert "Zwiebelmeyer" not in str(found.broken)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_import_leaves_nothing(
    pacs: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    from boneage.datasets.importers import dicom_export as dicom_copies

    calls = []

    def fail(path: Path) -> object:
        calls.append(path)
        if len(calls) > 3:
            raise error
        return read_radiograph(path)

    monkeypatch.setattr(dicom_copies, "read_radiograph", fail)
    with pytest.raises(error):
        imported(pacs, radiographs=pacs.parent / "films")
    for folder in ("films", "cohort"):
        assert not [path for path in (pacs.parent / folder).rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert len(imported(pacs, radiographs=pacs.parent / "films")) == 20


def test_a_salt_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boneage.datasets.importers import pseudonyms

    def fail(_: int) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pseudonyms.secrets, "token_bytes", fail)
        with pytest.raises(KeyboardInterrupt):
            pseudonyms.make_salt(tmp_path / "salt")
    assert not list(tmp_path.iterdir())
    assert pseudonyms.make_salt(tmp_path / "salt")
    assert not pseudonyms.make_salt(tmp_path / "salt")
    assert pseudonyms.is_private(tmp_path / "salt")
    assert [path.name for path in tmp_path.iterdir()] == ["salt"]


def test_closed_folders_are_counted_and_not_named(
    pacs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boneage.datasets.importers import dicom as module
    from boneage.errors import Fault

    def closed(path: Path, **_: object) -> list[Path]:
        raise InputError([Fault(str(path / "Zwiebelmeyer"), "closed", "Open it.", expected="open")])

    monkeypatch.setattr(module, "files_below", closed)
    (found,) = faults(pacs)
    assert found.startswith("pacs: 1 folder in it can't be looked into; expected")
    assert "Zwiebelmeyer" not in found


def test_archives_are_counted_and_not_named(pacs: Path) -> None:
    (pacs / "Zwiebelmeyer.zip").write_bytes(b"PK")
    (found,) = faults(pacs, f"{UID}.404,100")
    assert "Unpack the 1 archive (.zip, .7z, .iso) among the files first" in found
    assert "Zwiebelmeyer" not in found
