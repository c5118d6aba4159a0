import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.prediction.predict import predict_images, predict_radiographs
from boneage.prediction.shipped import open_run
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

HEAVY = ("keras", "tensorflow", "jax", "torch", "pandas", "albumentations", "matplotlib", "scipy")


class LeftEdge:
    """An engine that answers with the grey level at the left edge, plus ten months for boys."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, images, gender):
        assert images.dtype == gender.dtype == np.float32
        assert images.shape[1:] == (8, 8, 1)
        self.batches.append(len(images))
        return 255.0 * images[:, 4, 0, 0].astype(np.float64) + 10 * gender[:, 0]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 230, (5, 8, 8), dtype=np.uint8)


def test_images_are_predicted_in_batches_that_do_not_change_the_answers(images):
    engine, gender = LeftEdge(), np.array([[0], [1], [0], [1], [1]], np.float32)
    months = predict_images(engine, images, gender, batch_size=2)
    np.testing.assert_allclose(months, images[:, 4, 0] + 10.0 * gender[:, 0], rtol=1e-6)
    assert engine.batches == [2, 2, 1]
    np.testing.assert_array_equal(months, predict_images(engine, list(images), gender))
    assert predict_images(engine, [], gender[:0]).shape == (0,)


def test_the_answer_of_two_views_is_the_mean_over_the_image_and_its_mirror_image(images):
    gender = np.zeros((5, 1), np.float32)
    both = predict_images(LeftEdge(), images, gender, views=2, batch_size=3)
    edges = images[:, 4, [0, -1]].astype(np.float64)
    np.testing.assert_allclose(both, edges.mean(axis=1), rtol=1e-6)


@pytest.fixture
def unfinished(tmp_path) -> Run:
    run = Run(tmp_path)
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    return run


def test_every_unreadable_radiograph_is_named_before_a_model_is_loaded(unfinished, tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError) as refused:
        predict_radiographs(unfinished, [tmp_path / "empty.png", tmp_path / "absent.png"], "F")
    assert "empty.png" in str(refused.value)
    assert "absent.png" in str(refused.value)


def test_a_wrong_number_of_views_is_refused_before_a_radiograph_is_read(unfinished, tmp_path):
    with pytest.raises(InputError, match="views: it is 3"):
        predict_radiographs(unfinished, [tmp_path / "absent.png"], "F", views=3)


@pytest.mark.slow
def test_a_radiograph_is_predicted_as_in_the_evaluation(finished_run, cohort):
    test = read_manifest(cohort).split("test")
    evaluated = pd.read_csv(
        finished_run.predictions_path("test"), dtype={"image_id": str}
    ).set_index("image_id")["predicted_age_months"]
    for sex in ("F", "M"):
        rows = (test.table["sex"] == sex).to_numpy()
        paths = [path for path, chosen in zip(test.image_paths(), rows, strict=True) if chosen]
        answers = predict_radiographs(open_run(finished_run.folder), paths, sex)
        assert [(answer.image, answer.sex) for answer in answers] == [(str(p), sex) for p in paths]
        months = [answer.predicted_age_months for answer in answers]
        np.testing.assert_allclose(months, evaluated[test.table["image_id"][rows]], atol=1e-3)


def test_prediction_imports_nothing_heavy():
    code = (
        "import sys, boneage.prediction.predict, boneage.prediction.shipped; "
        f"sys.exit(' '.join(sorted(set({HEAVY}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
