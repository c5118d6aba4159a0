import pytest

from boneage.errors import InputError
from boneage.run import Run, open_run


def test_a_folder_without_a_model_is_refused_by_what_is_missing(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match=r"best.keras, run.json missing: this is no finished run"):
        open_run(tmp_path)


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        open_run(tmp_path / "absent")


def test_predictions_and_metrics_are_kept_apart_by_split(tmp_path):
    run = Run(tmp_path)
    assert run.predictions_path("val").name == "predictions-val.csv"
    assert run.metrics_path("test").name == "metrics-test.json"
