"""`boneage predict` with documents for every answer, and with a folder that is watched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.prediction.engines import Outputs
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

pytestmark = pytest.mark.slow

pytest.importorskip("highdicom", reason='needs the extra "dicom"')

UIDS = {
    "SOPInstanceUID": "1.2.826.0.1.3680043.10.999.1",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.999.2",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.999.3",
}
CHILD = {"PatientSex": "F", "PatientBirthDate": "20160301", "StudyDate": "20260301"}


class Constant:
    """An engine that answers a hundred months to everything."""

    def predict(self, images, gender):
        return Outputs(np.full(len(images), 100.0))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run folder that looks finished, with an engine that needs no Keras."""
    run = Run(tmp_path / "run")
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    write_json(run.info_path, {"name": "small"})
    run.best_path.touch()
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Constant())
    return run


@pytest.fixture
def folder(tmp_path, write_dicom) -> Path:
    """A folder with the radiograph of a girl of ten years."""
    return write_dicom(tmp_path / "in" / "girl.dcm", **UIDS, **CHILD).parent


@pytest.fixture
def watch(boneage, run, folder, monkeypatch):
    """Watch the folder for some scans, until Ctrl-C; returns what was printed."""

    def watch(*arguments, steps=()):
        waiting = [*steps, lambda: None]

        def sleep(seconds: float) -> None:
            if not waiting:
                raise KeyboardInterrupt
            waiting.pop(0)()

        monkeypatch.setattr("boneage.prediction.watch.time.sleep", sleep)
        code, out, err = boneage("predict", run.folder, "--watch", folder, *arguments)
        assert code == 130
        return out, err

    return watch


def write_png(path: Path) -> Path:
    path.write_bytes(cv2.imencode(".png", phantom(5, 0, 128).image)[1].tobytes())
    return path


def answered(out: str) -> list[str]:
    """The names of the files that a text has answers for, each once."""
    lines = [line for line in out.splitlines() if "100.0 months (" in line]
    return list(dict.fromkeys(Path(line.partition(":")[0]).name for line in lines))


def written(folder: Path) -> dict[str, int]:
    """How many documents of each kind a folder has."""
    names = [path.name for path in folder.iterdir() if path.suffix in (".dcm", ".json")]
    kinds = [name.partition("-")[0] for name in names]
    return {kind: kinds.count(kind) for kind in sorted(kinds)}


def test_predict_writes_documents_for_every_answer(boneage, run, folder, tmp_path):
    write_png(folder / "hand.png")
    (folder / "blank.png").write_bytes(cv2.imencode(".png", np.zeros((64, 64)))[1].tobytes())
    out = ("--dicom-out", "out", "--fhir-out", "out")
    code, printed, err = boneage("predict", run.folder, folder / "girl.dcm", *out)
    assert (code, printed.count("100.0 months")) == (0, 1)
    assert written(tmp_path / "out") == {"girl": 1, "image": 1, "report": 1}
    code, printed, err = boneage("predict", run.folder, folder, *out)
    assert (code, err.count("no DICOM documents: "), "hand.png: the file is not" in err) == (
        2,
        1,
        True,
    )
    assert written(tmp_path / "out") == {"blank": 1, "girl": 1, "hand": 1, "image": 1, "report": 1}
    (blank,) = (tmp_path / "out").glob("blank-*.json")
    assert json.loads(blank.read_text())["status"] == "cancelled"


def test_a_watched_folder_is_answered_once_also_after_a_restart(watch, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    out, err = watch("--dicom-out", "out", "--fhir-out", "fhir")
    assert out.count("girl.dcm: 100.0 months") == 1
    assert "in: waiting for files. Ctrl-C ends this." in err
    assert "Traceback" not in err
    assert written(tmp_path / "out") == {"image": 1, "report": 1}
    assert written(tmp_path / "fhir") == {"girl": 1}
    report = pydicom.dcmread(next((tmp_path / "out").glob("report-*")))
    assert "121033" in report.to_json()  # the chronological age
    late = lambda: write_png(folder / "late.png")  # noqa: E731
    out, _ = watch("--dicom-out", "out", "--fhir-out", "fhir", steps=[late, lambda: None])
    assert answered(out) == ["late.png"]
    assert watch("--dicom-out", "out", "--fhir-out", "fhir")[0] == ""
    assert {path: path.read_bytes() for path in before} == before


def test_a_watched_folder_fills_a_file_of_answers(watch, folder, tmp_path):
    assert answered(watch("--out", "answers.jsonl")[0]) == ["girl.dcm"]
    late = lambda: write_png(folder / "late.png")  # noqa: E731
    watch("--out", "answers.jsonl", steps=[late, lambda: None])
    with sqlite3.connect(tmp_path / "answers.jsonl.watch.sqlite") as ledger:
        ledger.execute("DELETE FROM answered WHERE path = 'late.png'")  # as after a kill
    ledger.close()
    assert watch("--out", "answers.jsonl")[0] == ""
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["girl.dcm", "late.png"]
    assert [row["sex"] for row in rows] == ["F", None]


def test_no_file_ends_a_watch(watch, folder, tmp_path, write_dicom):
    (folder / "bad.dcm").write_bytes(bytes(128) + b"DICM" + bytes(99))
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("no radiograph")
    write_dicom(folder / "anonymous.dcm", PatientSex="M")
    out, err = watch("--dicom-out", "out")
    assert sorted(answered(out)) == ["anonymous.dcm", "girl.dcm"]
    assert err.count("error: ") == 3
    assert "no DICOM documents: " in err
    assert "notes.txt" not in err
    assert written(tmp_path / "out") == {"image": 1, "report": 1}
    out, err = watch("--dicom-out", "out")
    assert (out, err.count("error: ")) == ("", 0)


def test_its_own_documents_are_not_answered(watch, folder, tmp_path):
    watch("--dicom-out", "out")
    for path in (tmp_path / "out").glob("*.dcm"):
        shutil.copy(path, folder)
    assert watch("--dicom-out", "out")[0] == ""
    assert written(tmp_path / "out") == {"image": 1, "report": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--watch: there is no place for the answers"),
        (("girl.dcm", "--fhir-out", "out"), "--watch: it can't be combined with PATH"),
        (("--fhir-out", "out", "--json"), "--watch: it can't be combined with --json"),
        (("--out", "a.csv", "--shard", "1/2"), "--watch: it can't be combined with --shard"),
        (("--fhir-out", "in/out"), "lies in the folder that is watched"),
    ],
)
def test_options_that_exclude_each_other(boneage, run, folder, refused, arguments, message):
    refused(boneage("predict", run.folder, "--watch", "in", *arguments), message)


START = """
import sys
import numpy as np
from boneage.prediction import predictor
from boneage.prediction.engines import Outputs
from boneage.cli.main import main
class Constant:
    def predict(self, images, gender):
        return Outputs(np.full(len(images), 100.0))
predictor.load_engine = lambda run: Constant()
main()
"""


def test_a_signal_ends_a_watch(run, folder, tmp_path):
    arguments = ["predict", str(run.folder), "--watch", "in", "--fhir-out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/girl-*.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert "SIGTERM: stopped" in err
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
