import json
import shutil
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from boneage.errors import InputError
from boneage.prediction.shipped import (
    check_release,
    evaluated_folder,
    find_run,
    own_folder,
    shipped_models,
    sums,
)


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A released model by its files, none of them real; runs go beside it."""
    folder = tmp_path / "shipped_models" / "small"
    folder.mkdir(parents=True)
    for name in ("recipe.json", "run.json", "best.keras", "README.md"):
        (folder / name).write_text(name)
    (folder / "release.json").write_text(json.dumps({"name": "small"}))
    (folder / "SHA256SUMS").write_text(sums(folder))
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("boneage.prediction.shipped.shipped_models", lambda: {"small": folder})
    return folder


def test_models_are_found_by_the_name_of_their_folder(tmp_path, monkeypatch):
    shelf = tmp_path / "shipped_models"
    for name, files in {"a": ["release.json"], "b": [], "c": ["release.json"]}.items():
        (shelf / name).mkdir(parents=True)
        for file in files:
            (shelf / name / file).touch()
    monkeypatch.setattr("boneage.prediction.shipped.__file__", str(tmp_path / "shipped.py"))
    assert shipped_models() == {"a": shelf / "a", "c": shelf / "c"}


def test_a_name_finds_the_shipped_model_and_a_run_of_that_name_wins(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run(Path("small")) == release
    (tmp_path / "small").mkdir()
    assert find_run(Path("small")) == release  # as `experiments/small` is no run
    (tmp_path / "small" / "recipe.json").touch()
    assert find_run(Path("small")) == Path("small")


def test_an_unknown_name_is_refused_with_those_there_are(release, tmp_path):
    with pytest.raises(InputError, match=r"no model of that name ships .* one of small. Did you"):
        find_run(Path("smal"))
    with pytest.raises(InputError, match=r"there is no such folder; expected a run folder"):
        find_run(tmp_path / "absent")  # a path is no name


def test_a_whole_release_passes_and_so_does_a_card_that_was_mended(release):
    (release / "README.md").write_text("mended")
    check_release(release)


def test_another_model_file_is_refused_by_both_digests(release):
    (release / "best.keras").write_text("another")
    with pytest.raises(InputError, match=r"best.keras: its sha256 is \w+; expected \w+, as SHA256"):
        check_release(release)


def test_missing_files_and_sums_that_leave_the_model_out_are_refused(release):
    (release / "run.json").unlink()
    with pytest.raises(InputError, match=r"run.json: the file is missing"):
        check_release(release)
    (release / "SHA256SUMS").write_text("no sums\n")
    with pytest.raises(InputError, match=r"it has no sum for best.keras"):
        check_release(release)


def test_an_ordinary_run_folder_has_nothing_to_be_checked_and_is_written_into(tmp_path):
    check_release(tmp_path)
    assert own_folder(tmp_path) == tmp_path
    assert evaluated_folder(tmp_path) == tmp_path


def test_what_a_release_is_tested_on_goes_into_a_copy_that_is_an_ordinary_run(release, tmp_path):
    with pytest.raises(InputError, match=r"evaluate small --data MANIFEST"):
        evaluated_folder(release)
    copy = own_folder(release)
    assert copy == tmp_path / "runs" / "small"
    assert sorted(path.name for path in copy.iterdir()) == ["best.keras", "recipe.json", "run.json"]
    (copy / "metrics-test.json").touch()
    assert own_folder(release) == evaluated_folder(release) == copy
    assert (copy / "metrics-test.json").exists()


def test_another_model_s_folder_is_not_taken_for_the_copy(release, tmp_path):
    copy = tmp_path / "runs" / "small"
    copy.mkdir(parents=True)
    (copy / "notes.txt").touch()
    with pytest.raises(InputError, match=r"something else in the folder; .*BONEAGE_RUNS"):
        own_folder(release)
    (copy / "best.keras").write_text("another")
    with pytest.raises(InputError, match="it holds another model"):
        own_folder(release)
    assert sorted(path.name for path in copy.iterdir()) == ["best.keras", "notes.txt"]


def test_a_copy_that_was_cut_off_is_finished(release, tmp_path):
    copy = tmp_path / "runs" / "small"
    copy.mkdir(parents=True)
    (copy / "recipe.json").write_bytes((release / "recipe.json").read_bytes())
    (copy / ".best.keras.part-1").write_text("half of it")
    assert own_folder(release) == copy
    assert (copy / "best.keras").read_bytes() == (release / "best.keras").read_bytes()


def test_a_damaged_release_is_not_copied(release, tmp_path):
    (release / "best.keras").write_text("another")
    with pytest.raises(InputError, match="its sha256 is"):
        own_folder(release)
    assert not (tmp_path / "runs").exists()


def test_a_wheel_takes_the_models_along_and_nothing_else_of_the_experiments(tmp_path):
    root = Path(__file__).parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE", "boneage/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    model = tmp_path / "boneage" / "prediction" / "shipped_models" / "a"
    model.mkdir(parents=True)
    (tmp_path / "experiments").mkdir()
    for path in (model / "release.json", model / "best.keras", tmp_path / "experiments" / "r.toml"):
        path.touch()
    files = WheelBuilder(str(tmp_path)).recurse_included_files()
    assert sorted(file.distribution_path for file in files) == [
        "boneage/__init__.py",
        "boneage/prediction/shipped_models/a/best.keras",
        "boneage/prediction/shipped_models/a/release.json",
    ]


def test_the_image_s_build_sees_the_models():
    root = Path(__file__).parents[2]
    dockerfile = (root / "Dockerfile").read_text(encoding="utf-8")
    wheel = dockerfile.partition(" AS wheel\n")[2].partition("\nFROM")[0]
    assert "COPY boneage boneage" in wheel
    ignored = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "!boneage" in ignored
    assert not [line for line in ignored if line.startswith(("boneage", "**/*.keras"))]
