from __future__ import annotations

import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.importers.dicom import pixels
from boneage.datasets.manifest import read_manifest
from boneage.radiographs.reader import read_radiograph


def test_a_folder_and_a_table_become_a_manifest_and_images(pacs) -> None:
    manifest = pacs.import_()
    result = manifest.table
    assert sorted(result["age_months"]) == [40.0 + 9 * number for number in range(20)]
    assert set(result["sex"]) == {"F"}
    assert set(result["source"]) == {"dicom, seeded split"}
    assert result["split"].value_counts().to_dict() == {"train": 16, "val": 2, "test": 2}
    assert set(result["chronological_age_months"]) == {137.0}
    assert result["patient_id"].is_unique
    assert result["image_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert result["image_id"].is_monotonic_increasing
    assert list(result["image"]) == [f"manifest-images/{name}.png" for name in result["image_id"]]
    assert read_manifest(manifest.path).table.equals(result)
    assert len(list((manifest.path.parent / "manifest-images").iterdir())) == 20


def test_an_image_holds_the_pixels_and_nothing_else(pacs) -> None:
    path = pacs.import_().image_paths()[0]
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, read_radiograph(pacs.path(0)))
    assert image.dtype == np.uint16
    chunks = (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"eXIf")
    assert not [kind for kind in chunks if kind in path.read_bytes()]


def test_the_same_salt_gives_the_same_pseudonyms_and_another_salt_others(pacs, note) -> None:
    first = pacs.import_()
    salt = first.path.with_name("manifest.csv.salt")
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert "(created now)" in note(first, "key of the pseudonyms")
    second = pacs.import_()
    assert second.table.equals(first.table)
    assert "(created now)" not in note(second, "key of the pseudonyms")
    out = pacs.folder.parent / "other" / "manifest.csv"
    other = pacs.import_(out=out)
    assert not set(other.table["patient_id"]) & set(first.table["patient_id"])
    same = pacs.import_(out=out, salt=salt)
    assert list(same.table["patient_id"]) == list(first.table["patient_id"])
    salt.chmod(0o644)
    assert "chmod 600" in note(pacs.import_(), "can read")


def test_pseudonyms_are_those_of_earlier_versions(pacs) -> None:
    salt = pacs.folder.parent / "salt"
    salt.write_text("0123456789abcdef0123456789abcdef\n")
    row = pacs.import_(salt=salt).table.set_index("age_months").loc[40.0]
    assert (row["image_id"], row["patient_id"]) == ("05c8cce4c3a5c07b", "1e907a303ae10f6d")


def test_sex_and_split_of_the_table(pacs, note) -> None:
    pacs.write(5, PatientSex="")
    splits = ["train", "Validation", "test", "train"]
    rows = [f"{row},{'wm'[n == 7]},{splits[n % 4]}" for n, row in enumerate(pacs.rows)]
    header = "SOPInstanceUID,bone age,Sex,set"
    columns = {"sex": "Sex", "female": ["w", "f"], "male": ["m"], "split": "set"}
    manifest = pacs.import_(*rows, header=header, columns=columns)
    assert manifest.table["sex"].value_counts().to_dict() == {"F": 19, "M": 1}
    assert manifest.table["split"].value_counts().to_dict() == {"train": 10, "val": 5, "test": 5}
    assert set(manifest.table["source"]) == {"dicom"}
    assert "in 1 row (9)" in note(manifest, "differs from PatientSex")
    rows[0], rows[1] = rows[0].replace(",w,", ",W,"), rows[1].replace("Validation", "dev")
    found = pacs.faults(*rows, header=header, columns=columns)
    assert "row 2: Sex is neither a girl's nor a boy's code; expected 'w' or 'f'" in found[0]
    assert "row 3: set is not a split; expected train, val or test" in found[1]


def test_radiographs_of_a_patient_stay_together_and_agree(pacs) -> None:
    for number in range(20):
        pacs.write(number, PatientID=f"P{number // 2:04d}", IssuerOfPatientID="A")
    result = pacs.import_().table
    assert result["patient_id"].nunique() == 10
    assert len(result[["patient_id", "split"]].drop_duplicates()) == 10
    pacs.write(1, PatientID="P0000", IssuerOfPatientID="A", PatientSex="M")
    rows = [f"{row},{'test' if n == 3 else 'train'}" for n, row in enumerate(pacs.rows)]
    header = "SOPInstanceUID,bone age,set"
    found = pacs.faults(*rows, header=header, columns={"split": "set"})
    assert "row 3: the patient's sex is M here and F in row 2" in found[0]
    assert "row 5: the patient is in test here and in train in row 4" in found[1]


def test_issuers_separate_equal_ids_unless_an_issuer_is_missing(pacs) -> None:
    for number, issuer in enumerate(("A", "B", "A", "B", "")):
        identifier = "SAME1" if number < 2 else "SAME2"
        pacs.write(number, PatientID=identifier, IssuerOfPatientID=issuer)
    patients = pacs.import_(*pacs.rows[:5]).table.set_index("age_months")["patient_id"]
    assert patients[40.0] != patients[49.0]
    assert patients[58.0] == patients[67.0] == patients[76.0]


def test_placeholders_are_no_patients(pacs, note) -> None:
    for number in range(20):
        pacs.write(number, PatientID=("ANONYMOUS", "0000", "", None)[number % 4])
    manifest = pacs.import_()
    assert "patient_id" not in manifest.table
    assert note(manifest, "without a usable PatientID: 20")
    for number in range(20):
        pacs.write(number, PatientID="STUDY17")
    assert note(pacs.import_(), "One patient has 20 of 20 radiographs")


def test_wrong_options_come_all_at_once(pacs) -> None:
    columns = {"join": "uid", "age_unit": "weeks", "sex": "s", "female": "x", "male": "x"}
    found = pacs.faults(columns=columns, paths=[], salt=pacs.folder / "none")
    options = ["PATH", "--join", "--age-unit", "--female and --male", "pacs/none"]
    assert [text.split(":")[0] for text in found] == options
    assert "pacs/none: there is no such file" in found[-1]
    (found,) = pacs.faults(columns={"sex": "s", "female": ""})
    assert "one of them is empty" in found
    short = pacs.folder.parent / "short"
    short.write_text("secret\n")
    (found,) = pacs.faults(salt=short)
    assert "the salt has 6 bytes" in found
    (pacs.folder.parent / "cohort").mkdir()
    (pacs.folder.parent / "cohort" / "manifest-images").touch()
    with pytest.raises(Exception, match="the images need a folder"):
        pacs.import_()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_import_leaves_nothing(pacs, monkeypatch, error) -> None:
    calls = []

    def fail(path: Path) -> object:
        calls.append(path)
        if len(calls) > 3:
            raise error
        return read_radiograph(path)

    with monkeypatch.context() as patched:
        patched.setattr(pixels, "read_radiograph", fail)
        with pytest.raises(error):
            pacs.import_()
    assert not list((pacs.folder.parent / "cohort").iterdir())
    assert len(pacs.import_()) == 20
