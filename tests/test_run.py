import pytest

from boneage.errors import InputError
from boneage.run import Run, open_run, read_json, write_json, write_text


def test_a_folder_without_a_model_is_refused_by_what_is_missing(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match=r"best.keras, run.json missing: this is no finished run"):
        open_run(tmp_path)


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        open_run(tmp_path / "absent")


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_json(path, {"name": "é", "seed": 1})
    assert read_json(path) == {"name": "é", "seed": 1}
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_broken_json_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        read_json(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "report.html"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_predictions_and_metrics_are_kept_apart_by_split(tmp_path):
    run = Run(tmp_path)
    assert run.predictions_path("val").name == "predictions-val.csv"
    assert run.metrics_path("test").name == "metrics-test.json"
