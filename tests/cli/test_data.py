from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from boneage.cli.data import data_app
from boneage.datasets.manifest import read_manifest, write_manifest
from boneage.errors import InputError


def boneage_data(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, [str(argument) for argument in arguments])


def test_frame_prints_the_crop_in_pixels_of_the_radiograph(cohort: Path) -> None:
    radiographs = read_manifest(cohort).image_paths()[:3]
    result = boneage_data("frame", *radiographs, "--json")
    assert result.exit_code == 0
    frames = json.loads(result.stdout)["frames"]
    assert [found["image"] for found in frames] == [str(radiograph) for radiograph in radiographs]
    for found in frames:
        assert 0 <= found["left"] < found["right"] <= 96
        assert 0 <= found["top"] < found["bottom"] <= 96
        assert found["rotation"] == 0
        assert found["why"] == "hand"
    (line,) = boneage_data("frame", radiographs[0]).stdout.splitlines()
    box = " ".join(str(frames[0][side]) for side in ("left", "top", "right", "bottom"))
    assert line == f"{radiographs[0]}: {box}, turned by 0, hand"


def test_frame_answers_for_the_radiographs_that_can_be_read_and_names_the_others(
    cohort: Path, tmp_path: Path
) -> None:
    radiograph = read_manifest(cohort).image_paths()[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(radiograph.read_bytes()[:200])
    result = boneage_data("frame", broken, radiograph, "--json")
    assert isinstance(result.exception, InputError)
    assert "broken.png" in str(result.exception)
    (found,) = json.loads(result.stdout)["frames"]
    assert found["image"] == str(radiograph)


def test_frame_takes_a_recipe_s_framing(cohort: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "film.toml"
    recipe.write_text('name = "film"\n[framing]\ncrop = "none"\n')
    radiograph = read_manifest(cohort).image_paths()[0]
    result = boneage_data("frame", radiograph, "--recipe", recipe)
    assert result.stdout.startswith(f"{radiograph}: 0 0 96 96, turned by 0, whole")


def test_contact_sheet_says_that_it_can_not_write_before_it_prepares(
    cohort: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    before = sorted(folder.rglob("*"))
    result = boneage_data(
        "contact-sheet", folder / "manifest.csv", "--out", folder / "manifest.csv"
    )
    assert isinstance(result.exception, InputError)
    assert "no file can be written to this folder" in str(result.exception)
    assert sorted(folder.rglob("*")) == before


def test_contact_sheet_replaces_older_sheets_and_takes_any_id(cohort: Path, tmp_path: Path) -> None:
    folder, sheets = tmp_path / "cohort", tmp_path / "sheets"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    table = read_manifest(folder / "manifest.csv").table.head(6)
    ids = ["NA", "null", "nan", "None", "Mädchen", "x" * 90]
    manifest = write_manifest(table.assign(image_id=ids), folder / "odd.csv")
    sheets.mkdir()
    kept = [sheets / "contact-sheet-out.png", sheets / "contact-sheet-1.jpg"]
    for path in (*kept, sheets / "contact-sheet-01.png", sheets / "contact-sheet-07.png"):
        path.touch()
    result = boneage_data("contact-sheet", manifest.path, "--size", 64, "--out", sheets)
    assert result.exit_code == 0, result.exception
    assert sorted(sheets.iterdir()) == sorted([*kept, sheets / "contact-sheet-01.png"])
    sheet = cv2.imread(str(sheets / "contact-sheet-01.png"))
    assert (sheet[:18, 10:400] > 150).any()  # the legend


def test_contact_sheet_draws_the_oddest_radiographs_first(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    manifest = folder / "manifest.csv"
    blank = read_manifest(manifest).image_paths()[30]
    assert cv2.imwrite(str(blank), np.full((96, 96), 7, np.uint8))
    result = boneage_data("contact-sheet", manifest, "--count", 25, "--size", 64)
    assert result.exit_code == 0
    sheets = [
        folder / "manifest.contact-sheet" / f"contact-sheet-0{number}.png" for number in (1, 2)
    ]
    assert result.stdout.split() == [str(sheet) for sheet in sheets]
    first, second = (cv2.imread(str(sheet)) for sheet in sheets)
    assert first.shape[1] == second.shape[1]
    assert first.shape[0] > 3 * second.shape[0]  # twenty on one, five on the other
    red = (first[..., 2] > 200) & (first[..., 0] < 120) & (first[..., 1] < 120)
    rows, columns = np.nonzero(red)
    assert len(rows)  # the frame of a radiograph that was kept whole, in the first place
    assert rows.max() < first.shape[0] / 4
    assert columns.max() < first.shape[1] / 5
    frames = pd.read_csv(next(folder.glob("manifest.store/*/frames.csv")), dtype={"image_id": str})
    (whole,) = frames.loc[frames["why"] != "hand", "image_id"]
    assert whole == read_manifest(manifest).table["image_id"][30]


def test_download_does_nothing_before_the_terms_are_accepted(tmp_path: Path) -> None:
    result = boneage_data("download", "rsna", tmp_path / "rsna")
    assert isinstance(result.exception, InputError)
    assert "--accept-terms" in str(result.exception)
    assert not (tmp_path / "rsna").exists()


@pytest.mark.parametrize("verb", ["prepare", "contact-sheet"])
def test_a_size_and_a_recipe_do_not_go_together(verb: str, cohort: Path, tiny_recipe: Path) -> None:
    result = boneage_data(verb, cohort, "--size", 64, "--recipe", tiny_recipe)
    assert "--size and --recipe can't be combined" in str(result.exception)


def test_prepare_says_where_the_store_is(boneage, cohort_copy):
    code, out, _ = boneage("data", "prepare", cohort_copy, "--size", 32)
    assert code == 0
    assert "60 images of 32 x 32 pixels" in out


def test_check_exits_with_2_and_names_every_fault(boneage, edit, cohort_copy):
    assert boneage("data", "check", cohort_copy)[0] == 0
    images = sorted((cohort_copy.parent / "images").iterdir())
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:300])
    images[2].unlink()
    edit(cohort_copy, 4, sex="X")
    code, out, _ = boneage("data", "check", cohort_copy, "--json")
    assert code == 2
    faults = json.dumps(json.loads(out)["faults"])
    for broken in (images[0].stem, images[1].stem, images[2].stem, "'X'"):
        assert broken in faults


def test_a_table_of_years_imported_as_months_is_refused(boneage, refused, cohort_copy, tmp_path):
    table = pd.read_csv(cohort_copy)
    table["age"] = table["age_months"] / 12
    table.to_csv("ages.csv", index=False)
    result = boneage(
        "data", "import", "table", "ages.csv", "--image", "image", "--age", "age",
        "--age-unit", "months", "--sex", "sex", "--female", "F", "--male", "M",
        "--image-root", cohort_copy.parent, "--out", "new/manifest.csv",
    )  # fmt: skip
    refused(result, "--age-unit years")
    assert not (tmp_path / "new").exists()


def test_prepare_takes_a_size_or_a_recipe(boneage, refused, cohort, tiny_recipe):
    result = boneage("data", "prepare", cohort, "--size", 64, "--recipe", tiny_recipe)
    refused(result, "--size and --recipe can't be combined")
