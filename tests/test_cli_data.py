from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from boneage.cli_data import data_app
from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError


def boneage_data(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, [str(argument) for argument in arguments])


def test_frame_prints_the_crop_in_pixels_of_the_film(cohort: Path) -> None:
    films = read_manifest(cohort).image_paths()[:3]
    result = boneage_data("frame", *films, "--json")
    assert result.exit_code == 0
    frames = json.loads(result.stdout)["frames"]
    assert [found["image"] for found in frames] == [str(film) for film in films]
    for found in frames:
        assert 0 <= found["left"] < found["right"] <= 96
        assert 0 <= found["top"] < found["bottom"] <= 96
        assert found["rotation"] == 0
        assert found["why"] == "hand"
    (line,) = boneage_data("frame", films[0]).stdout.splitlines()
    box = " ".join(str(frames[0][side]) for side in ("left", "top", "right", "bottom"))
    assert line == f"{films[0]}: {box}, turned by 0, hand"


def test_frame_answers_for_the_films_that_can_be_read_and_names_the_others(
    cohort: Path, tmp_path: Path
) -> None:
    film = read_manifest(cohort).image_paths()[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(film.read_bytes()[:200])
    result = boneage_data("frame", broken, film, "--json")
    assert isinstance(result.exception, InputError)
    assert "broken.png" in str(result.exception)
    (found,) = json.loads(result.stdout)["frames"]
    assert found["image"] == str(film)


def test_look_draws_the_oddest_films_first(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort.parent, folder)
    manifest = folder / "manifest.csv"
    blank = read_manifest(manifest).image_paths()[30]
    assert cv2.imwrite(str(blank), np.full((96, 96), 7, np.uint8))
    result = boneage_data("look", manifest, "--count", 25, "--size", 64)
    assert result.exit_code == 0
    sheets = [folder / "manifest.look" / f"look-0{number}.png" for number in (1, 2)]
    assert result.stdout.split() == [str(sheet) for sheet in sheets]
    first, second = (cv2.imread(str(sheet)) for sheet in sheets)
    assert first.shape[1] == second.shape[1]
    assert first.shape[0] > 3 * second.shape[0]  # twenty on one, five on the other
    red = (first[..., 2] > 200) & (first[..., 0] < 120) & (first[..., 1] < 120)
    rows, columns = np.nonzero(red)
    assert len(rows)  # the frame of a film that was kept whole, in the first place
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


@pytest.mark.parametrize("verb", ["prepare", "look"])
def test_a_size_and_a_recipe_do_not_go_together(verb: str, cohort: Path, tiny_recipe: Path) -> None:
    result = boneage_data(verb, cohort, "--size", 64, "--recipe", tiny_recipe)
    assert "either a size or --recipe" in str(result.exception)
