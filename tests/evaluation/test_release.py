import json
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import InputError
from boneage.evaluation.release import count_larger, release, store_small
from boneage.evaluation.scoring import evaluate_run
from boneage.models.saved import load_model
from boneage.prediction.predict import Estimator, Request
from boneage.prediction.shipped import open_run, shipped_models
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest

pytestmark = pytest.mark.slow

for package in ("onnx", "tf2onnx"):
    pytest.importorskip(package, reason='needs the extra "export"')


@pytest.fixture(scope="module")
def released(finished_run, tmp_path_factory) -> Run:
    """The tiny run, released. Read only."""
    out = tmp_path_factory.mktemp("shipped_models") / "tiny-best"
    return release(finished_run, out, note="They were drawn small.", progress=False)


def test_a_release_holds_the_model_with_its_scores_and_no_table_path_or_image(
    released, finished_run, cohort
):
    files = {path.name: path.read_bytes() for path in released.folder.iterdir()}
    assert sorted(files) == [
        "README.md", "SHA256SUMS", "best.keras", "intervals.json", "known_ids.json", "model.onnx",
        "recipe.json", "release.json", "result.json", "run.json",
    ]  # fmt: skip
    ids = read_manifest(cohort).table["image_id"]
    networks = ("best.keras", "model.onnx")
    for text in (content.decode() for name, content in files.items() if name not in networks):
        assert str(cohort.parent.parent) not in text
        assert str(finished_run.folder.parent) not in text
        assert not [image_id for image_id in ids if f'"{image_id}"' in text]
    # as sha256sum reads it
    assert [line[64:] for line in files["SHA256SUMS"].decode().splitlines()] == [
        "  best.keras", "  intervals.json", "  known_ids.json", "  model.onnx", "  recipe.json",
        "  release.json", "  result.json", "  run.json",
    ]  # fmt: skip
    metrics = read_json(released.result_path)["metrics"]
    assert list(metrics) == ["val", "test", "val-test"]
    own = read_json(finished_run.metrics_path("test"))["mae_months"]["value"]
    found = metrics["test"]["mae_months"]["value"]
    assert found == pytest.approx(own, abs=0.1)
    assert f"| test alone | 6 | {found:.2f} [" in files["README.md"].decode()


def test_a_released_model_answers_as_the_run_from_a_smaller_plain_keras_file(
    released, finished_run, cohort
):
    paths = read_manifest(cohort).image_paths()[:8]
    answers = [
        [
            answer.months
            for answer in Estimator(run, level=0.5).predict_many(
                Request(path, "F") for path in paths
            )
        ]
        for run in (finished_run, released)
    ]
    np.testing.assert_allclose(*answers, atol=0.1)
    small, large = (run.best_path.stat().st_size for run in (released, finished_run))
    assert small < 0.5 * large
    summary = read_json(released.folder / "release.json")
    mae = summary["val_mae_months"]
    assert mae["as_released"] == pytest.approx(mae["as_trained"], abs=0.02)
    assert summary["storage"]["float16_values"] > 5 * summary["storage"]["other_values"]
    assert summary["name"] == "tiny-best"
    model = keras.models.load_model(released.best_path)
    assert {weight.dtype for weight in model.weights if "seed" not in weight.path} == {"float32"}
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_a_shipped_model_is_scored_on_its_own_manifest_and_on_others(
    released, cohort, tmp_path, monkeypatch
):
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    metrics = evaluate_run(released, data=cohort, progress=False)
    assert metrics["manifest"]["external"] is False
    results = Run(tmp_path / "runs" / "tiny-best")
    assert len(pd.read_csv(results.predictions_path("test"))) == metrics["n"] == 6
    table = pd.read_csv(cohort, dtype=str).iloc[::-1]
    table["image"] = [str(cohort.parent / name) for name in table["image"]]
    table.to_csv(tmp_path / "mine.csv", index=False)
    metrics = evaluate_run(released, data=tmp_path / "mine.csv", progress=False)
    assert (metrics["manifest"]["external"], metrics["manifest"]["overlap"]) == (True, None)
    # Its own test images, which it did not train on. 48 + 6 ids are in the filter.
    known = {"at_most": 0, "of": 6, "false_positives": pytest.approx(0.01), "complete": True}
    assert metrics["manifest"]["known_ids"] == known
    table = table[table["split"] == "train"][:7].assign(split="test")
    table = table.assign(patient_id=table["image_id"], image_id="new-" + table["image_id"])
    table.to_csv(tmp_path / "mine.csv", index=False)
    metrics = evaluate_run(released, data=tmp_path / "mine.csv", progress=False)
    assert metrics["manifest"]["known_ids"]["at_most"] == 7


def test_a_release_counts_the_scorings_of_its_run_too_and_records_what_it_was_split_by(
    finished_run, released, cohort, tmp_path
):
    result = read_json(released.result_path)
    own = read_json(finished_run.metrics_path("test"))["scorings"]
    assert result["test_scorings"] == own + 1
    assert result["manifest"]["split_digest"] == read_manifest(cohort).split_digest
    assert "known_ids.json" in (released.folder / "SHA256SUMS").read_text()
    without = release(finished_run, tmp_path / "without", known_ids=False, progress=False)
    assert not (without.folder / "known_ids.json").exists()


def test_what_the_parent_of_a_release_knew_is_counted(
    released, finished_run, cohort, tmp_path, monkeypatch
):
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    table = pd.read_csv(cohort, dtype=str)
    table["image"] = [str(cohort.parent / name) for name in table["image"]]
    seen = table[table["split"] == "train"][:5]
    new = table.assign(image_id="new-" + table["image_id"], source="phantom")
    new.to_csv(tmp_path / "new.csv", index=False)
    seen.assign(split="test").to_csv(tmp_path / "seen.csv", index=False)
    child = Run(shutil.copytree(finished_run.folder, tmp_path / "child"))  # as if fine-tuned
    init = {"name": "tiny-best", "folder": str(released.folder)}
    init["digest"] = file_digest(released.best_path)
    path = tmp_path / "new.csv"
    origin = {"path": str(path), "digest": file_digest(path)}
    for parent, complete in ((init, True), (init | {"digest": "0"}, False)):
        info = {**child.read_info(), "init": parent}
        info["manifest"] = {**info["manifest"], **origin}
        write_json(child.info_path, info)
        made = release(child, tmp_path / f"child-{complete}", progress=False)
        for run in (child, made):
            metrics = evaluate_run(
                run, data=tmp_path / "seen.csv", out=tmp_path / f"{complete}" / run.folder.name,
                progress=False,
            )  # fmt: skip
            known = metrics["manifest"]["known_ids"]
            assert (known["at_most"], known["complete"]) == (5 * complete, complete)
    assert evaluate_run(child, progress=False)["manifest"]["known_ids"]["complete"] is False
    card = " ".join((made.folder / "README.md").read_text().split())
    assert "of a model that it started from are not in it" in card


@pytest.mark.parametrize(
    ("sources", "patients", "larger"),
    [
        (["a", "a", "a-large"], ["1", "2", "1"], {"thumbnails": 2, "radiographs": 1}),
        (["a", "a", "a-large"], ["1", "2", "3"], None),  # of another child
        (["a", "a", "a"], ["1", "2", "1"], None),
        (["a", "a", "a-large"], None, None),
    ],
)
def test_larger_radiographs_of_the_same_children_are_counted(sources, patients, larger):
    table = pd.DataFrame({"split": "train", "source": sources})
    if patients:
        table["patient_id"] = patients
    assert count_larger(Manifest(Path("m.csv"), table, "0")).get("larger") == larger


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"stopped": "interrupted"}, {}, "training is not finished: it is 'interrupted'"),
        ({"manifest": {"path": "gone.csv", "digest": "0"}}, {}, "manifest of this run"),
        ({}, {"max_bytes": 10_000}, r"model.onnx.*has [\d,]+ bytes, and 10,000 are allowed"),
    ],
)
def test_a_run_that_can_not_be_released_is_refused_and_nothing_is_left(
    finished_run, tmp_path, changes, options, message
):
    run = Run(shutil.copytree(finished_run.folder, tmp_path / "run"))
    write_json(run.info_path, run.read_info() | changes)
    with pytest.raises(InputError, match=message):
        release(run, tmp_path / "out", progress=False, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_release_holds_the_result_of_stress_and_its_card_shows_it(
    finished_run, stress_result, tmp_path
):
    run = Run(shutil.copytree(finished_run.folder, tmp_path / "run"))
    stress_result = {**stress_result, "model_digests": [file_digest(run.best_path)]}
    write_json(run.stress_path("test"), stress_result)
    write_json(run.stress_path("val"), {**stress_result, "split": "val"})
    released = release(run, tmp_path / "tiny", progress=False)
    assert read_json(released.folder / "stress.json") == stress_result
    assert "  stress.json" in (released.folder / "SHA256SUMS").read_text()
    card = (released.folder / "README.md").read_text()
    assert "| mirrored | 8 | +0.10 [-0.20, +0.40] | -0.30 [-0.60, +0.10] | 0.5 | yes |" in card


def test_storage_that_costs_too_much_is_refused(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("boneage.evaluation.release.MAX_COST_MONTHS", -1.0)
    with pytest.raises(InputError, match=r"months higher .*--storage float32"):
        release(finished_run, tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_taken_is_left_alone(finished_run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="it exists already"):
        release(finished_run, tmp_path, progress=False)


def test_what_float16_can_not_hold_stays_float32(tmp_path):
    inputs = keras.layers.Input((4,))
    layers = {name: keras.layers.Dense(4, name=name) for name in ("usual", "huge", "tiny")}
    x = inputs
    for layer in layers.values():
        x = layer(x)
    model = keras.Model(inputs, x)
    layers["huge"].kernel.assign(np.full((4, 4), 1e6))
    layers["tiny"].kernel.assign(np.full((4, 4), 1e-8))
    model.save(tmp_path / "model.keras")
    counts = store_small(tmp_path / "model.keras")
    assert counts == {"float16_values": 16, "other_values": 2 * 16 + 3 * 4}
    again = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-3)
    with zipfile.ZipFile(tmp_path / "model.keras") as zipped, zipped.open("model.weights.h5") as h5:
        stored = {}
        h5py.File(h5).visititems(lambda _, item: stored.setdefault(str(getattr(item, "dtype", ""))))
    assert {"float16", "float32"} <= set(stored)


def test_whatever_ships_is_whole_small_and_tells_its_terms():
    for name, folder in shipped_models().items():
        assert load_model(open_run(folder)).count_params() > 0
        assert max(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
        assert json.loads((folder / "release.json").read_text())["name"] == name
        card = (folder / "README.md").read_text()
        assert "Research use only" in card
        assert "Halabi" in card
        assert not list(folder.glob("*.csv"))
