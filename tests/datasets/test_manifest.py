from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage.datasets.label_rules import COLUMNS, parse_region
from boneage.datasets.manifest import read_manifest, write_manifest
from boneage.datasets.splits import assign_splits
from boneage.errors import InputError


def cohort(count: int) -> pd.DataFrame:
    """`count` rows without images or splits, ages 6 to 216 months."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "image_id": [str(1377 + i) for i in range(count)],
            "image": [f"films/{1377 + i}.png" for i in range(count)],
            "age_months": rng.integers(6, 216, count).astype(float),
            "sex": rng.choice(["F", "M"], count),
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    for i in range(40):
        (tmp_path / "films" / f"{1377 + i}.png").touch()
    return tmp_path


def written(folder: Path, *rows: str, header: str = ",".join(COLUMNS)) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def messages(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    return [str(fault).replace(str(path), path.name) for fault in caught.value.faults]


GOOD = "1377,films/1377.png,180,F,train"


def test_the_split_digest_does_not_depend_on_rows_paths_or_other_columns(folder: Path) -> None:
    table = assign_splits(cohort(40), seed=0)
    first = write_manifest(table, folder / "a.csv")
    (folder / "sub").mkdir()
    moved = table.assign(image="../" + table["image"], source="elsewhere").iloc[::-1]
    second = write_manifest(moved, folder / "sub" / "b.csv")
    assert first.digest != second.digest
    assert first.split_digest == second.split_digest
    for column, value in (("split", "test"), ("age_months", 100.5), ("sex", None)):
        changed = table.copy()
        row = changed.index[changed["split"] == "train"][0]
        value = {"F": "M", "M": "F"}[changed.loc[row, "sex"]] if value is None else value
        changed.loc[row, column] = value
        assert write_manifest(changed, folder / "c.csv").split_digest != first.split_digest


def test_the_split_digest_is_that_of_sorted_lines(folder: Path) -> None:
    rows = ("1378,films/1378.png,10.5,M,val", GOOD)
    lines = '["1377","train","180","F"]\n["1378","val","10.5","M"]\n'
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert read_manifest(written(folder, *rows)).split_digest == digest


def test_a_manifest_is_read_back_as_it_was_written(folder: Path) -> None:
    table = assign_splits(cohort(40), seed=0).assign(source="phantom")
    table.loc[0, "age_months"] = 10.6 * 12  # 127.19999999999999
    made = write_manifest(table, folder / "manifest.csv", notes=["a note"])
    read = read_manifest(folder / "manifest.csv")

    pd.testing.assert_frame_equal(read.table, made.table)
    assert list(read.table.columns) == [*COLUMNS, "source"]
    assert read.table["age_months"].iloc[0] == 127.2
    assert read.digest == hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
    assert made.notes == ("a note",)
    assert [path.is_file() for path in read.image_paths()] == [True] * 40
    assert [name.name for name in folder.iterdir()].count("manifest.csv") == 1
    assert len(list(folder.iterdir())) == 2, "a temporary file was left"


def test_arrays_have_the_shape_the_generator_takes(folder: Path) -> None:
    manifest = read_manifest(written(folder, GOOD, "1378,films/1378.png,12.5,M,val"))
    assert manifest.gender().dtype == manifest.age_months().dtype == np.float32
    assert manifest.gender().tolist() == [[0.0], [1.0]]
    assert manifest.age_months().tolist() == [[180.0], [12.5]]
    assert pickle.loads(pickle.dumps(manifest)).digest == manifest.digest


def test_a_split_is_a_manifest_of_the_same_file(folder: Path) -> None:
    manifest = read_manifest(written(folder, GOOD, "007,films/1378.png,12,M,val"))
    val = manifest.split("val")
    assert len(val) == 1
    assert val.table.index.tolist() == [0]
    assert val.table["image_id"].iloc[0] == "007", "an id is text, zeros and all"
    assert (val.path, val.digest) == (manifest.path, manifest.digest)
    with pytest.raises(InputError, match="no row has split 'test'"):
        manifest.split("test")
    with pytest.raises(InputError, match="unknown split 'tets'.*Did you mean 'test'"):
        manifest.split("tets")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "2,films/1378.png,90,female,train",
            "manifest.csv: row 3 (image_id 2): sex is 'female'; expected F or M.",
        ),
        ("2,films/1378.png,90,,train", "sex is empty; expected F or M"),
        ("2,films/1378.png,nan,F,train", "age_months is 'nan'; expected a number of months"),
        ("2,films/1378.png,1_0,F,train", "age_months is '1_0'; expected a number"),
        ("2,films/1378.png,241,F,train", "age_months is 241; expected months from 0 to 240"),
        ("2,films/1378.png,90,F,tarin", "split is 'tarin'; expected train, val or test"),
        ("2,films/none.png,90,F,train", "there is no image films/none.png"),
        (f"2,{'x' * 5000},90,F,train", "there is no image xxx"),
        ("2,,90,F,train", "image is empty"),
        (",films/1378.png,90,F,train", "row 3: image_id is empty"),
        ("1377,films/1378.png,90,F,train", "image_id 1377 is already in row 2"),
        ("2,films/1378.png,90,F", "row 3: it has 4 fields; expected 5"),
    ],
)
def test_a_wrong_row_is_one_clear_message(folder: Path, row: str, message: str) -> None:
    found = messages(written(folder, GOOD, row))
    assert len(found) == 1
    assert message in found[0]


def test_a_column_of_years_is_refused(folder: Path) -> None:
    path = written(
        folder, GOOD.replace("180", "10.6"), "4360,films/1378.png,14.1,M,val",
        "9,films/1379.png,3,M,val",
    )  # fmt: skip
    (fault,) = messages(path)
    assert fault.startswith(
        "manifest.csv: row 3 (image_id 4360): age_months is 14.1, the largest of the column, and "
        "the median is 10.6; expected months. Are the ages in years? Import the table with "
        "--age-unit years."
    )


def test_all_faults_come_at_once_in_one_error(folder: Path) -> None:
    path = written(
        folder,
        "1,films/1377.png,90,X,train,ann",
        "1,films/gone.png,old,F,val,ann",
        "3,films/1379.png,90,M,holdout,",
        "4,films/1380.png,300,M,test,ben",
        header="image_id,image,age_months,sex,split,patient_id",
    )
    text = "\n".join(messages(path))
    for part in (
        "sex is 'X'",
        "image_id 1 is already in row 2",
        "there is no image films/gone.png",
        "age_months is 'old'",
        "split is 'holdout'",
        "age_months is 300",
        "patient ann is in val here and in train in row 2",
    ):
        assert part in text
    assert len(text.splitlines()) == 7


def test_equal_faults_of_many_rows_are_grouped(folder: Path) -> None:
    rows = [f"{i},gone/{i}.png,90,{'female' if i % 2 else 'male'},train" for i in range(500)]
    found = messages(written(folder, *rows))
    assert len(found) == 3
    assert "500 rows (2, 3, 4, 5, 6, …) (image_id 0, 1, 2, 3, 4, …)" in found[0]
    assert "there is no image gone/0.png, and 499 others likewise" in found[0]
    assert "250 rows (2, 4, 6, 8, 10, …)" in found[1]
    assert "sex is 'male'" in found[1]
    assert "sex is 'female'" in found[2]


@pytest.mark.parametrize(
    ("header", "hints"),
    [
        ("id,path,boneage,male,subset", ["'id'", "'path'", "'boneage'", "'male'", "'subset'"]),
        ("Image ID,image,age_month,Sex,split", ["'Image ID'", "'age_month'", "'Sex'"]),
    ],
)
def test_missing_columns_are_named_with_what_was_meant(
    folder: Path, header: str, hints: list[str]
) -> None:
    found = messages(written(folder, "1377,films/1377.png,180,F,train", header=header))
    assert [message.rpartition("Did you mean ")[2].rstrip("?") for message in found] == hints


@pytest.mark.parametrize("name", ["Patient Name", "subject_id"])
def test_patients_under_another_name_do_not_go_unchecked(folder: Path, name: str) -> None:
    path = written(folder, GOOD + ",ann", header=f"{','.join(COLUMNS)},{name}")
    assert len(messages(path)) == 1
    assert "Did you mean 'patient_id'?" in messages(path)[0]
    both = written(folder, GOOD + ",ann,p1", header=f"{','.join(COLUMNS)},subject,patient_id")
    assert len(read_manifest(both)) == 1


def test_one_patient_with_two_sexes_is_refused(folder: Path) -> None:
    rows = [
        "1,films/1377.png,180,F,train,ann",
        "2,films/1378.png,190,M,train,ann",
        "3,films/1379.png,90,M,train,",
        "4,films/1380.png,90,F,train,",
    ]
    path = written(folder, *rows, header=f"{','.join(COLUMNS)},patient_id")
    assert messages(path) == [
        "manifest.csv: row 3 (image_id 2): patient ann is M here and F in row 2; expected one sex "
        "for each patient. Correct the sex, or the patient."
    ]
    table = pd.read_csv(path, dtype={"image_id": str})
    with pytest.raises(InputError, match="patient ann is M here"):
        write_manifest(table, folder / "again.csv")


def test_a_manifest_that_a_german_spreadsheet_has_saved(folder: Path) -> None:
    rows = ["1377,films/1377.png,180.5,F,train", "1378,films/1378.png,12.5,M,val"]
    kept = read_manifest(written(folder, *rows)).table
    german = [row.replace(",", ";").replace(".5", ",5") + ";;" for row in rows]
    path = written(folder, *german, header=";".join(COLUMNS) + ";;")
    pd.testing.assert_frame_equal(read_manifest(path).table, kept)
    path = written(
        folder, *german, "9;films/1379.png;n.b.;F;train;;", header=";".join(COLUMNS) + ";;"
    )
    (fault,) = messages(path)
    assert "age_months is 'n.b.'; expected a number of months with a decimal comma" in fault


def test_a_manifest_saved_as_a_workbook_is_named_as_one(folder: Path) -> None:
    pd.read_csv(written(folder, GOOD)).to_excel(folder / "m.xlsx", index=False)
    with pytest.raises(
        InputError, match="it is an Excel workbook .* Save the table as 'CSV UTF-8'"
    ):
        read_manifest(folder / "m.xlsx")


@pytest.mark.parametrize("name", ["age_months", "patient_id", "sex"])
def test_a_column_that_is_used_may_be_there_only_once(folder: Path, name: str) -> None:
    more = ",patient_id,patient_id" if name == "patient_id" else f",{name}"
    row = GOOD + ("," * more.count(","))
    found = messages(written(folder, row, header=",".join(COLUMNS) + more))
    assert f"the header has several columns called {name!r}" in found[0]
    header = ",".join(COLUMNS) + ",note,note"
    assert len(read_manifest(written(folder, GOOD + ",a,b", header=header))) == 1


def test_an_image_in_two_splits_is_refused_however_its_path_is_spelt(folder: Path) -> None:
    again = "2,films/../films/1377.png,180,F"
    assert messages(written(folder, GOOD, f"{again},test")) == [
        "manifest.csv: row 3 (image_id 2): image films/../films/1377.png is also in row 2, in "
        "another split. Keep one of the rows."
    ]
    assert len(read_manifest(written(folder, GOOD, f"{again},train"))) == 2


def test_a_cohort_that_says_infants_in_every_row_may_be_that_young(folder: Path) -> None:
    header = ",".join(COLUMNS) + ",source"
    rows = ["1,films/1377.png,10.6,F,train,clinic; infants", "2,films/1378.png,3,M,val,infants"]
    assert len(read_manifest(written(folder, *rows, header=header))) == 2
    found = messages(written(folder, rows[0], rows[1].replace("infants", "clinic"), header=header))
    assert "in years?" in found[0]


def test_chronological_age_may_be_empty_but_not_wrong(folder: Path) -> None:
    header = ",".join(COLUMNS) + ",chronological_age_months"
    rows = [GOOD + ",", "1378,films/1378.png,90,F,val,100.5"]
    manifest = read_manifest(written(folder, *rows, header=header))
    np.testing.assert_array_equal(manifest.table["chronological_age_months"], [np.nan, 100.5])
    again = write_manifest(manifest.table, folder / "again.csv")
    assert again.table.equals(manifest.table)
    path = written(folder, *rows, "3,films/1379.png,90,F,val,ten", header=header)
    assert "chronological_age_months is 'ten'" in messages(path)[0]


def test_a_wrong_table_is_not_written_and_leaves_nothing(folder: Path) -> None:
    table = assign_splits(cohort(41), seed=0)  # one more than there are images
    table["image"] = "../" + table["image"]
    with pytest.raises(InputError, match=r"there is no image \.\./films/1417\.png"):
        write_manifest(table, folder / "new" / "manifest.csv")
    assert not (folder / "new").exists()


def test_images_are_found_from_a_folder_that_is_still_to_be_made(folder: Path) -> None:
    table = assign_splits(cohort(40), seed=0)
    table["image"] = "../../" + table["image"]
    manifest = write_manifest(table, folder / "a" / "b" / "manifest.csv")
    assert manifest.image_paths()[0] == (folder / "films" / "1377.png").resolve()
    assert len(read_manifest(folder / "a" / "b" / "manifest.csv")) == 40


def test_knowing_what_a_sex_is_imports_no_pandas() -> None:
    script = "import sys, boneage.datasets.label_rules; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@settings(max_examples=30, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_bytes_give_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_manifest(path)


def test_a_region_is_four_numbers_or_nothing(folder: Path) -> None:
    header = ",".join(COLUMNS) + ",region"
    manifest = read_manifest(
        written(folder, GOOD + ",10 0 900 1200", "2,films/1378.png,90,M,val,", header=header)
    )
    assert manifest.regions() == [(10, 0, 900, 1200), None]
    assert read_manifest(written(folder, GOOD)).regions() == [None]
    assert "region is '9 0 9 5'" in messages(written(folder, f"{GOOD},9 0 9 5", header=header))[0]


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("0 0 900 1200", (0, 0, 900, 1200)),
        (f"0 0 9999999 {'0' * 6}1", (0, 0, 9_999_999, 1)),
        ("0 0 10000000 1", None),
        (f"0 0 {'9' * 5000} 1", None),
        ("0 9 5 9", None),
        ("0 0 1", None),
        ("-1 0 5 5", None),
        ("0 0 ² 1", None),
    ],
)
def test_a_region_is_four_numbers_of_at_most_seven_digits(
    text: str, region: tuple[int, int, int, int] | None
) -> None:
    assert parse_region(text) == region
