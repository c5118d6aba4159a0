"""Cross-validation: the folds, the tables, and real trainings that are resumed."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, read_manifest, write_manifest
from boneage.evaluation.scoring import predict_split
from boneage.pipeline.store import open_store
from boneage.prediction.predictor import Predictor
from boneage.recipe import read_recipe
from boneage.run import Run
from boneage.runtime.files import read_json
from boneage.training.series.cross_validation import plan_folds, prepare_folds
from boneage.training.stop_signals import Stop, Terminated
from boneage.training.trainer import train

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def cross_validate(boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path) -> Command:
    """Runs `boneage cross-validate` into the folder cv, with the stand-in for trainings."""

    def run(folds: int, *options: object, data: Path = cohort) -> tuple[int, str, str]:
        command = ("cross-validate", tiny_recipe, "--data", data, "--out", "cv", "--folds", folds)
        return boneage(*command, *options)

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Which runs were asked to predict which split together: two months too old."""
    asked: list[tuple[list[str], str]] = []

    def predict(predictor: list[Run], manifest: Manifest, split: str) -> pd.DataFrame:
        asked.append(([run.folder.name for run in predictor], split))
        table = manifest.split(split).table[["image_id", "age_months", "sex"]]
        return table.assign(predicted_age_months=table["age_months"] + 2)

    module = "boneage.training.series.cross_validation"
    monkeypatch.setattr(f"{module}.Predictor", list)
    monkeypatch.setattr(f"{module}.predict_split", predict)
    return asked


def plan(recipe: Path, manifest: Manifest, out: Path, folds: int = 3) -> list[Manifest]:
    return [each.manifest for each in plan_folds(read_recipe(recipe), manifest, out, folds)]


def with_patients(cohort: Path, folder: Path, patients: list[str], test: str = "") -> Manifest:
    """The cohort with several images a patient. Everyone but `test` is in train."""
    manifest = read_manifest(cohort)
    table = manifest.table.assign(image=[str(path) for path in manifest.image_paths()])
    table["patient_id"] = np.resize(patients, len(table))
    table["sex"] = table["patient_id"].map(lambda name: "FM"[patients.index(name) % 2])
    table["split"] = np.where(table["patient_id"] == test, "test", "train")
    return write_manifest(table, folder / "patients.csv")


def held_out(fold: Manifest, whole: Manifest) -> pd.Series:
    """The ids that a fold holds out: those of its test split that are not in the original one."""
    test = whole.table.loc[whole.table["split"] == "test", "image_id"]
    ids = fold.split("test").table["image_id"]
    assert set(test) <= set(ids)
    return ids[~ids.isin(test)]


def test_every_image_is_held_out_once_and_the_test_split_stays(tiny_recipe, cohort, tmp_path):
    manifest = read_manifest(cohort)
    folds = plan(tiny_recipe, manifest, tmp_path / "cv")
    whole = manifest.table
    ids = pd.concat([held_out(fold, manifest) for fold in folds])
    assert sorted(ids) == sorted(whole.loc[whole["split"] != "test", "image_id"])
    for number, fold in enumerate(folds, 1):
        assert fold.path == tmp_path / "cv" / f"fold-{number}.csv"
        assert read_manifest(fold.path).digest == fold.digest
        assert fold.image_paths() == manifest.image_paths()
        same = ["image_id", "age_months", "sex"]
        pd.testing.assert_frame_equal(fold.table[same], whole[same])
        counts = fold.table["split"].value_counts()
        assert counts.to_dict() == {"train": 32, "val": 4, "test": 18 + 6}


def test_the_epoch_is_chosen_by_patients_of_the_training_folds(tiny_recipe, cohort, tmp_path):
    patients = [f"p{number}" for number in range(13)]
    manifest = with_patients(cohort, tmp_path, patients, test="p12")
    for fold in plan(tiny_recipe, manifest, tmp_path / "cv"):
        by_split = fold.table.groupby("split")["patient_id"].unique()
        assert sum(len(names) for names in by_split) == 13
        assert not set(by_split["val"]) & set(by_split["test"])
        assert len(by_split["val"]) == 1


def test_patients_stay_together_and_the_seed_assigns_the_folds(tiny_recipe, cohort, tmp_path):
    patients = [f"p{number}" for number in range(13)]
    manifest = with_patients(cohort, tmp_path, patients, test="p12")
    splits = []
    for folder in ("one", "two"):
        folds = plan(tiny_recipe, manifest, tmp_path / folder, folds=4)
        splits.append([list(fold.table["split"]) for fold in folds])
        for fold in folds:
            assert len(fold.table[["patient_id", "split"]].drop_duplicates()) == 13
    assert splits[0] == splits[1]
    other = plan_folds(read_recipe(tiny_recipe, seed=4), manifest, tmp_path / "three", 4)
    assert [list(each.manifest.table["split"]) for each in other] != splits[0]


def test_two_regions_of_a_radiograph_stay_together(tiny_recipe, cohort, tmp_path):
    manifest = read_manifest(cohort)
    table = manifest.table.assign(image=[str(path) for path in manifest.image_paths()])
    halves = [
        table.assign(image_id=side + table["image_id"], region=region)
        for side, region in (("left", "0 0 40 90"), ("right", "40 0 90 90"))
    ]
    both = write_manifest(pd.concat(halves), tmp_path / "halves.csv")
    for fold in plan(tiny_recipe, both, tmp_path / "cv"):
        assert len(fold.table[["image", "split"]].drop_duplicates()) == 60
        assert fold.regions() == both.regions()


def test_all_folds_share_the_pixels_of_one_store(tiny_recipe, cohort, tmp_path):
    manifest, recipe = read_manifest(cohort), read_recipe(tiny_recipe)
    planned = plan_folds(recipe, manifest, tmp_path / "cv", 3)
    prepare_folds(manifest, planned)
    stores = sorted(tmp_path.glob("cv/fold-*.store/*/images.npy"))
    assert [path.parent.parent.name for path in stores] == [f"fold-{i}.store" for i in (1, 2, 3)]
    assert all(path.samefile(stores[0]) for path in stores)


def test_whole_radiographs_are_prepared_once_for_all_folds(tiny_recipe, cohort, tmp_path):
    manifest = read_manifest(cohort)
    recipe = read_recipe(tiny_recipe, ["augmentation.whole_image=0.4"])
    planned = plan_folds(recipe, manifest, tmp_path / "cv", 2, 9.0)
    prepare_folds(manifest, planned)
    stores = sorted(tmp_path.glob("cv/fold-*.store/*/images.npy"))
    assert len(stores) == 4
    assert len({path.stat().st_ino for path in stores}) == 2
    assert {len(open_store(path.parent)) for path in stores} == {54}


def test_faulty_folds_are_refused(cross_validate, trainer, cohort, tmp_path):
    manifest = with_patients(cohort, tmp_path, ["a", "b", "c", "d"], test="d")
    for folds, message in ((1, "--folds 1"), (4, "--folds 4: there are 3 patients")):
        code, _, err = cross_validate(folds, data=manifest.path)
        assert (code, message in err) == (2, True), err
        assert not (tmp_path / "cv").exists()
    few = with_patients(cohort, tmp_path, ["a", "b"])
    code, _, err = cross_validate(2, data=few.path)
    assert (code, "without fold 1, the images are of one patient" in err) == (2, True), err
    assert not (tmp_path / "cv").exists()
    only_test = manifest.path.with_name("test.csv")
    write_manifest(manifest.table.assign(split="test"), only_test)
    code, _, err = cross_validate(2, data=only_test)
    assert "all images are in the test split" in err
    code, _, err = cross_validate(2, "--fold", 3)
    assert code == 2
    assert "--fold 3: the series has 2 runs" in err
    assert not trainer.asked


def test_the_table_is_that_of_the_predictions(cross_validate, boneage, cohort, tmp_path):
    code, out, err = cross_validate(3)
    assert code == 0, err
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert "chosen by a tenth of the training folds" in out
    whole, text = read_manifest(cohort), {"image_id": str}
    test = set(whole.split("test").table["image_id"])
    tables: dict[str, list[pd.DataFrame]] = {"held_out": [], "test": []}
    baselines = []
    for number in (1, 2, 3):
        folder = tmp_path / "cv" / f"fold-{number}"
        predicted = pd.read_csv(folder / "predictions-test.csv", dtype=text)
        is_test = predicted["image_id"].isin(test)
        for part, rows in (("held_out", predicted[~is_test]), ("test", predicted[is_test])):
            tables[part].append(rows)
        train = read_manifest(folder.with_suffix(".csv")).split("train").table
        medians = tables["held_out"][-1]["sex"].map(train.groupby("sex")["age_months"].median())
        baselines.append((tables["held_out"][-1]["age_months"] - medians).abs())
    for part, folds in tables.items():
        maes = [float((t["predicted_age_months"] - t["age_months"]).abs().mean()) for t in folds]
        for row, mae in zip(result["rows"], maes, strict=True):
            assert row[part]["mae_months"]["value"] == pytest.approx(mae)
        means = result[part]["mean_of_folds"]
        assert means["mean"] == pytest.approx(statistics.mean(maes))
        assert means["standard_deviation"] == pytest.approx(statistics.stdev(maes))
        assert f"{statistics.mean(maes):.2f} ± {statistics.stdev(maes):.2f}" in out

    pooled, answer = pd.concat(tables["held_out"]), result["held_out"]["pooled"]
    mae = (pooled["predicted_age_months"] - pooled["age_months"]).abs().mean()
    assert answer["n"] == 54
    assert answer["mae_months"]["value"] == pytest.approx(mae)
    baseline = answer["baseline"]["median_by_sex"]["mae_months"]["value"]
    assert baseline == pytest.approx(pd.concat(baselines).mean())
    written = pd.read_csv(tmp_path / "cv" / "predictions-out-of-fold.csv", dtype=text)
    assert list(written["image_id"]) == list(pooled["image_id"])
    assert written["fold"].value_counts().to_dict() == {1: 18, 2: 18, 3: 18}
    command = ("evaluate", "--predictions", "cv/predictions-out-of-fold.csv", "--json")
    assert json.loads(boneage(*command)[1])["mae_months"] == answer["mae_months"]

    mean = sum(table["predicted_age_months"].to_numpy() for table in tables["test"]) / 3
    mae = np.abs(mean - tables["test"][0]["age_months"]).mean()
    assert result["test"]["ensemble"]["mae_months"]["value"] == pytest.approx(mae)
    written = pd.read_csv(tmp_path / "cv" / "predictions-test.csv")
    np.testing.assert_allclose(written["predicted_age_months"], mean, atol=1e-9)
    assert f"mean of the 3 on 6 test images: {mae:.2f} [" in out
    assert "image_id" not in json.dumps(result)
    assert str(tmp_path) not in json.dumps(result)


def test_pooling_waits_for_all_folds(cross_validate, trainer, tmp_path):
    trainer.outcomes = {"fold-2": "failed"}
    code, out, _ = cross_validate(3)
    assert code == 1
    assert "1 of 3 runs are not finished" in out
    assert "out of fold" not in out
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert result["complete"] is False
    assert result["held_out"]["mean_of_folds"]["n"] == 2
    assert not (tmp_path / "cv" / "predictions-out-of-fold.csv").exists()


def test_without_a_test_split_there_is_no_test_column(cross_validate, cohort, tmp_path):
    manifest = with_patients(cohort, tmp_path, [f"p{number}" for number in range(14)])
    code, out, err = cross_validate(2, data=manifest.path)
    assert code == 0, err
    assert "test" not in read_json(tmp_path / "cv" / "cross-validation.json")
    assert "test" not in out


def test_a_series_whose_folds_chose_their_own_epochs_is_refused(cross_validate, tmp_path, contents):
    cross_validate(3)
    path = tmp_path / "cv" / "series.json"
    plan = read_json(path)
    del plan["epoch_chosen_by"]  # as an earlier version wrote it
    path.write_text(json.dumps(plan))
    before = contents(tmp_path / "cv")
    for options in ((), ("--table",)):
        code, _, err = cross_validate(3, *options)
        assert code == 2
        assert "epoch_chosen_by is" in err
        assert "the held-out fold is only scored" in err
    assert contents(tmp_path / "cv") == before


def test_changed_folds_are_refused(cross_validate, tmp_path, contents):
    cross_validate(3)
    before = contents(tmp_path / "cv")
    code, _, err = cross_validate(2, "--seed", 8)
    assert code == 2
    assert "cv: folds is 2, but series.json records 3" in err
    assert "cv: seed is 8, but series.json records 3" in err
    assert contents(tmp_path / "cv") == before
    path = tmp_path / "cv" / "fold-1.csv"
    path.write_text(path.read_text().replace(",train", ",val", 1))
    code, _, err = cross_validate(3)
    assert code == 2
    assert "fold-1.csv: the file was changed after it was written" in err


def test_intervals_draw_whole_patients(cross_validate, cohort, tmp_path):
    manifest = with_patients(cohort, tmp_path, [f"p{number}" for number in range(13)], test="p12")
    code, _, err = cross_validate(3, data=manifest.path)
    assert code == 0, err
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert result["held_out"]["pooled"]["patients"] == 12
    table = pd.read_csv(tmp_path / "cv" / "predictions-out-of-fold.csv")
    assert table["patient_id"].nunique() == 12


def test_a_gate_keeps_the_test_split_out_of_all_folds(cross_validate, asked, cohort, tmp_path):
    code, out, err = cross_validate(3, "--gate", 1)
    assert code == 0, err
    assert "gate: the out-of-fold MAE is above 1 months. The test split was not scored." in out
    whole = read_manifest(cohort)
    test = set(whole.split("test").table["image_id"])
    for number in (1, 2, 3):
        fold = read_manifest(tmp_path / "cv" / f"fold-{number}.csv")
        assert len(fold) == len(whole) - len(test)
        assert not test & set(fold.table["image_id"])
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert result["gate"] == {"months": 1.0, "is_passed": False}
    assert result["held_out"]["pooled"]["n"] == 54
    assert not {"test", "test_scorings"} & set(result)
    assert not (tmp_path / "cv" / "predictions-test.csv").exists()
    code, _, err = cross_validate(3, "--gate", 100)
    assert (code, "gate_months is 100.0, but series.json records 1.0" in err) == (2, True), err
    code, _, err = cross_validate(3)
    assert (code, "gate_months is null, but series.json records 1.0" in err) == (2, True), err
    assert not asked


def test_behind_the_gate_the_mean_of_all_folds_is_scored_once(
    cross_validate, asked, cohort, tmp_path
):
    code, out, err = cross_validate(3, "--gate", 100, "--fold", 1)
    assert (code, asked, "gate" in out) == (0, [], False), err
    cross_validate(3, "--gate", 100, "--fold", 2)
    cross_validate(3, "--gate", 100, "--fold", 3)
    code, out, err = cross_validate(3, "--gate", 100)
    assert code == 0, err
    assert asked == [(["fold-1", "fold-2", "fold-3"], "test")]
    assert "at most 100 months. The test split was scored once." in out
    assert "mean of the 3 on 6 test images: 2.00 [" in out
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert (result["gate"]["is_passed"], result["test_scorings"]) == (True, 1)
    assert result["test"]["ensemble"]["mae_months"]["value"] == pytest.approx(2)
    written = pd.read_csv(tmp_path / "cv" / "predictions-test.csv", dtype={"image_id": str})
    assert list(written["image_id"]) == list(read_manifest(cohort).split("test").table["image_id"])


def test_a_gate_needs_a_test_split(cross_validate, cohort, tmp_path):
    manifest = with_patients(cohort, tmp_path, [f"p{number}" for number in range(14)])
    code, _, err = cross_validate(2, "--gate", 5, data=manifest.path)
    assert (code, "no row has split 'test'" in err) == (2, True), err
    assert not (tmp_path / "cv").exists()


@pytest.mark.usefixtures("trains_here")
def test_a_real_training_is_resumed_and_the_mean_scored_behind_the_gate(
    boneage, cohort, tiny_recipe, tiny_network, tmp_path, contents
):
    command = (
        "cross-validate", tiny_recipe, "--data", cohort, "--folds", 2, "--out", "cv", "--gate", 999,
        "--set", "model.backbone=tiny",
    )  # fmt: skip
    boneage(*command, "--table")  # writes the folds
    run, stop = Run(tmp_path / "cv" / "fold-1"), Stop()
    stop.asked = signal.SIGTERM  # in the first batch
    recipe = read_recipe(tmp_path / "cv" / "recipe.json")
    manifest = read_manifest(tmp_path / "cv" / "fold-1.csv")
    with pytest.raises(Terminated):
        train(recipe, manifest, run.folder, progress=False, stop=stop)
    assert run.read_info()["stopped"] == "terminated"

    code, out, err = boneage(*command, "--fold", 1)
    assert code == 0, err
    assert "run 1 of 2: fold-1 continues (it was cut off)" in err
    assert "1 of 2 runs are not finished" in out
    assert run.read_info()["resumed"]
    assert pd.read_csv(run.history_path)["epoch"].tolist() == [1, 2]
    files = contents(run.folder)
    assert {"best.keras", "report.html", "result.json", "predictions-test.csv"} <= set(files)
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert [row["state"] for row in result["rows"]] == ["finished", "to do"]

    code, _, err = boneage(*command, "--fold", 1)
    assert code == 0, err
    assert "run 1 of 2: fold-1 is already finished" in err
    assert contents(run.folder) == files

    code, out, err = boneage(*command)
    assert code == 0, err
    assert "at most 999 months. The test split was scored once." in out
    whole = read_manifest(cohort)
    folds = [
        predict_split(Predictor(Run(tmp_path / "cv" / name)), whole, "test", progress=False)
        for name in ("fold-1", "fold-2")
    ]
    mean = (folds[0]["predicted_age_months"] + folds[1]["predicted_age_months"]) / 2
    written = pd.read_csv(tmp_path / "cv" / "predictions-test.csv", dtype={"image_id": str})
    assert list(written["image_id"]) == list(whole.split("test").table["image_id"])
    np.testing.assert_allclose(written["predicted_age_months"], mean, atol=1e-3)
