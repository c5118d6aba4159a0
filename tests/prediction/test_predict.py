import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.prediction import predict
from boneage.prediction.engines import ANSWER, OnnxEngine, Outputs, load_engine
from boneage.prediction.familiarity import Familiarity
from boneage.prediction.predict import Estimator, Request
from boneage.prediction.shipped import open_run
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

HEAVY = ("keras", "tensorflow", "jax", "torch", "pandas", "albumentations", "matplotlib", "scipy")


@pytest.fixture
def unfinished(tmp_path) -> Run:
    run = Run(tmp_path)
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    write_json(run.info_path, {"name": "small"})
    run.best_path.touch()
    return run


HAND = phantom(5, 0, 128).image
BLANK = np.zeros((40, 40), np.uint8)


def predict_radiographs(run, paths, sex):
    return Estimator(run).predict_many(Request(path, sex) for path in paths)


def write(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes())
    return path


class Brightness:
    """An engine that answers with the mean grey level, and counts its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.pooled = None

    def predict(self, images, gender):
        self.batches.append(len(images))
        pooled = None if self.pooled is None else np.repeat(self.pooled, len(images), axis=0)
        return Outputs(images.mean(axis=(1, 2)) + 10.0 * gender[:, 0], None, pooled)


@pytest.fixture
def engine(monkeypatch) -> Brightness:
    engine = Brightness()
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: engine)
    return engine


def test_no_file_costs_the_others_their_answers(unfinished, engine, tmp_path):
    good = write(tmp_path / "good.png", HAND)
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-200])
    names = ["absent.png", "empty.png", "good.png", "folder.png", "cut.png", "blank.png"]
    write(tmp_path / "blank.png", BLANK)
    paths = [str(tmp_path / name) for name in names]
    paths += ["http://a.b//c.png", str(good), str(tmp_path / ("x" * 300)), "nul\0.png"]
    answers = list(predict_radiographs(unfinished, paths, "F"))
    assert [answer.image for answer in answers] == paths
    assert [answer.status for answer in answers] == [
        "unreadable", "unreadable", "answered", "unreadable", "unreadable", "refused",
        "unreadable", "answered", "unreadable", "unreadable",
    ]  # fmt: skip
    framed = frame(HAND, Framing(size=32)).pixels
    for answer in answers:
        if answer.status == "answered":
            assert answer.months == pytest.approx(framed.mean(), abs=1e-3)
            assert answer.fault is None
        else:
            assert answer.months is None
            assert answer.fault.where == answer.image
            assert answer.fault.what
            assert answer.fault.fix.endswith(".")


def test_an_unforeseen_error_of_a_decoder_is_the_fault_of_its_file(
    unfinished, engine, tmp_path, monkeypatch
):
    paths = [write(tmp_path / f"{number}.png", HAND) for number in range(3)]

    def read(path):
        if path == paths[1]:
            raise ValueError("too many values to unpack")
        return read_radiograph(path)

    monkeypatch.setattr(predict, "read_radiograph", read)
    answers = list(predict_radiographs(unfinished, paths, "F"))
    assert [answer.status for answer in answers] == ["answered", "unreadable", "answered"]
    assert "can't be decoded (ValueError)" in str(answers[1].fault)


def test_names_that_are_not_utf8_are_answered(unfinished, engine, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff\n.png"))
    try:
        write(path, HAND)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (answer,) = predict_radiographs(unfinished, [path], "F")
    assert (answer.image, answer.status) == (str(path), "answered")


def test_findings_of_data_check_are_warnings(unfinished, engine, tmp_path):
    images = {
        "good": HAND,
        "turned-hand": HAND[::-1],
        "two-hands": np.hstack([HAND, HAND[:, ::-1]]),
        "inverted": 255 - HAND,
        "low-resolution": cv2.resize(HAND, (17, 17), interpolation=cv2.INTER_AREA),
    }
    paths = [write(tmp_path / f"{code}.png", image) for code, image in images.items()]
    for code, answer in zip(images, predict_radiographs(unfinished, paths, "F"), strict=True):
        assert answer.status == "answered"
        codes = {finding.code for finding in answer.findings}
        assert code in codes if code != "good" else not codes


def test_what_is_refused_is_answered_anyway_with_the_reason_as_a_finding(
    unfinished, engine, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    images = {"no-hand": noise, "unfamiliar": HAND, "blank-image": BLANK}
    paths = [write(tmp_path / f"{code}.png", image) for code, image in images.items()]
    engine.pooled = np.array([[0.0, 1.0]], np.float32)
    unit = np.eye(2, dtype=np.float16)
    Familiarity(unit[:1], unit[:0], 0.1, 1.0, 0.0).write(unfinished.folder)
    requests = [Request(path, None) for path in paths]
    for answer in Estimator(unfinished).predict_many(requests):
        assert (answer.status, answer.estimates) == ("refused", ())
        assert answer.fault.where == answer.image
    *answers, blank = Estimator(unfinished, anyway=True).predict_many(requests)
    assert blank.status == "refused"
    for code, answer in zip(images, answers, strict=False):
        assert (answer.status, len(answer.estimates)) == ("answered", 2)
        assert code in {finding.code for finding in answer.findings}
    engine.pooled = np.array([[1.0, 0.0]], np.float32)
    assert Estimator(unfinished).predict(paths[1], "F").status == "answered"


def test_answers_come_a_batch_at_a_time_and_the_model_only_when_it_is_needed(
    unfinished, engine, tmp_path
):
    write(tmp_path / "hand.png", HAND)
    write(tmp_path / "blank.png", BLANK)
    names = ["blank.png"] * 70 + ["hand.png"] * 130
    answers = predict_radiographs(unfinished, [tmp_path / name for name in names], "F")
    assert next(answers).status == "refused"
    assert engine.batches == []
    assert [answer.status for answer in answers].count("answered") == 130
    assert engine.batches == [58, 64, 8]


def test_a_wrong_number_of_views_is_refused_before_a_radiograph_is_read(unfinished, tmp_path):
    with pytest.raises(InputError, match="views: it is 3"):
        Estimator(unfinished, views=3)


@pytest.mark.slow
def test_a_radiograph_is_predicted_as_in_the_evaluation(finished_run, cohort):
    test = read_manifest(cohort).split("test")
    evaluated = pd.read_csv(
        finished_run.predictions_path("test"), dtype={"image_id": str}
    ).set_index("image_id")["predicted_age_months"]
    for sex in ("F", "M"):
        rows = (test.table["sex"] == sex).to_numpy()
        paths = [path for path, chosen in zip(test.image_paths(), rows, strict=True) if chosen]
        answers = list(predict_radiographs(open_run(finished_run.folder), paths, sex))
        assert [(answer.image, answer.sex) for answer in answers] == [(str(p), sex) for p in paths]
        months = [answer.months for answer in answers]
        np.testing.assert_allclose(months, evaluated[test.table["image_id"][rows]], atol=1e-3)


def test_prediction_imports_nothing_heavy():
    code = (
        "import sys, boneage.prediction.predict, boneage.prediction.shipped; "
        f"sys.exit(' '.join(sorted(set({HEAVY}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_without_a_sex_the_answer_has_an_estimate_for_each(unfinished, engine, tmp_path):
    hand = write(tmp_path / "hand.png", HAND)
    requests = [Request(hand, "M"), Request(hand, None, 99.0), Request(hand, "F")]
    boy, both, girl = Estimator(unfinished).predict_many(requests)
    assert [each.sex for each in both.estimates] == ["F", "M"]
    assert [each.months for each in both.estimates] == [girl.months, boy.months]
    assert boy.months == pytest.approx(girl.months + 10)
    assert (both.months, both.chronological_age_months) == (None, 99.0)
    assert engine.batches == [4]
    assert [model.name for model in both.models] == ["small"]


def test_an_answer_near_the_end_of_the_scale_says_so(unfinished, tmp_path, monkeypatch):
    months = {"F": 192.0, "M": 203.9}

    class Old:
        def predict(self, images, gender):
            return Outputs(np.where(gender[:, 0] == 1, months["M"], months["F"]))

    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Old())
    estimator, hand = Estimator(unfinished), write(tmp_path / "hand.png", HAND)

    def found(sex):
        return [each.what for each in estimator.predict(hand, sex).findings if "matur" in each.code]

    girls = "near or at skeletal maturity: the scale ends soon after 16 years for girls"
    assert (found("F"), found("M"), found(None)) == ([girls], [], [girls])
    months["M"] = 204.0
    assert found(None) == [f"{girls} and 17 years for boys"]


def test_a_network_with_weights_outside_its_folder_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason='needs the extra "export"')
    (tmp_path / "run").mkdir()
    (tmp_path / "private.bin").write_bytes(bytes(16))
    weight = onnx.TensorProto(name=ANSWER, data_type=onnx.TensorProto.FLOAT, dims=[4, 1])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../private.bin")
    of_type = onnx.helper.make_tensor_value_info
    given = [of_type("image", onnx.TensorProto.UINT8, ["b", 8, 8, 1])]
    given.append(of_type("gender", onnx.TensorProto.FLOAT, ["b", 1]))
    answer = [of_type(ANSWER, onnx.TensorProto.FLOAT, [4, 1])]
    graph = onnx.helper.make_graph([], "graph", given, answer, [weight])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    path = tmp_path / "run" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="External data path"):
        OnnxEngine(path)


@pytest.mark.parametrize(("sex", "age"), [("male", None), ("girl", None), ("M", -1), ("F", 481)])
def test_a_sex_or_an_age_that_is_none_is_refused_and_not_taken_for_a_girl(sex, age):
    with pytest.raises(InputError, match=r"the sex is '|a chronological age of"):
        Request("hand.png", sex, age)


def test_without_keras_a_run_without_onnx_says_why_it_needs_it(tmp_path, monkeypatch):
    def missing(name, *rest):
        raise ModuleNotFoundError("No module named 'keras'", name="keras")

    monkeypatch.setattr("builtins.__import__", missing)
    with pytest.raises(InputError, match=r"has no model.onnx, so Keras computes it"):
        load_engine(Run(tmp_path / "old"))
