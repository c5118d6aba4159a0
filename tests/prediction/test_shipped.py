import json
import shutil
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from boneage.errors import InputError
from boneage.prediction.shipped import checksums, find_run, open_run


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A released model; its files are stand-ins."""
    folder = tmp_path / "shipped_models" / "small"
    folder.mkdir(parents=True)
    for name in ("recipe.json", "run.json", "best.keras", "README.md"):
        (folder / name).write_text('{"name": "small"}')
    (folder / "release.json").write_text(json.dumps({"name": "small"}))
    (folder / "SHA256SUMS").write_text(checksums(folder))
    monkeypatch.setattr("boneage.prediction.shipped.shipped_models", lambda: {"small": folder})
    return folder


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
    with pytest.raises(InputError, match=r"there is no such folder. Check the path"):
        find_run(tmp_path / "absent")  # a path is no name


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a finished run: best.keras, run.json missing"):
        open_run(tmp_path)


def test_a_release_with_a_corrected_card_is_opened_and_with_a_changed_model_refused(release):
    (release / "README.md").write_text("corrected")
    assert open_run(Path("small")).folder == release
    (release / "best.keras").write_text("another")
    with pytest.raises(InputError, match=r"best.keras: .*its sha256 is \w+; expected \w+, as in S"):
        open_run(Path("small"))


def test_missing_files_and_missing_checksums_are_refused(release):
    (release / "run.json").unlink()
    with pytest.raises(InputError, match=r"run.json: the file is missing"):
        open_run(Path("small"))
    (release / "SHA256SUMS").write_text("no sums\n")
    with pytest.raises(InputError, match=r"the checksum of best.keras is missing"):
        open_run(Path("small"))


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
