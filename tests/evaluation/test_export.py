import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.evaluation.export import _check_parity, export_run, measure_parity, parity_images
from boneage.evaluation.result import prepare_results
from boneage.evaluation.stress import stress_run
from boneage.models.saved import load_model
from boneage.prediction.predict import load
from boneage.prediction.shipped import identify_model, open_run
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest

pytestmark = pytest.mark.slow

for package in ("onnx", "tf2onnx"):
    pytest.importorskip(package, reason='needs the extra "export"')


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory) -> Run:
    """The tiny run as ONNX. Read only."""
    out = tmp_path_factory.mktemp("exports") / "tiny-onnx"
    export_run(finished_run, out, storage="float32", count=7)
    return Run(out)


def test_an_export_holds_the_network_its_recipe_and_no_path_or_image(
    exported, finished_run, cohort
):
    files = {path.name: path for path in exported.folder.iterdir()}
    assert sorted(files) == [
        "LICENSE", "README.md", "SHA256SUMS", "intervals.json", "model.onnx", "recipe.json",
        "release.json", "run.json",
    ]  # fmt: skip
    for path in files.values():
        assert os.fsencode(cohort.parent.parent) not in path.read_bytes()
        assert os.fsencode(finished_run.folder.parent) not in path.read_bytes()
    export = read_json(files["release.json"])["export"]
    assert export["inputs"]["image"] == {"dtype": "uint8", "shape": ["batch", 64, 64, 1]}
    assert export["of"] == file_digest(finished_run.best_path)
    assert export["of"] in files["README.md"].read_text()
    assert export["parity"]["images"] == 7
    assert export["parity"]["of"] == cohort.name
    assert export["parity"]["months"] < 0.001
    assert "Apache License" in files["LICENSE"].read_text()
    assert "boneage predict tiny-onnx hand.png" in files["README.md"].read_text()


def test_an_exported_folder_is_opened_as_a_run_and_answers_as_the_run(
    exported, finished_run, cohort, tmp_path, monkeypatch
):
    image = next((cohort.parent / "images").iterdir())
    own, light = (
        load(run.folder, level=0.5).predict(image, sex="F") for run in (finished_run, exported)
    )
    assert light.months == pytest.approx(own.months, abs=0.1)  # the run computes in bfloat16
    assert identify_model(open_run(exported.folder)).name == "tiny"
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    assert prepare_results(exported).folder == tmp_path / "runs" / "tiny"
    result = stress_run(
        exported, data=cohort, split="test", limit=5, out=tmp_path / "stress", progress=False
    )
    assert result["model_digests"] == [identify_model(exported).digest]


def test_a_changed_network_and_one_that_was_added_are_refused(exported, finished_run, tmp_path):
    folder = Path(shutil.copytree(exported.folder, tmp_path / "changed"))
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"model.onnx: the file has changed"):
        open_run(folder)
    folder = Path(shutil.copytree(exported.folder, tmp_path / "added"))
    shutil.copy(finished_run.best_path, folder)
    with pytest.raises(InputError, match=r"the checksum of best.keras is missing"):
        open_run(folder)


def test_an_exported_network_can_not_be_trained_or_exported_again(exported, tmp_path):
    with pytest.raises(InputError, match=r"best.keras is missing.*exported from"):
        load_model(exported)
    with pytest.raises(InputError, match=r"best.keras is missing.*exported from"):
        export_run(exported, tmp_path / "again")


def test_a_folder_in_another_format_is_no_run(exported, tmp_path):
    folder = Path(shutil.copytree(exported.folder, tmp_path / "tiny-litert"))
    release = json.loads((folder / "release.json").read_text())
    release["export"]["format"] = "litert"
    write_json(folder / "release.json", release)
    with pytest.raises(InputError, match=r"does not read the format .* litert.*--format onnx"):
        open_run(folder)


def test_a_folder_in_use_a_wrong_storage_and_too_large_a_difference_are_refused(
    finished_run, tmp_path, monkeypatch
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="it exists already"):
        export_run(finished_run, tmp_path / "full")
    with pytest.raises(InputError, match=r"saved-model does not store weights as float16"):
        export_run(finished_run, tmp_path / "new", "saved-model", storage="float16")
    parity = {"months": 0.3, "batch_months": float("nan")}
    with pytest.raises(InputError, match=r"up to 0.3000 .*--storage float32") as caught:
        _check_parity(parity, "onnx", "float16")
    assert len(caught.value.faults) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_without_a_manifest_drawn_hands_are_compared(finished_run, tmp_path):
    run = Run(shutil.copytree(finished_run.folder, tmp_path / "run"))
    write_json(run.info_path, run.read_info() | {"manifest": {"path": "gone.csv", "digest": "0"}})
    images, gender, origin = parity_images(run, count=3)
    assert (images.shape, images.dtype, gender.shape) == ((3, 64, 64, 1), np.uint8, (3, 1))
    assert origin == "drawn hands"
    assert images.std() > 10


def test_parity_is_the_largest_difference_in_batches_and_alone():
    images, gender = np.zeros((70, 2, 2, 1), np.uint8), np.zeros((70, 1), np.float32)

    def own(pixels, _):
        return {"age_months": np.full((len(pixels), 1), 100, np.float32)}

    def other(pixels, _):
        return {"age_months": np.full((len(pixels), 1), 100.25 if len(pixels) > 1 else 99, "f")}

    parity = measure_parity(own, other, images, gender)
    assert parity == {"images": 70, "months": 1.0, "batch_months": 1.25}
