from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest, write_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.evaluation import stress
from boneage.evaluation.radiograph_changes import CHANGES
from boneage.evaluation.records import read_stress
from boneage.evaluation.result import count_scorings
from boneage.evaluation.stress import find_stress, stress_run
from boneage.prediction.engines import Outputs
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest

pytestmark = pytest.mark.slow

COUNT = 8


class Noisiness:
    """An engine: the labelled age, a month for each level of noise, and thirty for boys."""

    def __init__(self) -> None:
        self.images = 0

    def predict(self, images, gender):
        self.images += len(images)
        steps = np.abs(np.diff(images / 255, axis=2)).mean(axis=(1, 2))
        return Outputs(60.0 + 100 * steps + 30 * gender[:, 0])


@pytest.fixture
def engine(monkeypatch) -> Noisiness:
    engine = Noisiness()
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: engine)
    monkeypatch.setattr(stress, "_draw_pictures", lambda *_: None)
    return engine


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run(tmp_path / "run")
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    run.best_path.write_text("weights")
    return run


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path, [phantom(5, row, 96).image for row in range(COUNT)])


def make_manifest(folder, images, copies=1, **columns):
    """Write a manifest, and make it the one that the run was trained with."""
    rows = []
    for row, image in enumerate(images):
        cv2.imwrite(str(folder / f"{row}.png"), image)
        rows += [
            {"image_id": f"{row}-{copy}", "image": f"{row}.png", "age_months": 60 + row}
            for copy in range(copies)
        ]
    table = pd.DataFrame(rows).assign(split="test")
    table["sex"] = ["FM"[int(image_id[0]) % 2] for image_id in table["image_id"]]
    manifest = write_manifest(table.assign(**columns), folder / "m.csv")
    recorded = {"path": str(manifest.path), "digest": manifest.digest}
    write_json(folder / "run" / "run.json", {"name": "small", "manifest": recorded})
    return manifest.path


def make_clinic(manifest):
    """Write another manifest of the same images."""
    table = read_manifest(manifest).table.assign(source="clinic")
    return write_manifest(table, manifest.with_name("clinic.csv"))


def measured(result):
    """Return a result without its date and count, which a repetition changes."""
    return {k: v for k, v in result.items() if k not in ("stressed", "test_scorings")}


def by_name(result):
    return {change["name"]: change for change in result["changes"]}


def test_every_change_has_its_shift_its_mae_difference_and_its_gate(run, engine, manifest):
    result = stress_run(run, data=manifest, progress=False)
    assert (result["n"], result["refused_unchanged"], result["split"]) == (COUNT, 0, "test")
    assert result["median_size_pixels"] == [96, 96]
    changes = by_name(result)
    assert list(changes) == [change.name for change in CHANGES]

    wrong = changes["wrong sex"]
    assert wrong["shift_months"]["value"] == pytest.approx(0)  # four girls, four boys
    assert wrong["mean_absolute_shift_months"] == pytest.approx(30)
    assert wrong["gate"] is wrong["passed"] is None
    turned = changes["rotation 180°"]
    assert turned["passed"] is (turned["mae_difference_months"]["value"] <= 0.5)

    answers = pd.read_csv(run.folder / "stress-test" / "noise-10-of-255.csv")
    unchanged = pd.read_csv(run.folder / "stress-test" / "unchanged.csv")
    assert answers["image_id"].tolist() == [f"{row}-0" for row in range(COUNT)]
    ages = 60.0 + np.arange(COUNT)
    months, before = (table["predicted_age_months"] for table in (answers, unchanged))
    noise = changes["noise 10 of 255"]
    assert noise["shift_months"]["value"] == pytest.approx((months - before).mean())
    assert noise["mean_absolute_shift_months"] == pytest.approx((months - before).abs().mean())
    expected = (months - ages).abs().mean() - (before - ages).abs().mean()
    assert noise["mae_difference_months"]["value"] == pytest.approx(expected, abs=1e-9)
    assert read_stress(run.stress_path("test")) == result


def test_a_chart_and_a_radiograph_under_every_change_are_drawn(run, manifest, monkeypatch):
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Noisiness())
    stress_run(run, data=manifest, progress=False)
    for name in ("stress-test.png", "stress-test-radiograph.png"):
        drawn = cv2.imread(str(run.folder / name))
        assert min(drawn.shape[:2]) > 1000
        assert drawn.std() > 10


def test_a_repeated_command_continues_and_another_model_starts_again(run, engine, manifest):
    first = stress_run(run, data=manifest, progress=False)
    everything = engine.images
    assert everything <= (len(CHANGES) + 1) * COUNT
    kept = run.folder / "stress-test"
    (kept / "mirrored.csv").unlink()
    (kept / "JPEG-30.csv").write_text("image_id,predicted_age_months\n0-0,1\n")
    repeated = stress_run(run, data=manifest, progress=False)
    assert measured(repeated) == measured(first)
    assert engine.images == everything + 2 * COUNT
    run.best_path.write_text("other weights")
    stress_run(run, data=manifest, progress=False)
    assert engine.images == 2 * everything + 2 * COUNT
    assert len(list(kept.iterdir())) == len(CHANGES) + 2


def test_an_interrupted_run_keeps_the_changes_that_are_finished(run, engine, manifest, monkeypatch):
    def interrupt(images, gender):
        if engine.images >= 3 * COUNT:
            raise KeyboardInterrupt
        return Noisiness.predict(engine, images, gender)

    monkeypatch.setattr(engine, "predict", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        stress_run(run, data=manifest, progress=False)
    names = {path.name for path in (run.folder / "stress-test").iterdir()}
    assert names == {"task.json", "unchanged.csv", "rotation-5-.csv", "rotation-10-.csv"}
    assert not run.stress_path("test").exists()


def test_refusals_are_those_of_predict_and_only_some_gates_are_passed_by_them(
    run, engine, tmp_path
):
    dark = [(phantom(5, row, 96).image // 6).astype(np.uint8) for row in range(COUNT)]
    result = stress_run(run, data=make_manifest(tmp_path, dark), progress=False)
    darker = by_name(result)["brightness -0.2"]  # nothing is left of the hands
    assert (darker["n"], darker["refused"], darker["passed"]) == (COUNT, COUNT, True)
    assert darker["shift_months"] == {"value": None, "low": None, "high": None}
    found = {"gate": 0.5, "n": 100, "mae_difference_months": {"value": 0.1}}
    assert stress._is_passed({**found, "refused": 5, "refusal_passes": False})
    assert not stress._is_passed({**found, "refused": 6, "refusal_passes": False})
    assert stress._is_passed({**found, "refused": 60, "refusal_passes": True})
    found["mae_difference_months"] = {"value": 0.6}
    assert not stress._is_passed({**found, "refused": 94, "refusal_passes": True})
    assert stress._is_passed({**found, "refused": 95, "refusal_passes": True})


def test_intervals_are_by_patient(run, engine, tmp_path):
    images = [phantom(5, row, 96).image for row in range(COUNT)]
    one = stress_run(run, data=make_manifest(tmp_path, images), progress=False)
    patients = [str(row) for row in range(COUNT) for _ in range(2)]
    data = make_manifest(tmp_path, images, copies=2, patient_id=patients)
    two = stress_run(run, data=data, progress=False)
    assert (two["n"], two["patients"], one["patients"]) == (2 * one["n"], COUNT, None)
    for key in ("value", "low", "high"):
        once, twice = (by_name(found)["mirrored"]["shift_months"][key] for found in (one, two))
        assert twice == pytest.approx(once, abs=1e-9)


def test_several_splits_are_one_and_report_and_release_take_them_first(run, engine, tmp_path):
    images = [phantom(5, row, 96).image for row in range(COUNT)]
    data = make_manifest(tmp_path, images, split=["val", "test"] * (COUNT // 2))
    assert find_stress(run) is None
    with pytest.raises(InputError, match="only 4 of 4 test images"):
        stress_run(run, data=data, progress=False)
    both = stress_run(run, data=data, split=["test", "val"], progress=False)
    assert (both["n"], both["split"]) == (COUNT, "val-test")
    ids = pd.read_csv(run.folder / "stress-val-test" / "unchanged.csv")["image_id"].tolist()
    assert ids == ["0-0", "2-0", "4-0", "6-0", "1-0", "3-0", "5-0", "7-0"]
    write_json(run.stress_path("test"), both | {"split": "test"})
    assert find_stress(run) == both


def test_too_few_answers_and_broken_images_are_refused(run, engine, manifest, tmp_path):
    for row in range(COUNT - 4):
        cv2.imwrite(str(tmp_path / f"{row}.png"), np.zeros((96, 96), np.uint8))
    with pytest.raises(InputError, match="only 4 of 8 test images get an answer"):
        stress_run(run, data=manifest, progress=False)
    (tmp_path / "7.png").write_bytes(b"no image")
    write_json(run.folder / "stress-test" / "task.json", {})
    with pytest.raises(InputError, match=r"7\.png"):
        stress_run(run, data=manifest, progress=False)


def test_a_limit_draws_the_same_images_each_time(run, engine, manifest):
    result = stress_run(run, data=manifest, limit=5, progress=False)
    ids = pd.read_csv(run.folder / "stress-test-5-images" / "unchanged.csv")["image_id"].tolist()
    assert result["n"] == len(set(ids)) == 5
    assert ids == sorted(ids)
    again = stress_run(run, data=manifest, limit=5, progress=False)
    assert measured(again) == measured(result)
    assert again == read_json(run.stress_path("test-5-images"))
    assert (result["test_scorings"], again["test_scorings"]) == (1, 2)


def test_results_on_other_data_views_and_numbers_of_images_live_side_by_side(
    run, engine, manifest, monkeypatch
):
    clinic, options = make_clinic(manifest), [{}, {"limit": 5}, {"views": 2}, {"limit": COUNT}]
    options += [{"data": clinic}, {"data": clinic, "views": 2, "limit": 5}]
    monkeypatch.setattr(stress, "_draw_pictures", lambda path, *_: path.with_suffix(".png").touch())

    def everything():
        results = []
        for each in options:
            path = each["data"].path if "data" in each else manifest
            results.append(stress_run(run, **{**each, "data": path}, progress=False))
        return results

    results, images = everything(), engine.images
    other = f"stress-test-clinic-{clinic.digest[:8]}"
    names = {"stress-test", "stress-test-5-images", "stress-test-2-views", other}
    names |= {f"{other}-2-views-5-images"}
    for suffix in (".json", ".png"):
        assert {path.stem for path in run.folder.glob(f"*{suffix}")} - {"run", "recipe"} == names
    assert {path.name for path in run.folder.iterdir() if path.is_dir()} == names
    assert results[4]["manifest"] == {
        "file": "clinic.csv",
        "digest": clinic.digest,
        "split_digest": clinic.split_digest,
    }
    assert list(map(measured, everything())) == list(map(measured, results))
    assert engine.images == images, "the answers of all are kept"


def test_a_finished_stress_of_test_images_counts_one_scoring(run, engine, tmp_path):
    images = [phantom(5, row, 96).image for row in range(COUNT)]
    data = make_manifest(tmp_path, images * 2, split=["val", "test"] * COUNT)
    clinic = make_clinic(data)
    own = read_manifest(data).digest
    assert "test_scorings" not in stress_run(run, data=data, split="val", progress=False)
    assert count_scorings(run, "test", own) == 0
    both = stress_run(run, data=data, split=["val", "test"], progress=False)
    assert (both["test_scorings"], count_scorings(run, "test", own)) == (1, 1)
    assert stress_run(run, data=clinic.path, progress=False)["test_scorings"] == 1
    assert stress_run(run, data=data, progress=False)["test_scorings"] == 2
    assert (count_scorings(run, "test", own), count_scorings(run, "val", own)) == (2, 0)
    for path in run.folder.glob("stress-*.json"):  # an earlier version wrote no counts
        write_json(path, {k: v for k, v in read_json(path).items() if k != "test_scorings"})
    assert count_scorings(run, "test", own) == 2


def test_found_is_the_own_manifest_first_and_then_the_largest_radiographs(
    run, engine, manifest, stress_result, tmp_path
):
    own, model = read_manifest(manifest).digest, file_digest(run.best_path)

    def write(name, digest, models=(model,), **changes):
        told = {"manifest": {"file": "x.csv", "digest": digest}, "model_digests": list(models)}
        result = {**stress_result, **told, "file": name, **changes}
        write_json(run.stress_path(name), result)
        return result

    assert find_stress(run) is None
    write("test", own, models=["another"])
    write("val-test-old", own, models=["another"], split="val-test")
    assert find_stress(run) is None
    small = write("val-test-small", "b", split="val-test")
    assert find_stress(run) == small
    large = write("test-large", "c", median_size_pixels=[1500, 2000])
    assert find_stress(run) == large
    train = write("train", own, split="train")
    assert find_stress(run) == train
    few = write("test-5-images", own, n=5)
    assert find_stress(run) == few
    more_views = write("test-6-views", own, views=6)
    assert find_stress(run) == more_views
    usual = write("test", own)
    assert find_stress(run) == usual
    both = write("val-test-5-images", own, split="val-test", n=5)
    assert find_stress(run) == both

    # Without the model, a folder of --out knows its digest; that of a shipped model has one model.
    run.best_path.unlink()
    usual = write("val-test", own, models=["x"], split="val-test")
    assert find_stress(run) == usual
    info = run.read_info()
    write_json(run.info_path, info | {"digests": {"best.keras": model}})
    assert find_stress(run) == both
    members = [{"name": name, "digest": name} for name in ("x", "y")]
    write_json(run.info_path, info | {"members": members})
    assert find_stress(run) is None
    write("test", own, models=["x", "y"])
    assert find_stress(run) is not None
