import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.inference import load_model, predict_radiographs


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
