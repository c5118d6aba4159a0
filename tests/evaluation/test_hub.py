"""The folder of a released model for the Hugging Face hub."""

import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from boneage.errors import InputError
from boneage.evaluation.hub import KERAS_FILES, write_hub_folder
from boneage.prediction.predict import load
from boneage.prediction.shipped import checksums, open_run, shipped_models
from boneage.run import Run
from boneage.runtime.files import read_json, write_json


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """The shipped model's folder for the hub. Read only."""
    return write_hub_folder(open_run(Path("rsna-best")), tmp_path_factory.mktemp("hub") / "up")


def front_matter(folder: Path) -> dict:
    start, front, card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    assert card.lstrip().startswith("# ")
    return yaml.safe_load(front)


def test_the_front_matter_has_every_tag_that_the_hub_needs(hub):
    front = front_matter(hub)
    assert (front["library_name"], front["pipeline_tag"]) == ("keras", "image-classification")
    assert {"bone-age", "onnx", "medical-imaging"} <= set(front["tags"])
    assert front["metrics"] == ["mae"]
    # The hub asks for a name and a text of any licence that it does not know.
    assert (front["license"], front["license_link"]) == ("other", "LICENSE")
    assert front["license_name"] == "non-commercial-research"
    assert "non-commercial research only" in " ".join((hub / "LICENSE").read_text().split())
    assert "Apache License" in (hub / "LICENSE").read_text()


def test_the_error_is_that_of_the_result_file(hub):
    (model,) = front_matter(hub)["model-index"]
    (found,) = model["results"]
    test = read_json(hub / "result.json")["metrics"]["test"]
    low, high = test["mae_months"]["low"], test["mae_months"]["high"]
    assert model["name"] == "rsna-best"
    assert set(found) == {"task", "dataset", "metrics"}
    assert {"type", "name", "split"} == set(found["dataset"])
    (metric,) = found["metrics"]
    assert metric["type"] == "mae"
    assert metric["value"] == pytest.approx(test["mae_months"]["value"], abs=0.005)
    assert f"[{low:.2f}, {high:.2f}], n = {test['n']:,}" in metric["name"]


def test_the_folder_is_the_release_with_the_files_that_keras_reads_from_the_hub(hub):
    shipped = shipped_models()["rsna-best"]
    added = {path.name for path in hub.iterdir()} - {path.name for path in shipped.iterdir()}
    assert added == {*KERAS_FILES, "LICENSE"}
    assert (shipped / "README.md").read_text() in (hub / "README.md").read_text()
    assert (hub / "SHA256SUMS").read_text() == checksums(hub)
    with zipfile.ZipFile(shipped / "best.keras") as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        for name in KERAS_FILES:
            assert (hub / name).read_bytes() == archive.read(name)


def test_a_downloaded_folder_answers_as_the_shipped_model(hub):
    radiograph = Path(__file__).parents[2] / "experiments" / "explanation" / "phantom.jpg"
    answers = [load(each).predict(radiograph, sex="F") for each in (str(hub), "rsna-best")]
    assert answers[0].months == answers[1].months


def test_terms_that_nobody_knows_are_not_invented(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    with zipfile.ZipFile(mine / "best.keras", "w") as archive:
        for name in KERAS_FILES:
            archive.writestr(name, name)
    (mine / "README.md").write_text("# mine\n")
    write_json(mine / "release.json", {"name": "mine"})
    write_json(mine / "result.json", {"manifest": {"source": "clinic: 1"}, "metrics": {}})
    front = front_matter(write_hub_folder(Run(mine), tmp_path / "up"))
    assert not {"license", "license_link", "model-index"} & set(front)
    assert not (tmp_path / "up" / "LICENSE").exists()
    write_json(mine / "result.json", {"manifest": {"source": "phantom"}, "metrics": {}})
    assert front_matter(write_hub_folder(Run(mine), tmp_path / "drawn"))["license"] == "apache-2.0"


def test_a_run_is_released_first(tmp_path):
    with pytest.raises(InputError, match=r"boneage release .* --out"):
        write_hub_folder(Run(tmp_path), tmp_path / "up")
    light = shutil.copytree(shipped_models()["rsna-best-1"], tmp_path / "light")
    (light / "best.keras").unlink()
    with pytest.raises(InputError, match=r"released model with its best\.keras"):
        write_hub_folder(Run(light), tmp_path / "up")
