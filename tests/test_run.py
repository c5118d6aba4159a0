import json

import pytest

from boneage.errors import InputError
from boneage.recipe import Recipe
from boneage.run import Run


def test_predictions_and_metrics_are_kept_apart_by_split(tmp_path):
    run = Run(tmp_path)
    assert run.predictions_path("val").name == "predictions-val.csv"
    assert run.metrics_path("test").name == "metrics-test.json"


@pytest.mark.parametrize(
    ("framing", "crop"), [(None, "none"), ({"crop": "film"}, "none"), ({"crop": "hand"}, "hand")]
)
def test_a_recipe_from_before_there_were_crops_is_one_of_radiographs(tmp_path, framing, crop):
    values = Recipe(name="old").model_dump(mode="json")
    values.pop("framing")
    if framing is not None:
        values["framing"] = framing
    run = Run(tmp_path)
    run.recipe_path.write_text(json.dumps(values))
    assert run.read_recipe().framing.crop == crop


@pytest.mark.parametrize("framing", [None, [299]])
def test_framing_that_is_no_section_is_a_fault_of_the_recipe(tmp_path, framing):
    run = Run(tmp_path)
    run.recipe_path.write_text(json.dumps({"name": "odd", "framing": framing}))
    with pytest.raises(InputError, match=r"recipe.json: framing is (None|\[299\]); expected "):
        run.read_recipe()


def test_what_a_kill_left_before_the_training_began_is_not_in_the_way(tmp_path):
    run = Run(tmp_path / "run")
    assert run.other_files() == []
    run.folder.mkdir()
    for name in ("recipe.json", ".lock", ".run.json.a1b2c3.part"):
        (run.folder / name).write_text("{}")
    assert (run.is_started, run.other_files()) == (False, [])
    (run.folder / "notes.txt").write_text("mine")
    assert run.other_files() == ["notes.txt"]
    run.info_path.write_text("{}")
    assert run.is_started
    assert "recipe.json" in run.other_files()


def test_what_a_killed_training_had_half_written_is_removed_by_the_next(tmp_path):
    run = Run(tmp_path)
    left = tmp_path / ".checkpoint.npz.a1b2c3.part.npz"
    for path in (left, tmp_path / ".hidden", tmp_path / "my.part"):
        path.write_text("")
    with run.locked():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "my.part"]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "the key 'manifest.digest' is missing"),
        ({"manifest": []}, r"manifest is \[\]"),
        ({"manifest": {"digest": 3}}, "manifest.digest is 3"),
        ({"manifest": {"digest": "d", "counts": {"train": "9"}}}, "manifest.counts.train is '9'"),
        ({"manifest": {"digest": "d"}, "seconds": {"fit": None}}, "seconds.fit is None"),
        ({"manifest": {"digest": "d"}, "init": "x"}, "init is 'x'"),
        ({"manifest": {"digest": "d"}, "store": {}}, "the key 'store.digest' is missing"),
        ({"manifest": {"digest": "d"}, "model": {"parameters": 1.5}}, "model.parameters is 1.5"),
    ],
)
def test_a_changed_run_json_is_refused_with_its_key(tmp_path, info, message):
    run = Run(tmp_path)
    run.info_path.write_text(json.dumps(info))
    with pytest.raises(InputError, match=rf"run\.json: {message}"):
        run.read_info(("manifest.digest",))


def test_a_run_json_of_other_versions_is_read(tmp_path):
    run = Run(tmp_path)
    run.info_path.write_text('{"name": "old", "later": {"key": [1]}}')
    assert run.read_info() == {"name": "old", "later": {"key": [1]}}


def test_recipe_and_best_model_are_the_files_that_the_run_recorded(tmp_path):
    run = Run(tmp_path)
    run.best_path.write_bytes(b"trained")
    run.recipe_path.write_bytes(b"recipe")
    digests = run.digests()
    for info in ({"digests": digests}, {"digests": None}, {}):  # {}: earlier, or still training
        run.check_files(info)
    for path in (run.best_path, run.recipe_path):
        for change in (lambda path: path.write_bytes(b"changed"), type(path).unlink):
            before = path.read_bytes()
            change(path)
            with pytest.raises(InputError, match=rf"{path.name}: the file is missing or is not"):
                run.check_files({"digests": digests})
            run.check_files({})
            path.write_bytes(before)
