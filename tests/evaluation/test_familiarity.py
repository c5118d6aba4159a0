from __future__ import annotations

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.evaluation import familiarity as module
from boneage.evaluation.familiarity import fit_familiarity
from boneage.prediction.engines import Outputs
from boneage.prediction.familiarity import read_familiarity
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json


class Engine:
    """An engine whose features are mean grey levels of parts of the image."""

    has_features = True

    def predict(self, images, gender):
        cells = images.reshape(len(images), 4, 8, 4, 8).mean((2, 4)).reshape(-1, 16)
        return Outputs(
            np.full(len(images), 60.0), None, cells.astype("f4") if self.has_features else None
        )


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    run = Run(tmp_path / "run")
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda _: Engine())
    monkeypatch.setattr(module, "MIN_IMAGES", 5)
    monkeypatch.setattr(module, "_DRAWINGS", 12)
    return run


def test_a_run_learns_which_images_it_knows(run, cohort):
    path = fit_familiarity(run, read_manifest(cohort))
    known = read_familiarity(run.folder)
    assert path.parent == run.folder
    assert known.hands.shape[1] == 16
    assert known.limit > 0


def test_files_that_cannot_be_read_are_left_out(run, cohort_copy):
    manifest = read_manifest(cohort_copy)
    for path in manifest.split("train").image_paths()[:10]:
        path.write_bytes(b"")
    assert fit_familiarity(run, manifest) is not None


def test_of_few_images_or_a_network_without_features_nothing_is_written(run, cohort, monkeypatch):
    manifest = read_manifest(cohort)
    monkeypatch.setattr(Engine, "has_features", False)
    assert fit_familiarity(run, manifest) is None
    monkeypatch.setattr(module, "MIN_IMAGES", 50)
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", None)  # not asked
    assert fit_familiarity(run, manifest) is None
    assert read_familiarity(run.folder) is None
