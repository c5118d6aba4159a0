from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.evaluation.metrics import score
from boneage.evaluation.result import write_result
from boneage.recipe import Model, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest


def values(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        for name, inner in part.items():
            yield name
            yield from values(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from values(inner)
    else:
        yield part


def test_a_result_has_scores_recipe_and_provenance_and_names_no_image_or_path(
    finished_run: Run, cohort: Path
) -> None:
    text = write_result(finished_run).read_text()
    result = json.loads(text)
    assert result["manifest"]["digest"] == file_digest(cohort)
    assert result["recipe"]["name"] == result["name"] == "tiny"
    assert set(result["metrics"]) == {"val", "test"}
    assert result["metrics"]["test"]["n"] == 6
    assert result["provenance"]["versions"]["keras"]
    found = {value for value in values(result) if isinstance(value, str)}
    assert not found & set(read_manifest(cohort).table["image_id"])
    assert not [value for value in found if value.startswith("/")]
    assert ".png" not in text


def make_run(folder: Path, *, source: str = "table", weights: str = "none", count: int = 40) -> Run:
    """A run that was evaluated on `count` images: a quarter of them girls, three under five."""
    run = Run(folder)
    recipe = Recipe(name="small", model=Model(weights=weights))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    manifest = {"path": str(folder / "m.csv"), "digest": "d", "counts": {}, "source": source}
    write_json(run.info_path, {"name": "small", "provenance": {}, "manifest": manifest})
    age = np.r_[[30.0] * 3, np.linspace(100, 220, 37)][:count]
    sex = np.resize(["F", "M", "M", "M"], count)
    metrics = score(age, age + np.resize([3.0, -5.0, 1.0], count), sex, bootstrap=20)
    where = {"path": str(folder / "m.csv")}
    write_json(run.metrics_path("test"), {**metrics, "split": "test", "manifest": where})
    return run


def test_what_a_run_was_fine_tuned_from_is_told_without_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    init = {
        "name": "first",
        "folder": "/data/runs/first",
        "digest": "abc",
        "known_ids": {"val": 7, "test": 0},
    }
    write_json(run.info_path, {**read_json(run.info_path), "init": init})
    result = read_json(write_result(run))
    assert result["init"] == {"name": "first", "digest": "abc", "known_ids": {"val": 7, "test": 0}}


def test_groups_of_fewer_than_five_images_are_only_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    metrics = read_json(write_result(run))["metrics"]["test"]
    made = read_json(run.metrics_path("test"))
    bands = metrics["groups"]["age_band"]
    assert bands["0-60"] == {"n": 3}
    assert bands["180+"] == made["groups"]["age_band"]["180+"]
    assert metrics["groups"]["sex"] == made["groups"]["sex"]
    assert bands["60-120"]["n"] >= 5
    assert metrics["mae_months"] == made["mae_months"]


def test_a_split_of_fewer_than_five_images_is_only_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, count=4)
    assert read_json(write_result(run))["metrics"]["test"] == {"n": 4}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("none", "none"),
        ("imagenet", "imagenet"),
        ("/home/ann/weights/mine.h5", "mine.h5"),
        ("..\\weights\\mine.h5", "mine.h5"),
    ],
)
def test_of_a_weights_file_only_the_name_is_kept(tmp_path: Path, weights: str, told: str) -> None:
    result = read_json(write_result(make_run(tmp_path, weights=weights)))
    assert result["recipe"]["model"]["weights"] == told
    assert not [v for v in values(result) if isinstance(v, str) and v.startswith("/")]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("readings, infants, seeded split", "readings, infants, seeded split"),
        (", ".join(f"film{number}.png" for number in range(6)), "many sources"),
        ("x" * 201, "many sources"),
        ("clinic, /home/ann/films.csv", "clinic, films.csv"),
    ],
)
def test_a_source_for_every_image_is_not_told(tmp_path: Path, source: str, told: str) -> None:
    result = read_json(write_result(make_run(tmp_path, source=source)))
    assert result["manifest"]["source"] == told
