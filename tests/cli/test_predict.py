from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.cli.predict import _Screen
from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import Fault, InputError, printable
from boneage.evaluation.scoring import evaluate_run
from boneage.pipeline.sources import image_source
from boneage.prediction.answers import RESEARCH_ONLY, Answer, Estimate
from boneage.prediction.engines import Outputs
from boneage.prediction.predict import load
from boneage.prediction.sd_score import ETHNICITY_NOTE
from boneage.prediction.shipped import open_run
from boneage.radiographs.image_quality import ImageFinding
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
    assert err.count(RESEARCH_ONLY) == 1
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
    _, out, err = boneage(*command, 120)
    assert out.splitlines()[1:] == [
        "  20.0 months below the chronological age: -2.04 SD, delayed, "
        "by Brush Foundation (Greulich and Pyle 1959)",
    ]
    assert f"note: {ETHNICITY_NOTE}" in err
    found, out, err = boneage(*command, 240)
    assert (found, err.count("Asian")) == (0, 0)
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


class ByShape:
    """An engine whose answers depend on the image, the sex and the size of the batch."""

    def predict(self, images, gender):
        return Outputs(images.mean(axis=(1, 2)) + 9.0 * gender[:, 0] + len(images) / 100)


@pytest.fixture
def many(run, tmp_path, monkeypatch) -> Path:
    """A folder of 200 files: 20 radiographs, one of them blank, and 180 that can't be read."""
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: ByShape())
    for number in range(200):
        path = tmp_path / "many" / f"{number // 50}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if number % 10 == 0:
            write(path, np.clip(HAND.astype(int) + number // 10, 0, 255).astype(np.uint8))
    write(tmp_path / "many" / "1" / "070.png", np.zeros((64, 64), np.uint8))
    (tmp_path / "many" / "notes.txt").touch()
    return tmp_path / "many"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_interrupted_job_and_parts_give_the_same_bytes(
    boneage, run, many, tmp_path, monkeypatch, suffix
):
    code, out, err = boneage("predict", "run", "many", "--sex", "F", "--out", f"whole{suffix}")
    assert (code, out) == (2, f"whole{suffix}: 19 answered, 1 refused, 180 unreadable\n")
    assert "note: 1 file is no radiograph and left out: 1 .txt." in err
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    assert whole.count(b"\n") == 200 + (suffix == ".csv")

    command = ("predict", "run", "many", "--sex", "F", "--out", f"out{suffix}")
    for number in (3, 1, 2):
        boneage(*command, "--shard", f"{number}/3")
    code, out, _ = boneage(*command, "--merge", "3")
    assert (code, out) == (2, f"out{suffix}: 19 answered, 1 refused, 180 unreadable\n")
    assert (tmp_path / f"out{suffix}").read_bytes() == whole

    class Interrupted(ByShape):
        calls = 0

        def predict(self, images, gender):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().predict(images, gender)

    engine = Interrupted()
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: engine)
    command = ("predict", "run", "many", "--sex", "F", "--out", f"again{suffix}")
    code, _, err = boneage(*command)
    assert code == 130
    assert "has 128 answers. Repeat the command to continue." in err
    path = tmp_path / f"again{suffix}"
    path.write_bytes(path.read_bytes()[:-20])  # a kill may cut a line
    code, _, err = boneage(*command)
    assert code == 2
    assert "already has 127 answers" in err
    assert path.read_bytes() == whole
    code, _, err = boneage(*command, "--level", "0.8")
    assert (code, path.read_bytes()) == (2, whole)
    assert "level was 0.9. Repeat that command" in err
    (many / "0" / "000a.png").touch()
    code, _, err = boneage(*command)
    assert (code, path.read_bytes()) == (2, whole)
    assert "another place among the radiographs now" in err


def test_parquet_has_the_rows_of_the_other_files(boneage, run, many, tmp_path):
    import pandas as pd

    code, _, _ = boneage("predict", "run", "many", "--out", "out.parquet")
    assert code == 2
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["status"].value_counts().to_dict() == {
        "unreadable": 180, "answered": 19, "refused": 1,
    }  # fmt: skip
    assert (table["boy_months"] - table["girl_months"]).dropna().round(4).unique().tolist() == [9.0]
    assert not list(tmp_path.glob("out.parquet.*"))


def test_what_holds_for_several_answers_is_printed_once_and_what_was_put_right_is_a_note(capfd):
    screen = _Screen()
    turned = ImageFinding("rotated", "it was turned", "Check the image.", is_corrected=True)
    dark = ImageFinding("too-dark", "it is dark", "Export it again.")
    both = (Estimate("F", 100.0), Estimate("M", 110.0))
    screen.print(Answer("a.png", "answered", both, findings=(turned, dark)))
    screen.print(Answer("b.png", "answered", both))
    why = Fault("c.png", "no hand stands out", "Check the image.")
    screen.print(Answer("c.png", "refused", fault=why, findings=(dark,)))
    out, err = capfd.readouterr()
    assert out.count("if a girl") == 2
    assert err.splitlines() == [
        "note: a.png: it was turned.",
        "warning: a.png: it is dark. Export it again.",
        "note: Where the sex is not known, there are two answers. Give it by --sex.",
        "refused: c.png: no hand stands out. Check the image.",
    ]


def test_an_unknown_sex_has_two_answers(boneage, run, tmp_path, monkeypatch):
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: ByShape())
    write(tmp_path / "hand.png")
    code, out, err = boneage("predict", "run", "hand.png")
    assert code == 0
    assert "note: Where the sex is not known, there are two answers." in err
    assert [line.partition(", ")[0] for line in out.splitlines()] == [
        "hand.png: if a girl", "hand.png: if a boy",
    ]  # fmt: skip
    _, out, _ = boneage("predict", "run", "hand.png", "--json", "--chronological-age", "99")
    (answer,) = json.loads(out)["predictions"]
    assert (answer["sex"], answer["chronological_age_months"]) == (None, 99.0)
    assert set(answer["by_sex"]) == {"F", "M"}


def test_a_dicom_tree_has_sex_and_age_in_its_headers(boneage, run, tmp_path, write_dicom):
    (tmp_path / "cd" / "DIR").mkdir(parents=True)
    known = {"PatientSex": "F", "PatientBirthDate": "20000101", "StudyDate": "20100101"}
    write_dicom(tmp_path / "cd" / "DIR" / "1", **known)
    write_dicom(tmp_path / "cd" / "DIR" / "2", PatientSex="M", PatientAge="009Y")
    write_dicom(tmp_path / "cd" / "DIR" / "3", PatientSex="O")
    both = {"PatientBirthDate": "20000101", "StudyDate": "20100101", "PatientAge": "004Y"}
    write_dicom(tmp_path / "cd" / "DIR" / "4", **both)
    code, _, _ = boneage("predict", "run", "cd", "--out", "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert code == 0
    found = [(row["sex"], row["chronological_age_months"]) for row in rows]
    assert found == [("F", "120.0"), ("M", "108.0"), ("", ""), ("", "")]
    assert ["age-in-years" in row["findings"] for row in rows] == [False, True, False, False]
    assert "contradictory-age" in rows[3]["findings"]
    _, out, _ = boneage("predict", "run", "cd/DIR/1", "--chronological-age", "60", "--json")
    (answer,) = json.loads(out)["predictions"]
    assert answer["chronological_age_months"] == 60.0
    assert "other-age" in [finding["code"] for finding in answer["findings"]]


def test_a_wrong_row_of_a_table_costs_its_own_answer_alone(boneage, run, tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text(
        "picture,gender,birth_date,study_date\n"
        "a.png,F,2000-01-01,2010-01-01\n"
        "b.png,1,,\n"
        "c.png,M,2010-01-01,2000-01-01\n"
        "absent.png,M,,\n"
        "d.png,,,\n"
    )
    code, out, _ = boneage("predict", "run", "--table", "t.csv", "--image", "picture", "--json")
    assert code == 2
    answers = json.loads(out)["predictions"]
    statuses = ["answered", "failed", "failed", "unreadable", "answered"]
    assert [answer["status"] for answer in answers] == statuses
    assert answers[0]["chronological_age_months"] == 120.0
    assert "A sex is never guessed" in answers[1]["reason"]
    assert "the birth date is 3,653 days after the study date" in answers[2]["reason"]
    assert set(answers[4]["by_sex"]) == {"F", "M"}
    _, out, err = boneage("predict", "run", "--table", "t.csv", "--image", "picture")
    assert "error: t.csv: row 3: gender is '1'" in err
    assert out.count(" months (") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no radiograph is named"),
        (("empty",), "there is no radiograph"),
        (("a.png", "b.png", "--chronological-age", "99"), "holds for one radiograph only"),
        (("a.png", "--chronological-age", "3650"), "Is it in years or days?"),
        (("a.png", "--level", "90"), "Write 0.9 for 90 %"),
        (("a.png", "--shard", "1/2"), "Name one with --out"),
        *(
            (("a.png", "--out", "x.csv", "--shard", shard), "Write 1/4 for the first of four")
            for shard in ("5/4", "0/4", "1/0", "-1/4", "x", "1")
        ),
        (("a.png", "--out", "x.csv", "--shard", "1/2", "--merge", "2"), "can't be combined"),
        (("a.png", "--out", "x.csv", "--merge", "2"), "x.1-of-2.csv: there is no such file"),
        (("a.png", "--out", "x.csv", "--json"), "can't be combined with --out"),
        (("a.png", "--out", "x.xlsx"), "Use .csv, .jsonl, .parquet"),
        (("a.png", "--out", "x.parquet", "--shard", "1/2"), "can't be written in parts"),
        (("a.png", "--out", "notes.csv"), "nothing says which command has made it"),
        (("a.png", "--out", "run"), "this form is not known"),
        (("--table", "t.csv", "--sex", "F"), "has a column with the sex"),
        (("--table", "t.csv", "--sex-column", "sez"), "Did you mean 'sex'?"),
        (("--table", "t.csv", "--chronological", "age"), "the ages are probably in years"),
        (("--table", "absent.csv"), "there is no such file"),
    ],
)
def test_wrong_options_are_refused(boneage, refused, run, tmp_path, options, message):
    write(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.csv").write_text("mine\n")
    (tmp_path / "t.csv").write_text("image,sex,age\na.png,F,9.5\na.png,F,16\n")
    refused(boneage("predict", "run", *options), message)
    assert (tmp_path / "notes.csv").read_text() == "mine\n"


@pytest.mark.slow
def test_evaluate_python_and_predict_give_the_answers_of_the_shipped_model(
    boneage, cohort, tmp_path
):
    model = open_run(Path("rsna-best"))
    metrics = evaluate_run(model, data=cohort, views=1, out=tmp_path / "out", progress=False)
    scored = pd.read_csv(tmp_path / "out" / metrics["predictions"]["file"])
    paths = read_manifest(cohort).split("test").image_paths()
    estimator = load("rsna-best", views=1, anyway=True)
    options = ["--views", "1", "--anyway", "--json"]
    for path, row in zip(paths, scored.to_dict("records"), strict=True):
        _, out, _ = boneage("predict", "rsna-best", path, "--sex", row["sex"], *options)
        (printed,) = json.loads(out)["predictions"]
        found = [estimator.predict(path, row["sex"]).months, printed["predicted_age_months"]]
        assert found == pytest.approx([row["predicted_age_months"]] * 2, abs=0.01)
