from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.evaluation.metrics import score
from boneage.evaluation.result import open_results, prepare_results, write_result
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


@pytest.mark.slow
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


def test_the_run_that_was_fine_tuned_is_named_without_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    init = {"name": "first", "digest": "abc", "known_ids": {"val": 7, "test": 0}}
    write_json(run.info_path, {**run.read_info(), "init": init | {"folder": "/data/runs/first"}})
    assert read_json(write_result(run))["init"] == init


def rounded(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: rounded(inner) for name, inner in part.items()}
    return round(part, 6)


def test_fewer_than_five_images_are_only_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    metrics = read_json(write_result(run))["metrics"]["test"]
    made = read_json(run.metrics_path("test"))
    bands = metrics["groups"]["age_band"]
    assert bands["0-60"] == {"n": 3}
    main = ("n", "mae_months", "bias_months", "within_12_months")
    girls = {name: made["groups"]["sex"]["F"][name] for name in main}
    assert metrics["groups"]["sex"]["F"] == rounded(girls)
    assert bands["180+"].keys() == {*main, "dilution_bias_months"}
    assert metrics["rmse_months"] == rounded(made["rmse_months"])
    score = json.dumps(metrics["mae_months"]).replace("{", "{ ").replace("}", " }")
    assert f'"mae_months": {score}' in run.result_path.read_text()  # in one line
    assert bands["60-120"]["n"] >= 5
    assert metrics["mae_months"] == made["mae_months"]
    few = make_run(tmp_path / "few", count=4)
    assert read_json(write_result(few))["metrics"]["test"] == {"n": 4}


@pytest.mark.parametrize(
    ("weights", "source", "kept"),
    [
        ("none", "readings, infants, seeded split", ("none", "readings, infants, seeded split")),
        ("/home/ann/weights/mine.h5", "us, /home/ann/a.csv", ("mine.h5", "us, a.csv")),
        ("..\\weights\\mine.h5", "a.png, b.png, c.png, d.png, e.png, f.png",
         ("mine.h5", "many sources")),
        ("imagenet", "x" * 201, ("imagenet", "many sources")),
    ],
)  # fmt: skip
def test_of_weights_and_sources_no_folder_and_no_list_of_images_is_kept(
    tmp_path: Path, weights: str, source: str, kept: tuple[str, str]
) -> None:
    result = read_json(write_result(make_run(tmp_path, weights=weights, source=source)))
    assert (result["recipe"]["model"]["weights"], result["manifest"]["source"]) == kept
    assert not [value for value in values(result) if str(value).startswith("/")]


# --- The folder that results go to.


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A released model, without the model; its results go to `runs/small`."""
    run = make_run(tmp_path / "shipped" / "small")
    write_json(run.folder / "release.json", {"name": "small"})
    monkeypatch.setattr("boneage.prediction.shipped.shipped_models", lambda: {"small": run.folder})
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    return run


def test_results_of_a_run_go_into_its_folder_or_into_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert prepare_results(run).folder == prepare_results(run, run.folder).folder == run.folder
    other = prepare_results(run, tmp_path / "other")
    assert other.folder == tmp_path / "other"
    assert other.read_info() == run.read_info()
    assert prepare_results(run, other.folder) == open_results(other.folder) == other


def test_results_of_a_shipped_model_go_into_the_runs(release: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate small --data MANIFEST"):
        open_results(Path("small"))
    results = prepare_results(release)
    assert results.folder == tmp_path / "runs" / "small"
    assert sorted(path.name for path in results.folder.iterdir()) == ["recipe.json", "run.json"]
    assert open_results(Path("small")) == results


def test_a_folder_of_another_run_or_of_a_released_model_is_refused(
    release: Run, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", source="other")
    with pytest.raises(InputError, match=r"belongs to another run: its run.json differs"):
        prepare_results(release, run.folder)
    with pytest.raises(InputError, match="released model, and nothing is written into it"):
        prepare_results(run, release.folder)
