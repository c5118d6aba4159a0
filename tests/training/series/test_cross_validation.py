"""Cross-validation: whose images are where, what the table says, and real trainings that go on."""

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
from boneage.recipe import Recipe, read_recipe
from boneage.run import Run
from boneage.runtime.files import read_json
from boneage.training.recorder import Records
from boneage.training.series.cross_validation import plan_folds, prepare_folds
from boneage.training.series.planned_runs import FINISHED
from boneage.training.stop_signals import Stop, Terminated
from boneage.training.trainer import train

Command = Callable[..., tuple[int, str, str]]
Contents = Callable[[Path], dict[str, bytes]]


def plan(recipe: Path, manifest: Manifest, out: Path, folds: int = 3) -> list[Manifest]:
    return [one.manifest for one in plan_folds(read_recipe(recipe), manifest, out, folds)]


def of_patients(cohort: Path, folder: Path, patients: list[str]) -> Manifest:
    """The cohort with some to a patient, each in one split."""
    manifest = read_manifest(cohort)
    table = manifest.table.assign(image=[str(path) for path in manifest.image_paths()])
    table["patient_id"] = np.resize(patients, len(table))
    table["split"] = np.where(table["patient_id"] == patients[-1], "test", "train")
    return write_manifest(table, folder / "patients.csv")


def test_every_image_of_train_and_val_is_held_out_once_and_test_never_trained_on(
    tiny_recipe: Path, cohort: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(cohort)
    folds = plan(tiny_recipe, manifest, tmp_path / "cv")
    whole = manifest.table
    held_out = pd.concat([fold.split("val").table["image_id"] for fold in folds])
    assert sorted(held_out) == sorted(whole.loc[whole["split"] != "test", "image_id"])
    for number, fold in enumerate(folds, 1):
        assert fold.path == tmp_path / "cv" / f"fold-{number}.csv"
        assert read_manifest(fold.path).digest == fold.digest
        assert fold.image_paths() == manifest.image_paths()
        same = ["image_id", "age_months", "sex"]
        pd.testing.assert_frame_equal(fold.table[same], whole[same])
        pd.testing.assert_series_equal(fold.table["split"] == "test", whole["split"] == "test")
        counts = fold.table["split"].value_counts()
        assert counts.to_dict() == {"train": 36, "val": 18, "test": 6}


def test_no_patient_is_on_both_sides_and_the_seed_deals_the_folds(
    tiny_recipe: Path, cohort: Path, tmp_path: Path
) -> None:
    manifest = of_patients(cohort, tmp_path, [f"p{number}" for number in range(13)])
    splits = []
    for folder in ("one", "two"):
        folds = plan(tiny_recipe, manifest, tmp_path / folder, folds=4)
        splits.append([list(fold.table["split"]) for fold in folds])
        for fold in folds:
            assert len(fold.table[["patient_id", "split"]].drop_duplicates()) == 13
    assert splits[0] == splits[1]
    other = plan_folds(read_recipe(tiny_recipe, seed=4), manifest, tmp_path / "three", 4)
    assert [list(one.manifest.table["split"]) for one in other] != splits[0]


def test_two_parts_of_one_radiograph_are_one_patient_s(
    tiny_recipe: Path, cohort: Path, tmp_path: Path
) -> None:
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


def test_all_folds_share_the_pixels_of_one_store(
    tiny_recipe: Path, cohort: Path, tmp_path: Path
) -> None:
    manifest, recipe = read_manifest(cohort), read_recipe(tiny_recipe)
    planned = plan_folds(recipe, manifest, tmp_path / "cv", 3)
    prepare_folds(manifest, planned)
    stores = sorted(tmp_path.glob("cv/fold-*.store/*/images.npy"))
    assert [path.parent.parent.name for path in stores] == [f"fold-{i}.store" for i in (1, 2, 3)]
    assert all(path.samefile(stores[0]) for path in stores)


def test_faulty_folds_are_refused_and_nothing_is_made(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    manifest = of_patients(cohort, tmp_path, ["a", "b", "c", "d"])
    for folds, message in (
        (1, "--folds 1: one part has no other to be trained on; expected 2 or more"),
        (4, "--folds 4: there are 3 patients to be dealt; expected 2 to 3"),
    ):
        command = ("cross-validate", tiny_recipe, "--data", manifest.path, "--folds", folds)
        code, _, err = boneage(*command, "--out", "cv")
        assert (code, message in err) == (2, True), err
        assert not (tmp_path / "cv").exists()
    code, _, err = boneage(*command[:-1], 2, "--out", "cv", "--fold", 3)
    assert code == 2
    assert "--fold 3: there are 2 runs; expected 1 to 2" in err
    only_test = manifest.path.with_name("test.csv")
    write_manifest(manifest.table.assign(split="test"), only_test)
    code, _, err = boneage("cross-validate", tiny_recipe, "--data", only_test, "--out", "cv2")
    assert "all of its images are in the test split" in err
    assert not trainer.asked


def test_the_table_is_that_of_the_predictions(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    code, out, err = boneage(
        "cross-validate", tiny_recipe, "--data", cohort, "--folds", 3, "--out", "cv"
    )
    assert code == 0, err
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    runs = [tmp_path / "cv" / f"fold-{number}" for number in (1, 2, 3)]
    for split in ("val", "test"):
        tables = [
            pd.read_csv(run / f"predictions-{split}.csv", dtype={"image_id": str}) for run in runs
        ]
        maes = [float((t["predicted_age_months"] - t["age_months"]).abs().mean()) for t in tables]
        for row, mae in zip(result["rows"], maes, strict=True):
            assert row[split]["mae_months"]["value"] == pytest.approx(mae)
        means = result[split]["mean_of_folds"]
        assert means["mean"] == pytest.approx(statistics.mean(maes))
        assert means["standard_deviation"] == pytest.approx(statistics.stdev(maes))
        assert f"{statistics.mean(maes):.2f} ± {statistics.stdev(maes):.2f}" in out
        if split == "val":
            pooled = pd.concat(tables)
        else:
            ensemble = tables[0].assign(
                predicted_age_months=sum(t["predicted_age_months"] for t in tables) / 3
            )

    errors = (pooled["predicted_age_months"] - pooled["age_months"]).to_numpy()
    told = result["val"]["pooled"]
    assert told["n"] == 54
    assert told["mae_months"]["value"] == pytest.approx(np.abs(errors).mean())
    draws = np.random.default_rng(9).choice(errors, (4000, 54))
    low, high = np.percentile(np.abs(draws).mean(axis=1), (2.5, 97.5))
    assert (told["mae_months"]["low"], told["mae_months"]["high"]) == pytest.approx(
        (low, high), abs=0.2
    )
    assert told["baseline"]["median_by_sex"]["mae_months"]["value"] == pytest.approx(48.0)
    written = pd.read_csv(tmp_path / "cv" / "predictions-out-of-fold.csv", dtype={"image_id": str})
    assert list(written["image_id"]) == list(pooled["image_id"])
    assert written["image_id"].is_unique
    assert written["fold"].value_counts().to_dict() == {1: 18, 2: 18, 3: 18}

    both = (ensemble["predicted_age_months"] - ensemble["age_months"]).abs().mean()
    assert result["test"]["ensemble"]["mae_months"]["value"] == pytest.approx(both)
    written = pd.read_csv(tmp_path / "cv" / "predictions-test.csv", dtype={"image_id": str})
    np.testing.assert_allclose(
        written["predicted_age_months"], ensemble["predicted_age_months"], atol=1e-9
    )
    assert f"mean of the 3 on 6 test images: {both:.2f} [" in out
    assert "image_id" not in json.dumps(result)
    assert str(tmp_path) not in json.dumps(result)
    code, out, _ = boneage("evaluate", "--predictions", "cv/predictions-out-of-fold.csv", "--json")
    assert json.loads(out)["mae_months"]["value"] == pytest.approx(np.abs(errors).mean())


def test_what_is_pooled_waits_for_all_folds(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    trainer.outcomes = {"fold-2": "failed"}
    command = ("cross-validate", tiny_recipe, "--data", cohort, "--folds", 3, "--out", "cv")
    code, out, _ = boneage(*command)
    assert code == 1
    assert "1 of 3 runs are not finished" in out
    assert "out of fold" not in out
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert result["complete"] is False
    assert result["val"]["mean_of_folds"]["n"] == 2
    assert not (tmp_path / "cv" / "predictions-out-of-fold.csv").exists()


def test_a_cohort_without_a_test_split_has_no_test_column(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    manifest = of_patients(cohort, tmp_path, ["a", "b", "c", "d"])
    path = tmp_path / "untested.csv"
    write_manifest(manifest.table.assign(split="train"), path)
    code, out, err = boneage(
        "cross-validate", tiny_recipe, "--data", path, "--folds", 2, "--out", "cv"
    )
    assert code == 0, err
    assert "test" not in read_json(tmp_path / "cv" / "cross-validation.json")
    assert "test" not in out


def test_a_changed_fold_or_number_of_folds_is_refused(
    boneage: Command,
    trainer: Any,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    command = ["cross-validate", tiny_recipe, "--data", cohort, "--out", "cv", "--folds"]
    boneage(*command, 3)
    before = contents(tmp_path / "cv")
    code, _, err = boneage(*command, 2, "--seed", 8)
    assert code == 2
    assert "cv: folds is 2 now; expected 3, as series.json in it records" in err
    assert "cv: seed is 8 now; expected 3" in err
    assert contents(tmp_path / "cv") == before
    path = tmp_path / "cv" / "fold-1.csv"
    path.write_text(path.read_text().replace(",train", ",val", 1))
    code, _, err = boneage(*command, 3)
    assert code == 2
    assert "fold-1.csv: the file was changed since it was written" in err


def cut_off(recipe: Recipe, manifest: Manifest, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until SIGTERM comes in the second epoch."""
    stop = Stop()
    on_epoch_begin = Records.on_epoch_begin

    def terminate(self: Records, epoch: int, logs: Any = None) -> None:
        on_epoch_begin(self, epoch, logs)
        if epoch == 1:
            stop.asked = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Records, "on_epoch_begin", terminate)
        with pytest.raises(Terminated):
            train(recipe, manifest, run.folder, progress=False, stop=stop)


def test_real_trainings_go_on_where_they_were_cut_off(
    boneage: Command,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (
        "cross-validate", tiny_recipe, "--data", cohort, "--folds", 2, "--out", "cv",
        "--set", "training.use_multiprocessing=false",
    )  # fmt: skip
    code, out, err = boneage(*command, "--fold", 1)
    assert code == 0, err
    assert "1 of 2 runs are not finished" in out
    first = contents(tmp_path / "cv" / "fold-1")
    assert {"best.keras", "report.html", "result.json", "predictions-test.csv"} <= set(first)

    manifest = read_manifest(tmp_path / "cv" / "fold-2.csv")
    recipe = read_recipe(tmp_path / "cv" / "recipe.json")
    run = Run(tmp_path / "cv" / "fold-2")
    cut_off(recipe, manifest, run, monkeypatch)
    assert run.read_info()["stopped"] == "terminated"

    code, out, err = boneage(*command)
    assert code == 0, err
    assert "run 1 of 2: fold-1 is finished already" in err
    assert "run 2 of 2: fold-2 goes on (cut off)" in err
    assert contents(tmp_path / "cv" / "fold-1") == first
    assert run.read_info()["resumed"]
    assert pd.read_csv(run.history_path)["epoch"].tolist() == [1, 2]
    result = read_json(tmp_path / "cv" / "cross-validation.json")
    assert [row["state"] for row in result["rows"]] == [FINISHED] * 2
    assert result["val"]["pooled"]["n"] == 54
