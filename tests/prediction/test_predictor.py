from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.prediction import predictor as module
from boneage.prediction.engines import Outputs
from boneage.prediction.familiarity import Familiarity
from boneage.prediction.predict import Estimator
from boneage.prediction.predictor import UNFAMILIAR, Predictor, mean_answer
from boneage.prediction.test_time_views import mean_of_views
from boneage.radiographs.framing import PHASES, frame
from boneage.radiographs.image_quality import ImageFinding
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing, Prediction, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

AREA = Framing(size=32)
NEAREST = Framing(size=32, sampling="nearest", source_pixels=48)
LARGE = phantom(5, 0, 128).image
SMALL = phantom(7, 1, 64).image[8:56, 8:56]
GIRL, BOY = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)


class Brightness:
    """An engine that answers with the mean grey level, and ten months more for boys."""

    def __init__(self, factor: float = 255.0) -> None:
        self.factor = factor
        self.batches: list[int] = []

    def predict(self, images, gender):
        self.batches.append(len(images))
        return Outputs(self.factor / 255 * images.mean(axis=(1, 2)) + 10 * gender[:, 0])


@pytest.fixture
def engines(monkeypatch) -> dict[str, Brightness]:
    """Engines by the name of the run's folder, made when the run's model is loaded."""
    loaded: dict[str, Brightness] = {}

    def load(run: Run) -> Brightness:
        return loaded.setdefault(run.folder.name, Brightness(100.0 + 50 * len(loaded)))

    monkeypatch.setattr(module, "load_engine", load)
    return loaded


@pytest.fixture
def make_run(tmp_path, engines):
    def make(name: str, framing: Framing = AREA, *, views: int = 1, phases: int = 1) -> Run:
        run = Run(tmp_path / name)
        prediction = Prediction(views=views, phases=phases)
        recipe = Recipe(name=name, framing=framing, prediction=prediction)
        write_json(run.recipe_path, recipe.model_dump(mode="json"))
        write_json(run.info_path, {"name": name})
        run.best_path.touch()
        return run

    return make


def answer_of(predictor: Predictor, inputs, gender):
    return mean_answer(predictor.estimate(inputs, gender))


def months(framing: Framing, image, factor: float = 100.0, **options) -> float:
    return factor * frame(image, framing, **options).pixels.mean() / 255


def test_the_answer_for_a_large_radiograph_is_the_mean_over_its_four_phases(make_run, engines):
    predictor = Predictor(make_run("nearest", NEAREST, phases=4))
    inputs, _ = predictor.frame(LARGE)
    assert len({image.tobytes() for image in inputs[0]}) == 4
    expected = np.mean([months(NEAREST, LARGE, phase=phase) for phase in PHASES])
    assert answer_of(predictor, [inputs], GIRL)[0] == pytest.approx(expected)
    assert engines["nearest"].batches == [4]
    one = Predictor(make_run("nearest", NEAREST, phases=4), phases=1)
    assert answer_of(one, [one.frame(LARGE)[0]], GIRL)[0] == pytest.approx(months(NEAREST, LARGE))


def test_a_radiograph_that_is_not_larger_has_one_phase_and_the_same_answer_to_the_bit(
    make_run, engines
):
    run = make_run("nearest", NEAREST, views=2, phases=4)
    four, one = Predictor(run), Predictor(run, phases=1)
    answers = [
        answer_of(each, [each.frame(SMALL)[0]] * 3, np.ones((3, 1), np.float32))
        for each in (four, one)
    ]
    assert answers[0].tobytes() == answers[1].tobytes()
    assert engines["nearest"].batches == [3, 3, 3, 3]  # two views, no phases
    wide = Predictor(run).frame(LARGE[40:88])[0][0]
    assert len(wide) == len({image.tobytes() for image in wide}) == 2  # only one side is larger


def test_radiographs_with_and_without_phases_are_answered_each_by_its_own(make_run):
    predictor = Predictor(make_run("nearest", NEAREST, views=2, phases=4))
    inputs = [predictor.frame(image)[0] for image in [SMALL, LARGE, LARGE[:, ::-1], SMALL] * 20]
    gender = np.resize(np.array([0, 1, 1], np.float32), (80, 1))
    batches = [mean_answer(each) for each in predictor.estimates(iter(inputs), gender)]
    assert [len(batch) for batch in batches] == [64, 16]
    alone = [answer_of(predictor, [each], gender[[row]])[0] for row, each in enumerate(inputs)]
    np.testing.assert_allclose(np.concatenate(batches), alone, rtol=1e-6)
    assert answer_of(predictor, [], gender[:0]).shape == (0,)


def test_the_answer_of_several_runs_is_the_mean_of_what_each_answers_alone(make_run):
    runs = [
        make_run("a", Framing(size=40)),
        make_run("b", Framing(size=64, crop="none"), views=2),
        make_run("c", NEAREST, phases=4),
        make_run("d", Framing(size=40)),
    ]
    together = Predictor(runs)
    assert [len(group.runs) for group in together.groups] == [2, 1, 1]  # a and d share images
    alone = [Predictor(run) for run in runs]
    for image in (SMALL, LARGE):
        answers = [answer_of(each, [each.frame(image)[0]], BOY)[0] for each in alone]
        assert len(set(answers)) == 4
        found = answer_of(together, [together.frame(image)[0]], BOY)[0]
        assert found == pytest.approx(np.mean(answers), rel=1e-9)


def test_the_answer_is_limited_after_the_runs_are_averaged(make_run, monkeypatch):
    class Fixed:
        def __init__(self, run):
            self.months = {"a": -8.0, "b": 4.0}[run.folder.name]

        def predict(self, images, gender):
            return Outputs(np.full(len(images), self.months))

    monkeypatch.setattr(module, "load_engine", Fixed)
    both = Predictor([make_run("a"), make_run("b")])
    assert answer_of(both, [both.frame(LARGE)[0]], GIRL).tolist() == [0.0]  # not 2


def test_several_runs_decode_a_radiograph_once(make_run, engines, monkeypatch, tmp_path):
    path = tmp_path / "hand.png"
    cv2.imwrite(str(path), LARGE)
    read: list[Path] = []

    def count(path):
        read.append(path)
        return read_radiograph(path)

    monkeypatch.setattr("boneage.prediction.predict.read_radiograph", count)
    runs = [make_run("a", Framing(size=40)), make_run("b", Framing(size=64))]
    answer = Estimator(runs).predict(path, "F")
    expected = (months(Framing(size=40), LARGE) + months(Framing(size=64), LARGE, 150.0)) / 2
    assert answer.months == pytest.approx(expected)
    assert len(read) == 1


def test_a_file_is_read_with_its_region_and_refused_if_it_shows_nothing(make_run, tmp_path):
    predictor = Predictor(make_run("a"))
    path = tmp_path / "hand.png"
    cv2.imwrite(str(path), LARGE)
    region = (0, 0, 100, 110)
    np.testing.assert_array_equal(
        predictor.read(path, region)[0][0], frame(LARGE, AREA, region).pixels
    )
    with pytest.raises(InputError, match=r"hand.png: region: its corners are 0 0 500 500"):
        predictor.read(path, (0, 0, 500, 500))
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    with pytest.raises(InputError, match="every pixel is 0"):
        predictor.read(path)


@pytest.mark.parametrize("number", [0, 7])  # of 7, a hand seems to stand out in dark, too
@pytest.mark.parametrize("framing", [AREA, NEAREST, Framing(size=32, crop="none")])
@pytest.mark.parametrize("bits", [8, 12])
def test_an_inverted_radiograph_gets_the_images_of_the_original(make_run, number, framing, bits):
    hand = phantom(5, number, 128).image
    top = 2**bits - 1
    hand = hand if bits == 8 else (hand.astype(np.uint16) * 16 + 15)
    predictor = Predictor(make_run("a", framing))
    right = predictor.assess(hand)
    assert right.inputs[0][0].tobytes() == frame(hand, framing).pixels.tobytes()
    assert (right.findings, right.refusal) == ((), None)
    found = predictor.assess((top - hand).astype(hand.dtype))
    assert found.inputs[0][0].tobytes() == right.inputs[0][0].tobytes()
    assert [finding.code for finding in found.findings] == ["inverted"]
    assert found.findings[0].what == "the grey levels were inverted, because bone was dark"
    assert found.findings[0].is_corrected
    assert found.refusal is None
    assert (right.is_inverted, found.is_inverted) == (False, True)
    assert np.array_equal(found.levels((top - hand).astype(hand.dtype)), hand)


def test_of_two_hands_the_first_half_that_shows_one_is_answered_for(make_run):
    both = np.hstack([LARGE, LARGE[:, ::-1]])
    predictor = Predictor(make_run("a"))
    for image, code in ((both, "two-hands"), (255 - both, "inverted")):
        found = predictor.assess(image)
        assert found.refusal is None
        assert found.inputs[0][0].tobytes() == frame(LARGE, AREA).pixels.tobytes()
        assert code in {finding.code for finding in found.findings}
        assert "the answer is for the left half" in found.findings[0].what
        assert found.box == (0, 0, LARGE.shape[1], LARGE.shape[0])
        assert np.array_equal(found.levels(image), LARGE)
    empty = np.hstack([np.zeros_like(LARGE), LARGE])
    right = predictor._assess_half(empty, found.findings[0])
    assert right is not None
    assert "right half" in right.findings[0].what
    assert right.box == (LARGE.shape[1], 0, 2 * LARGE.shape[1], LARGE.shape[0])


def test_an_image_without_a_hand_is_refused(make_run):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))  # no hand either way
    palm = 255 - phantom(5, 5, 128).image[30:100, 40:90]
    inverted = "it is probably inverted: bone is dark, and no hand stands out"
    predictor = Predictor(make_run("a"))
    for image, code, what in ((ramp, "no-hand", "no hand"), (palm, "inverted", inverted)):
        found = predictor.assess(image)
        assert found.refusal.code == code
        assert what in found.refusal.what
        assert found.inputs[0][0].tobytes() == frame(image, AREA).pixels.tobytes()
        assert code not in {finding.code for finding in found.findings}


def test_a_turned_hand_that_was_put_upright_is_said_once(make_run):
    found = Predictor(make_run("a")).assess(np.rot90(phantom(5, 3, 128).image))
    assert [finding.code for finding in found.findings] == ["rotated"]
    assert "turned by 90 degrees clockwise" in found.findings[0].what


def write_familiarity(run: Run, direction: int, limit: float = 1.0) -> None:
    unit = np.eye(3, dtype=np.float16)
    Familiarity(unit[[direction]], unit[[2]], 0.1, limit, 0.1).write(run.folder)


def judge(predictor: Predictor, *pooled: list[float]) -> list[str | None]:
    outputs = [Outputs(np.zeros(len(pooled)), None, np.array(pooled, np.float32))]
    found = predictor.judge(outputs * len(predictor.runs), [9.0] * len(pooled))
    return [None if each is None else each.code for each in found]


def test_images_that_the_networks_do_not_know_are_found(make_run):
    one, other, without = (make_run(name) for name in "abc")
    hand, elsewhere, drawing = [5.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.1, 7.0]
    images = (hand, elsewhere, drawing)
    assert judge(Predictor(without), *images) == [None, None, None]
    write_familiarity(one, 0)
    assert judge(Predictor(one), *images) == [None, UNFAMILIAR, "drawing"]
    assert judge(Predictor([one, without]), *images) == [None, UNFAMILIAR, "drawing"]
    write_familiarity(other, 1)  # the mean of both distances counts
    assert judge(Predictor([one, other]), hand, drawing) == [UNFAMILIAR, "drawing"]


def test_what_would_be_refused_is_said_without_an_answer(make_run, engines, monkeypatch):
    predictor = Predictor(make_run("a"))
    assert predictor.refuse(np.zeros((64, 64), np.uint8)).code == "blank-image"
    assert not engines, "no network is asked"
    assert predictor.refuse(LARGE) is None
    for code in ("drawing", UNFAMILIAR):
        finding = ImageFinding(code, "it is odd", "Check it.")
        monkeypatch.setattr(predictor, "judge", lambda *_, found=finding: [found])
        assert predictor.refuse(LARGE) == (finding if code == UNFAMILIAR else None)


def test_the_familiarity_of_another_network_is_an_error(make_run):
    run = make_run("a")
    write_familiarity(run, 0)
    with pytest.raises(InputError, match="familiarity.npz: it is for 3 features, not 2"):
        judge(Predictor(run), [1.0, 2.0])


def test_runs_views_and_phases_that_make_no_sense_are_refused_before_a_model_is_read(
    make_run, engines, tmp_path
):
    area, nearest = make_run("area"), make_run("nearest", NEAREST)
    (tmp_path / "link").symlink_to(tmp_path / "area", target_is_directory=True)
    for runs, options, message in (
        ([area, nearest, Run(tmp_path / "link")], {}, "link: the run is named twice"),
        ([nearest, area], {"phases": 4}, "phases: it is 4, but the framing of .*area has one"),
        (nearest, {"phases": 2}, "phases: it is 2. Choose 1 or 4"),
        (nearest, {"views": 3}, "views: it is 3. Choose one of 1, 2, 6"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor(runs, **options)
    assert not engines
    assert not Predictor([nearest, area], phases=1).has_phases


def test_a_prediction_is_that_of_one_network_on_one_framed_image(make_run, engines):
    predictor = Predictor(make_run("a"))
    answer = answer_of(predictor, [predictor.frame(LARGE)[0]], BOY)
    images = frame(LARGE, AREA).pixels[None]
    assert answer.tobytes() == mean_of_views(engines["a"], images, BOY).months.tobytes()
