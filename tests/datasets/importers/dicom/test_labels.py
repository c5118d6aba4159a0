from __future__ import annotations

import numpy as np
import pytest

UID = "1.2.826.0.1.3680043.10.999"
BY_ACCESSION = {"header": "accession,bone age", "columns": {"join": "AccessionNumber"}}


def test_years_joined_by_accession_in_a_column_of_any_name(pacs) -> None:
    rows = [f"ACC{number:05d};{5 + number / 2}" for number in range(20)]
    columns = {"join": "AccessionNumber", "join_column": "Auftrag"}
    columns |= {"age": "years", "age_unit": "years"}
    manifest = pacs.import_(*rows, header="Auftrag;years", columns=columns)
    assert sorted(manifest.table["age_months"]) == [60.0 + 6 * number for number in range(20)]


@pytest.mark.parametrize("name", ["IM{1:02d}", "S{0}/IM{1:02d}", r"ZWIEBELMEYER\S{0}\IM{1:02d}"])
def test_joined_by_file_name_or_path(pacs, name: str) -> None:
    rows = [f"{name.format(number % 3, number)},{40 + 9 * number}" for number in range(20)]
    assert len(pacs.import_(*rows, header="file,bone age", columns={"join": "file"})) == 20


def test_a_file_name_without_its_suffix_and_a_name_that_two_files_have(pacs) -> None:
    for folder in ("a", "b"):
        pacs.write(30 + ord(folder), f"{folder}/hand.dcm", PatientID=folder * 3)
    options = {"header": "path,bone age", "columns": {"join": "file"}}
    manifest = pacs.import_("a/hand,90", "b/hand.dcm,100", **options)
    assert sorted(manifest.table["age_months"]) == [90, 100]
    (found,) = pacs.faults("hand,90", "b/hand,100", **options)
    assert "ages.csv: row 2: 2 different radiographs have this file name" in found


def test_copies_are_one_radiograph_and_equal_uids_of_different_radiographs_are_not(
    pacs, note
) -> None:
    (pacs.folder / "copy").write_bytes(pacs.path(4).read_bytes())
    manifest = pacs.import_()
    assert len(manifest) == 20
    assert note(manifest, "equal another file: 1 file.")
    pacs.write(4, "copy", SeriesNumber="2")
    (found,) = pacs.faults()
    assert "row 6: 2 different radiographs have the same SOPInstanceUID" in found


def test_a_study_of_several_radiographs_must_be_clear_or_have_one_hand(pacs, note) -> None:
    pacs.write(50, "elbow", AccessionNumber="ACC00004", BodyPartExamined="ELBOW")
    rows = [f"ACC{number:05d},{40 + 9 * number}" for number in range(20)]
    assert note(pacs.import_(*rows, **BY_ACCESSION), "1 row named a study with several")
    pacs.write(51, "oblique", AccessionNumber="ACC00004")
    (found,) = pacs.faults(*rows, **BY_ACCESSION)
    assert "row 6: 3 different radiographs have this accession number" in found
    assert "join by SOPInstanceUID" in found


def test_what_a_spreadsheet_did_to_accession_numbers(pacs) -> None:
    for number in range(20):
        pacs.write(number, AccessionNumber=f"{number:08d}")
        pacs.write(number + 50, f"more/{number}", AccessionNumber=str(100 + number))
    found = pacs.faults(*(f"{number},{40 + number}" for number in range(20)), **BY_ACCESSION)
    assert "removed leading zeros" in found[0]
    manifest = pacs.import_(*(f"{100 + n}.0,{40 + n}" for n in range(20)), **BY_ACCESSION)
    assert len(manifest) == 20
    (found,) = pacs.faults("1.23457E+11,100", **BY_ACCESSION)
    assert "rounded the numbers" in found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{UID}.77,100", "row 3: no radiograph has this SOPInstanceUID"),
        (f"{UID}.0,100", "row 3: row 2 names the same radiograph"),
        (f"{UID}.5,old", "row 3: bone age is '(not shown)'; expected a number of months"),
        (f"{UID}.5,1200", "row 3: bone age is 1200; expected months from 0 to 240"),
    ],
)
def test_a_row_that_can_not_be_used(pacs, row: str, message: str) -> None:
    (found,) = pacs.faults(pacs.rows[0], row, *pacs.rows[6:])
    assert message in found


def test_units_of_ages(pacs) -> None:
    def months(unit: str, *ages: str) -> list[float]:
        rows = [f"{UID}.{number};{age}" for number, age in enumerate(ages)]
        header = "SOPInstanceUID;bone age"
        table = pacs.import_(*rows, header=header, columns={"age_unit": unit}).table
        return sorted(table["age_months"])

    assert months("years-months", "3y6m", "4y6m") == [42.0, 54.0]
    np.testing.assert_allclose(months("days", "1000", "3000"), [32.85, 98.56], atol=0.01)
    assert months("months", "40,5", "41,5") == [40.5, 41.5]
    rows = [f"{UID}.1,12y3m", f"{UID}.2,Zwiebel"]
    (found,) = pacs.faults(*rows, columns={"age_unit": "years-months"})
    assert "row 3: bone age is '(not shown)'" in found
    (found,) = pacs.faults(*(f"{UID}.{number},{3 + number / 2}" for number in range(20)))
    assert "Pass --age-unit years" in found


def test_missing_columns_come_all_at_once(pacs) -> None:
    found = pacs.faults(columns={"age": "Bone Age", "sex": "Geschlecht", "split": "fold"})
    assert len(found) == 3
    assert found[0].startswith("ages.csv (--age Bone Age): none of the 2 columns is called")
    assert found[0].endswith("Did you mean 'bone age'?")
    (found,) = pacs.faults(columns={"join": "AccessionNumber"})
    assert "none of the columns is called AccessionNumber" in found


def test_a_column_twice_is_a_fault_only_if_it_is_used(pacs) -> None:
    header, rows = "SOPInstanceUID,bone age,,,note,note", [f"{row},,?,a,b" for row in pacs.rows]
    assert len(pacs.import_(*rows, header=header)) == 20
    (found,) = pacs.faults(*rows, header=header, columns={"split": "note"})
    assert "the header has several columns called 'note'" in found


def test_one_odd_age_is_the_only_fault_and_is_not_quoted(pacs) -> None:
    rows = [f"{UID}.{number};{40 + 9 * number},5" for number in range(19)]
    header = "SOPInstanceUID;bone age"
    (found,) = pacs.faults(*rows, f"{UID}.19;Zwiebelmeyer", header=header)
    assert "row 21: bone age is '(not shown)'; expected a number of months with a decimal" in found
