import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.prediction.predict import load_model, predict_images, predict_radiographs


def test_a_radiograph_is_answered_as_it_was_in_the_evaluation(finished_run, cohort):
    test = read_manifest(cohort).split("test")
    evaluated = pd.read_csv(
        finished_run.predictions_path("test"), dtype={"image_id": str}
    ).set_index("image_id")["predicted_age_months"]
    for sex in ("F", "M"):
        rows = (test.table["sex"] == sex).to_numpy()
        paths = [path for path, chosen in zip(test.image_paths(), rows, strict=True) if chosen]
        answers = predict_radiographs(finished_run, paths, sex)
        ids = test.table["image_id"][rows]
        np.testing.assert_allclose(answers["predicted_age_months"], evaluated[ids], atol=1e-3)


def test_every_unreadable_radiograph_is_named(finished_run, tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError) as refused:
        predict_radiographs(finished_run, [tmp_path / "empty.png", tmp_path / "absent.png"], "F")
    assert "empty.png" in str(refused.value)
    assert "absent.png" in str(refused.value)


def test_a_broken_model_file_is_refused_by_its_name(finished_run, tmp_path):
    from boneage.run import Run

    Run(tmp_path).best_path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"best\.keras: the model can't be read"):
        load_model(Run(tmp_path))


def test_an_answer_of_two_views_is_the_mean_of_those_for_a_radiograph_and_its_mirror_image(
    finished_run,
):
    model = load_model(finished_run)
    radiographs = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    gender = np.array([[0.0], [1.0], [0.0]], np.float32)
    one, other = (
        predict_images(model, some, gender) for some in (radiographs, radiographs[:, :, ::-1])
    )
    both = predict_images(model, radiographs, gender, views=2)
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)
    assert not np.allclose(predict_images(model, radiographs, gender, views=6), both, rtol=1e-5)


def test_a_number_of_views_that_there_is_not_is_refused_before_a_radiograph_is_read(finished_run):
    with pytest.raises(InputError, match=r"views: it is 3; expected one of 1, 2, 6"):
        predict_radiographs(finished_run, [], "F", views=3)
