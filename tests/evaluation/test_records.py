import functools
import json

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.evaluation.metrics import score
from boneage.evaluation.records import read_history, read_metrics
from boneage.runtime.files import write_json

OPTIONAL = ("answer_band", "sex_age_band", "calibration", "concordance", "dilution_bias_months",
            "low_interval", "high_interval")  # fmt: skip
HISTORY = "epoch,loss,mae,val_loss,val_mae,learning_rate\n1,9,9,8,8,0.1\n2,7,7,,nan,0.1\n"


@pytest.fixture(scope="module")
def metrics():
    """The scores of ten images, as JSON."""
    age = np.linspace(10, 200, 10)
    return json.loads(json.dumps(score(age, age + 3.0, ["F", "M"] * 5, bootstrap=20)))


def leaves(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def test_scores_are_read_as_they_were_written(metrics, tmp_path):
    write_json(tmp_path / "metrics-test.json", metrics)
    assert read_metrics(tmp_path / "metrics-test.json") == metrics
    with pytest.raises(InputError, match="the key 'predictions' is missing"):
        read_metrics(tmp_path / "metrics-test.json", ("predictions",))


@pytest.mark.parametrize("value", [..., "x", [], True, float("nan"), 1e300, {"a": 1}])
def test_no_value_of_the_scores_may_be_missing_or_of_another_type(metrics, tmp_path, value):
    path = tmp_path / "metrics-test.json"
    for *folders, key in leaves(metrics):
        if folders[2:] and folders[:3] != ["groups", "sex", "F"]:
            continue  # every group is read as this one is
        if value is ... and not {*folders, key}.isdisjoint(OPTIONAL):
            continue
        changed = json.loads(json.dumps(metrics))
        part = functools.reduce(dict.__getitem__, folders, changed)
        part[key] = value
        if value is ...:
            del part[key]
        path.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"metrics-test\.json: "):
            read_metrics(path)


def test_a_history_is_read_with_the_epochs_of_a_training_that_diverged(tmp_path):
    path = tmp_path / "history.csv"
    assert read_history(path) is None
    path.write_text(HISTORY)
    table = read_history(path)
    assert table["epoch"].tolist() == [1, 2]
    assert np.isnan(table["val_mae"]).tolist() == [False, True]
    path.write_text("epoch,mae,val_mae,learning_rate\n1,9,,0.1\n")
    assert read_history(path) is None  # nothing to draw


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\0a", HISTORY.replace("9,9", "9,x").encode(), HISTORY.encode() + b"3,1,1\n,,,,,,,,",
     HISTORY.replace("1,9,9", "1,9,1e200").encode(), HISTORY.replace("\n2", "\nnan").encode()],
)  # fmt: skip
def test_a_history_that_is_no_table_of_numbers_is_refused(tmp_path, content):
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"history\.csv: "):
        read_history(tmp_path / "history.csv")
