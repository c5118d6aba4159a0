from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest, write_manifest


def test_frame_prints_the_crop_in_pixels_and_names_unreadable_radiographs(
    boneage, cohort: Path, tmp_path: Path
) -> None:
    radiographs = read_manifest(cohort).image_paths()[:3]
    code, out, _ = boneage("data", "frame", *radiographs, "--json")
    assert code == 0
    frames = json.loads(out)["frames"]
    assert [found["image"] for found in frames] == [str(radiograph) for radiograph in radiographs]
    for found in frames:
        assert 0 <= found["left"] < found["right"] <= 96
        assert 0 <= found["top"] < found["bottom"] <= 96
        assert (found["rotation"], found["why"]) == (0, "hand")
    broken = tmp_path / "broken.png"
    broken.write_bytes(radiographs[0].read_bytes()[:200])
    code, out, err = boneage("data", "frame", broken, radiographs[0])
    box = " ".join(str(frames[0][side]) for side in ("left", "top", "right", "bottom"))
    assert out == f"{radiographs[0]}: {box}, turned by 0, hand\n"
    assert (code, "broken.png" in err) == (2, True)


def test_frame_takes_a_recipe_s_framing(boneage, cohort: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "whole.toml"
    recipe.write_text('name = "whole"\n[framing]\ncrop = "none"\n')
    radiograph = read_manifest(cohort).image_paths()[0]
    _, out, _ = boneage("data", "frame", radiograph, "--recipe", recipe)
    assert out.startswith(f"{radiograph}: 0 0 96 96, turned by 0, whole")


def test_contact_sheet_refuses_an_out_that_it_can_not_write_to(
    boneage, refused, cohort_copy: Path
) -> None:
    before = sorted(cohort_copy.parent.rglob("*"))
    result = boneage("data", "contact-sheet", cohort_copy, "--out", cohort_copy)
    refused(result, "no file can be written to this folder")
    assert sorted(cohort_copy.parent.rglob("*")) == before, "it prepared the images"


def test_contact_sheet_replaces_older_sheets_and_takes_any_id(
    boneage, cohort_copy: Path, tmp_path: Path
) -> None:
    sheets = tmp_path / "sheets"
    table = read_manifest(cohort_copy).table.head(6)
    ids = ["NA", "null", "nan", "None", "Mädchen", "x" * 90]
    manifest = write_manifest(table.assign(image_id=ids), cohort_copy.with_name("odd.csv"))
    sheets.mkdir()
    kept = [sheets / "contact-sheet-out.png", sheets / "contact-sheet-1.jpg"]
    for path in (*kept, sheets / "contact-sheet-01.png", sheets / "contact-sheet-07.png"):
        path.touch()
    code, _, err = boneage("data", "contact-sheet", manifest.path, "--size", 64, "--out", sheets)
    assert code == 0, err
    assert sorted(sheets.iterdir()) == sorted([*kept, sheets / "contact-sheet-01.png"])
    sheet = cv2.imread(str(sheets / "contact-sheet-01.png"))
    assert (sheet[:18, 10:400] > 150).any()  # the legend


def test_contact_sheet_draws_the_oddest_radiographs_first(boneage, cohort_copy: Path) -> None:
    odd = read_manifest(cohort_copy).image_paths()[30]
    no_hand = np.tile(np.linspace(0, 255, 96), (96, 1))
    assert cv2.imwrite(str(odd), no_hand.astype(np.uint8))
    code, out, _ = boneage("data", "contact-sheet", cohort_copy, "--count", 25, "--size", 64)
    assert code == 0
    folder = cohort_copy.parent / "manifest.contact-sheet"
    sheets = [str(folder / f"contact-sheet-0{number}.png") for number in (1, 2)]
    assert out.split() == sheets
    first, second = map(cv2.imread, sheets)
    assert first.shape[1] == second.shape[1]
    assert first.shape[0] > 3 * second.shape[0]  # twenty images in the first, five in the second
    red = (first[..., 2] > 200) & (first[..., 0] < 120) & (first[..., 1] < 120)
    rows, columns = np.nonzero(red)  # the frame of an image that was kept whole
    assert 0 < rows.max() < first.shape[0] / 4
    assert columns.max() < first.shape[1] / 5
    (frames,) = cohort_copy.parent.glob("manifest.store/*/frames.csv")
    table = pd.read_csv(frames, dtype={"image_id": str})
    assert table.loc[table["why"] != "hand", "image_id"].tolist() == ["000030"]


def test_download_does_nothing_before_the_terms_are_accepted(boneage, refused, tmp_path) -> None:
    refused(boneage("data", "download", "rsna", "rsna"), "--accept-terms")
    assert not (tmp_path / "rsna").exists()


def test_prepare_says_where_the_store_is(boneage, cohort_copy):
    code, out, _ = boneage("data", "prepare", cohort_copy, "--size", 32)
    assert code == 0
    assert "60 images of 32 x 32 pixels" in out


@pytest.mark.parametrize("verb", ["prepare", "contact-sheet"])
def test_a_size_and_a_recipe_do_not_go_together(boneage, refused, cohort, tiny_recipe, verb):
    result = boneage("data", verb, cohort, "--size", 64, "--recipe", tiny_recipe)
    refused(result, "--size and --recipe can't be combined")


def test_check_exits_with_2_and_names_every_fault(boneage, edit, cohort_copy):
    assert boneage("data", "check", cohort_copy)[0] == 0
    images = sorted((cohort_copy.parent / "images").iterdir())
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:300])
    images[2].unlink()
    edit(cohort_copy, 4, sex="X")
    code, out, _ = boneage("data", "check", cohort_copy, "--json")
    assert code == 2
    assert json.loads(out)["split_digest"] is None, "the table is faulty"
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


def test_frame_refuses_a_blank_image(boneage, tmp_path):
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((64, 64), 255, np.uint8))
    code, out, err = boneage("data", "frame", "blank.png", "--json")
    assert (code, json.loads(out)["frames"]) == (2, [])
    assert "blank.png: every pixel is 255. " in err


def test_a_card_replaces_no_other_file(boneage, refused, cohort, tmp_path):
    table = tmp_path / "ages.csv"
    table.write_bytes(cohort.read_bytes())
    answer = boneage("data", "card", cohort, "--out", "ages.csv")
    refused(answer, "ages.csv: this file exists and is no page, so it is not replaced")
    assert table.read_bytes() == cohort.read_bytes()
    for _ in range(2):  # an earlier card is replaced
        assert boneage("data", "card", cohort, "--out", "card.html")[0] == 0


def test_a_card_is_no_folder(boneage, refused, cohort, tmp_path):
    (tmp_path / "cards").mkdir()
    answer = boneage("data", "card", cohort, "--out", "cards")
    refused(answer, "cards: it is a folder. Name a file: cards")
