from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.prediction.engines import Outputs
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json
from boneage.runtime.provenance import file_digest

HAND = phantom(5, 0, 64).image


class Constant:
    """An engine that answers 100 months."""

    def predict(self, images: np.ndarray, gender: np.ndarray) -> Outputs:
        return Outputs(np.full(len(images), 100.0))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    run = Run(tmp_path / "run")
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    manifest = {"path": str(tmp_path / "absent.csv"), "digest": "a" * 64}
    write_json(run.info_path, {"name": "small", "manifest": manifest})
    run.best_path.write_bytes(b"the network")
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Constant())
    return run


@pytest.fixture
def clinic(tmp_path) -> Callable[..., Path]:
    """Write a manifest of 120 children whose labels differ from 100 months by so much."""

    def write(girls: float, boys: float) -> Path:
        for name in ("hand", "train", "val", "test"):
            cv2.imwrite(str(tmp_path / f"{name}.png"), HAND)
        noise = np.random.default_rng(0).normal(0, 8, 120)
        rows = [
            f"{row},{split}.png,{100 + noise[row] + (boys if row % 2 else girls):.3f},"
            f"{'FM'[row % 2]},{split}"
            for row in range(120)
            for split in [("train", "val", "test")[row % 3]]
        ]
        path = tmp_path / "clinic.csv"
        path.write_text("\n".join(["image_id,image,age_months,sex,split", *rows]) + "\n")
        return path

    return write


def test_calibrated_answers_say_so_and_with_what(boneage, run, clinic, tmp_path) -> None:
    found, out, err = boneage("calibrate", run.folder, "--data", clinic(6, 12), "--out", "c.json")
    assert found == 0
    assert "calibration: c.json" in err
    assert "60 images of 60 children" in out
    assert "all: MAE " in out
    width = json.loads(Path("c.json").read_text())["interval"]["median_width_months"]
    assert f"90 % interval: median width {width:.1f} months" in out
    assert "are enough. All together gain less than 0.1 months more." in out
    written = json.loads(Path("c.json").read_text())
    offset = written["corrections"]["M"]["intercept_months"]
    assert offset == pytest.approx(12, abs=3)
    assert written["models"][0]["digest"] == file_digest(run.best_path)
    assert written["manifest"]["splits"] == ["train", "val", "test"]
    assert written["leave_one_out"]["gain_months"]["low"] > 0
    assert "hand.png" not in json.dumps(written)

    command = ("predict", run.folder, "hand.png", "--sex", "boy", "--calibration", "c.json")
    _, out, _ = boneage(*command)
    first, second = out.splitlines()
    assert first.startswith(f"hand.png: {100 + offset:.1f} months")
    assert second.startswith(f"  calibrated {offset:+.1f} months ({offset:+.2f} months; 120 local")
    assert f"{written['date']}, {file_digest(Path('c.json'))[:12]})" in second
    (answer,) = json.loads(boneage(*command, "--json")[1])["predictions"]
    assert answer["interval"]["level"] == 0.9
    low, high = (answer["interval"][f"{end}_months"] for end in ("low", "high"))
    assert (low, high) == pytest.approx((100 + offset - width / 2, 100 + offset + width / 2))
    assert 20 < width < 35  # of 3.29 standard deviations, each of 8 months
    assert answer["calibration"]["n"] == 120
    assert answer["calibration"]["digest"] == file_digest(Path("c.json"))
    assert answer["calibration"]["offset_months"] == pytest.approx(offset)


def test_what_would_not_help_is_refused_and_nothing_is_written(boneage, refused, run, clinic):
    answer = boneage("calibrate", run.folder, "--data", clinic(0, 0), "--out", "c.json")
    message = "a calibration would not help: MAE"
    refused((answer[0], "", answer[2]), message, "n = 120", "Use the model as it is.")
    assert not Path("c.json").exists()


def test_a_calibration_is_refused_for_another_model_and_other_views(boneage, refused, run, clinic):
    options = ("--data", clinic(9, 9), "--out", "c.json", "--json")
    found, out, _ = boneage("calibrate", run.folder, *options)
    assert (found, json.loads(out)) == (0, json.loads(Path("c.json").read_text()))
    command = ("predict", run.folder, "hand.png", "--sex", "F", "--calibration", "c.json")
    refused(boneage(*command, "--views", "2"), "is for 1 views and 1 phases")
    run.best_path.write_bytes(b"another network")
    refused(boneage(*command), "the calibration belongs to another model")


def test_training_images_calibrate_nothing(boneage, refused, run, clinic) -> None:
    manifest = clinic(9, 9)
    info = {"path": str(manifest), "digest": file_digest(manifest)}
    write_json(run.info_path, {"name": "small", "manifest": info})
    command = ("calibrate", run.folder, "--data", manifest, "--out", "c.json")
    refused(boneage(*command), "trained with the split train of this manifest")
    code, _, err = boneage(*command, "--split", "val", "--split", "test")
    assert "there are 80 children with a labelled radiograph" in err
    assert code == 2


def test_every_fault_of_a_file_is_named(boneage, refused, run) -> None:
    cv2.imwrite("hand.png", HAND)
    command = ("predict", run.folder, "hand.png", "--sex", "F", "--calibration", "c.json")
    refused(boneage(*command), "c.json: there is no such file")
    write_json(Path("c.json"), {"version": 2, "models": [], "corrections": {"F": {"slope": -1}}})
    refused(boneage(*command), "version is 2", "'date' is missing", "corrections.F.slope is -1")
