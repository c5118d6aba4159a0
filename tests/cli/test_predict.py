from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError, printable
from boneage.pipeline.sources import image_source
from boneage.prediction.engines import Outputs
from boneage.prediction.sd_score import ETHNICITY_NOTE
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

HAND = phantom(5, 0, 128).image


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


def write(path: Path, image: np.ndarray = HAND) -> Path:
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes())
    return path


def test_predict_answers_in_months_and_years_and_in_json(boneage, finished_run, cohort):
    radiographs = sorted((cohort.parent / "images").iterdir())[:2]
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F")
    assert (code, out.count(" months (")) == (0, 2)
    _, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F", "--json")
    answers = json.loads(out)["predictions"]
    assert [answer["image"] for answer in answers] == list(map(str, radiographs))


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (["hand.png"], 0),
        (["upside.png"], 0),
        (["hand.png", "blank.png"], 3),
        (["absent.png", "hand.png"], 2),
        (["blank.png", "absent.png", "blank.png", "hand.png"], 2),
    ],
)
def test_the_exit_code_says_what_became_of_the_images(boneage, run, tmp_path, files, code):
    write(tmp_path / "hand.png")
    write(tmp_path / "upside.png", HAND[::-1])
    write(tmp_path / "blank.png", np.full((64, 64), 255, np.uint8))
    found, out, err = boneage("predict", run.folder, *files, "--sex", "F")
    assert found == code
    assert out.count("hand.png: 100.0 months (8 years 4 months)\n") == files.count("hand.png")
    assert err.count("refused: blank.png: every pixel is 255. ") == files.count("blank.png")
    assert err.count("error: absent.png: ") == files.count("absent.png")
    assert ("warning: upside.png: the hand is probably upside down. " in err) == (
        "upside.png" in files
    )
    found, out, _ = boneage("predict", run.folder, *files, "--sex", "F", "--json")
    assert found == code
    records = json.loads(out)["predictions"]
    assert [record["image"] for record in records] == files
    for record in records:
        answered = record["image"] in ("hand.png", "upside.png")
        assert (record["predicted_age_months"] == 100.0) == answered
        assert (record["status"] == "answered") == answered == (record["reason"] is None)
        warned = [warning["code"] for warning in record["findings"]]
        assert warned == (["turned-hand"] if record["image"] == "upside.png" else [])


def test_help_documents_the_exit_codes(boneage):
    _, out, _ = boneage("predict", "--help")
    assert "Exit code 0" in " ".join(out.split())


def test_names_are_printed_without_commands_to_the_terminal(boneage, run, tmp_path):
    names = [b"bad\xff.png", b"red\x1b[31m\n\r.png", b"c1\xc2\x9b2J\xe2\x80\xae.png", b"-x.png"]
    try:
        for name in names:
            write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    given = [os.fsdecode(name) for name in names]
    code, out, _ = boneage("predict", run.folder, "--sex", "F", "--", *given)
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "bad\\xff.png", "red\\x1b[31m\\n\\r.png", "c1\\x9b2J\\u202e.png", "-x.png",
    ]  # fmt: skip
    code, out, _ = boneage("predict", run.folder, "--sex", "F", "--json", "--", *given)
    assert code == 0
    assert printable(out.replace("\n", "")) == out.replace("\n", "")
    records = [record["image"] for record in json.loads(out)["predictions"]]
    assert records == ["bad\\xff.png", *given[1:]]


def test_an_interrupt_keeps_the_finished_answers(boneage, run, tmp_path, monkeypatch):
    class Interrupted(Constant):
        def predict(self, images, gender):
            if len(images) < 64:
                raise KeyboardInterrupt
            return super().predict(images, gender)

    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Interrupted())
    files = [write(tmp_path / "hand.png")] * 70
    code, out, _ = boneage("predict", run.folder, *files, "--sex", "F")
    assert (code, out.count("100.0 months")) == (130, 64)
    code, out, _ = boneage("predict", run.folder, *files, "--sex", "F", "--json")
    assert (code, len(json.loads(out)["predictions"])) == (130, 64)


@pytest.mark.parametrize("months", [float("nan"), float("inf"), -500.0, 1e29])
def test_an_answer_that_is_no_bone_age_is_the_fault_of_its_image(
    boneage, run, tmp_path, monkeypatch, months
):
    class Broken:
        def predict(self, images, gender):
            return Outputs(np.where(np.arange(len(images)) == 0, months, 100.0))

    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Broken())
    write(tmp_path / "good.png")
    write(tmp_path / "bad.png")
    code, out, err = boneage("predict", run.folder, "bad.png", "good.png", "--sex", "F")
    assert (code, out) == (2, "good.png: 100.0 months (8 years 4 months)\n")
    assert "error: bad.png: the model answers" in err
    code, out, _ = boneage("predict", run.folder, "bad.png", "good.png", "--sex", "F", "--json")
    statuses = [record["status"] for record in json.loads(out)["predictions"]]
    assert (code, statuses) == (2, ["failed", "answered"])


@pytest.mark.parametrize("sex", ["f", "Female", "girl", "weiblich", " F "])
def test_a_sex_is_taken_as_people_write_it(boneage, run, tmp_path, sex):
    hand = write(tmp_path / "hand.png")
    _, out, _ = boneage("predict", run.folder, hand, "--sex", sex, "--json")
    assert json.loads(out)["predictions"][0]["sex"] == "F"


@pytest.mark.parametrize("sex", ["x", "", "1", "unknown"])
def test_an_unknown_sex_is_refused(boneage, refused, sex):
    refused(boneage("predict", "run", "x.png", "--sex", sex), f"--sex {sex}: ", "Write F for girls")


IMAGES = {
    "hand": HAND,
    "upside": HAND[::-1],
    "inverted": 255 - HAND,
    "two": np.hstack([HAND, HAND[:, ::-1]]),
    "white": np.where(np.arange(128)[:, None] < 100, 255, HAND),
    "noise": np.random.default_rng(0).integers(0, 256, (64, 64)),
    "one-level": np.full((64, 64), 7),
    "flat": 100 + HAND // 64,
    "cold-pixel": np.where(np.arange(4096).reshape(64, 64) == 70, 0, 255),
    "corner": np.pad(HAND[40:80, 40:80], (0, 300)),
}


def test_every_door_takes_and_refuses_the_same_images(boneage, run, tmp_path):
    rows = ["image_id,image,age_months,sex,split"]
    for number, (name, image) in enumerate(IMAGES.items()):
        write(tmp_path / f"{name}.png", image.astype(np.uint8))
        rows.append(f"{name},{name}.png,{100 + number},F,train")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    _, out, _ = boneage("data", "check", "m.csv", "--json")
    found: dict[tuple[str, str], set[str]] = {}
    for fault in json.loads(out)["faults"]:
        for name in fault["image_ids"]:
            found.setdefault((fault["severity"], name), set()).add(fault["code"])
    files = [f"{name}.png" for name in IMAGES]
    code, out, _ = boneage("predict", run.folder, *files, "--sex", "F", "--json")
    assert code == 3
    refused = set()
    for name, record in zip(IMAGES, json.loads(out)["predictions"], strict=True):
        codes = {warning["code"] for warning in record["findings"]} - {"no-hand", "low-resolution"}
        assert codes == found.get(("warning", name), set())
        assert (record["status"] == "refused") == (("error", name) in found)
        if record["status"] == "refused":
            refused.add(name)
            with pytest.raises(InputError, match=record["reason"].partition(". ")[0]):
                image_source([tmp_path / f"{name}.png"], 32, None)[0]
    assert refused == {"one-level", "flat", "cold-pixel", "corner"}
    code, _, err = boneage("data", "prepare", "m.csv", "--size", "32")
    assert code == 2
    assert {name for name in IMAGES if f"{name}.png: " in err} == refused


def test_predict_and_check_say_the_same_of_a_dicom_header(boneage, run, tmp_path, write_dicom):
    write_dicom(tmp_path / "1.dcm", PatientSex="M", Modality="MR", BodyPartExamined="FOOT")
    row = "1,1.dcm,100,F,train"
    (tmp_path / "m.csv").write_text(f"image_id,image,age_months,sex,split\n{row}\n")
    codes = {"other-sex", "other-modality", "other-body-part"}
    _, out, _ = boneage("data", "check", "m.csv", "--json")
    found = {fault["code"]: fault["severity"] for fault in json.loads(out)["faults"]}
    assert {code for code in found if code.startswith("other-")} == codes
    assert {found[code] for code in codes} == {"warning"}
    code, out, _ = boneage("predict", run.folder, "1.dcm", "--sex", "girl", "--json")
    warned = {warning["code"] for warning in json.loads(out)["predictions"][0]["findings"]}
    assert (code, warned & codes) == (0, codes)
    _, out, _ = boneage("predict", run.folder, "1.dcm", "--sex", "boy", "--json")
    warned = {warning["code"] for warning in json.loads(out)["predictions"][0]["findings"]}
    assert warned & codes == codes - {"other-sex"}


def test_one_command_takes_one_sex(boneage, refused):
    answer = boneage("predict", "run", "x.png", "--sex", "F", "--sex", "boy")
    refused(answer, "--sex F boy: one sex holds for all images")


def test_a_file_is_no_run(boneage, refused, run):
    answer = boneage("predict", run.best_path, "x.png", "--sex", "F")
    refused(answer, "best.keras: it is a file", "Name the folder")


def test_several_runs_answer_with_their_mean(boneage, refused, run, tmp_path, monkeypatch):
    class ByRun:
        def __init__(self, run):
            self.months = 100.0 if run.folder.name == "run" else 103.0

        def predict(self, images, gender):
            return Outputs(np.full(len(images), self.months))

    monkeypatch.setattr("boneage.prediction.predictor.load_engine", ByRun)
    for name in ("other", "third"):
        shutil.copytree(run.folder, tmp_path / name)
    write(tmp_path / "hand.png")
    more = ("--run", "other", "--run", "third")
    code, out, _ = boneage("predict", "run", "hand.png", "--sex", "F", *more)
    assert (code, out) == (0, "hand.png: 102.0 months (8 years 6 months)\n")
    _, out, _ = boneage("predict", "run", "hand.png", "--sex", "F", "--json", *more)
    assert (json.loads(out)["run"], json.loads(out)["others"]) == ("run", ["other", "third"])
    answer = boneage("predict", "run", "hand.png", "--sex", "F", "--run", "run")
    refused(answer, "run: the run is named twice")
    answer = boneage("predict", "run", "hand.png", "--sex", "F", "--phases", "4")
    refused(answer, "phases: it is 4, but the framing of", "Only framing.sampling = 'nearest'")


def test_a_chronological_age_gives_an_sd_score_and_the_sentence_about_ethnicity(
    boneage, run, tmp_path, refused
):
    hand = write(tmp_path / "hand.png")
    command = ("predict", run.folder, hand, "--sex", "M", "--chronological-age")
    _, out, _ = boneage(*command, 120)
    assert out.splitlines()[1:] == [
        "  -20.0 months from the chronological age: -2.04 SD, delayed; "
        "-2.62 SD from the reference's mean (Brush Foundation (Greulich and Pyle 1959))",
        f"  {ETHNICITY_NOTE}",
    ]
    found, out, _ = boneage(*command, 240)
    assert (found, out.count("Asian")) == (0, 0)
    assert "expected 3 to 204 months for boys. Use another reference" in out
    (answer,) = json.loads(boneage(*command, 240, "--json")[1])["predictions"]
    assert (answer["predicted_age_months"], answer["comparison"]["sd_score"]) == (100.0, None)
    table = tmp_path / "mine.csv"
    table.write_text("sex,chronological_age_months,mean_months,sd_months\nM,60,60,5\nM,120,125,4\n")
    (answer,) = json.loads(boneage(*command, 120, "--reference", table, "--json")[1])["predictions"]
    comparison = answer["comparison"]
    assert (comparison["sd_score"], comparison["sd_score_from_mean"]) == (-5.0, -6.25)
    assert comparison["reference"] == "mine.csv"
    table.write_text("sex,chronological_age_months,mean_months,sd_months\nX,60,60,5\nM,12,x,4\n")
    refused(boneage(*command, 120, "--reference", table), "sex is 'X'", "mean_months is 'x'")


def test_explain_writes_a_picture_of_every_answered_image(boneage, run, tmp_path):
    write(tmp_path / "hand.png")
    write(tmp_path / "blank.png", np.zeros((64, 64), np.uint8))
    command = ("predict", run.folder, "hand.png", "blank.png", "--sex", "F", "--explain")
    code, out, _ = boneage(*command, "pictures")
    assert code == 3
    assert "hand.png: 100.0 months" in out
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name.startswith("hand-")
    assert cv2.imread(str(picture)) is not None
    assert boneage(*command, "hand.png")[0] == 2
