from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.prediction.answers import Answer, Estimate, Interval
from boneage.prediction.engines import Outputs
from boneage.prediction.explanation import PATCHES, Explanation, explain, occlude
from boneage.prediction.explanation_picture import (
    LEAST_MONTHS,
    colour_limit,
    draw_explanation,
    overlay,
    picture_path,
    write_explanation,
)
from boneage.prediction.predictor import Predictor
from boneage.radiographs.framing import frame
from boneage.radiographs.image_quality import ImageFinding
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

SIZE = 96
HAND = phantom(0, 2, 256).image


class Corner:
    """An engine that answers with the roughness of one square of 12 pixels."""

    def __init__(self, row: int, column: int, sign: float = 1.0) -> None:
        self.place, self.sign = (slice(row, row + 12), slice(column, column + 12)), sign
        self.images = 0

    def predict(self, images, gender):
        self.images += len(images)
        part = images[:, *self.place].astype(float)
        return Outputs(100 + self.sign * part.std(axis=(1, 2)) + 10 * gender[:, 0])


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    """Return a function that makes a predictor of one run, with the engine."""

    def make(engine, **framing):
        run = Run(tmp_path)
        recipe = Recipe(name="small", framing=Framing(size=SIZE, **framing))
        write_json(run.recipe_path, recipe.model_dump(mode="json"))
        monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: engine)
        return Predictor(run)

    return make


def rough_place(framing: Framing) -> tuple[int, int]:
    """Return a square of the framed hand that blurring changes much."""
    pixels = frame(HAND, framing).pixels.astype(np.float32)
    change = cv2.blur((pixels - cv2.GaussianBlur(pixels, (0, 0), 3)) ** 2, (12, 12))[6:-6, 6:-6]
    row, column = np.unravel_index(change.argmax(), change.shape)
    return int(row), int(column)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_place_that_moves_the_answer_is_found_with_its_sign(sign):
    row, column = rough_place(Framing(size=SIZE))
    engine = Corner(row, column, sign)
    heat = occlude(engine, frame(HAND, Framing(size=SIZE)).pixels, 1.0)
    assert heat.shape == (SIZE, SIZE)
    assert engine.images <= 1 + sum(most for _, _, most in PATCHES)
    y, x = np.unravel_index(np.abs(heat).argmax(), heat.shape)
    assert row - 6 <= y <= row + 18
    assert column - 6 <= x <= column + 18
    assert np.sign(heat[y, x]) == sign


def test_without_any_detail_nothing_moves_the_answer():
    engine = Corner(0, 0)
    assert not occlude(engine, np.full((SIZE, SIZE), 7, np.uint8), 0.0).any()
    assert engine.images == 1


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("inverted", [False, True])
def test_the_map_lies_on_the_radiograph_however_it_was_turned(predictor, quarter, inverted):
    row, column = rough_place(Framing(size=SIZE))
    place = frame(HAND, Framing(size=SIZE)).to_radiograph @ (column + 6, row + 6, 1)
    drawn = np.rot90(255 - HAND if inverted else HAND, -quarter)
    marked = np.zeros(HAND.shape, np.uint8)
    marked[int(place[1]), int(place[0])] = 1
    y, x = np.argwhere(np.rot90(marked, -quarter))[0]
    model, drawn = predictor(Corner(row, column)), np.ascontiguousarray(drawn)
    found = explain(model, drawn, model.assess(drawn), "F")
    assert np.array_equal(found.radiograph, np.rot90(HAND, -quarter))
    assert found.heat.shape == drawn.shape
    peak = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert np.hypot(peak[0] - y, peak[1] - x) < 0.1 * len(HAND)
    assert cv2.pointPolygonTest(found.outline.astype(np.float32), (float(x), float(y)), False) > 0


def test_an_unknown_sex_takes_the_mean_and_a_refused_image_is_explained_as_it_is(predictor):
    model = predictor(Corner(*rough_place(Framing(size=SIZE))))
    seen = model.assess(HAND)
    both, girl = explain(model, HAND, seen, None), explain(model, HAND, seen, "F")
    assert np.allclose(both.heat, girl.heat, atol=1e-4)  # this engine adds a constant for boys
    refused = replace(seen, refusal=ImageFinding("no-hand", "x", "y"))
    assert np.array_equal(explain(model, HAND, refused, "F").heat, girl.heat)


# --- The picture.

SQUARE = np.array([(40.0, 30), (160, 30), (160, 170), (40, 170)])
EXPLANATION = Explanation(
    np.tile(np.arange(200, dtype=np.uint8), (240, 1)),
    np.zeros((240, 200), np.float32),
    SQUARE,
    (9,),
)
ANSWER = Answer("films/1.png", "answered", (Estimate("F", 118.6, Interval(0.9, 103.4, 134.2)),))


def test_colours_show_the_sign_and_are_full_at_the_limit():
    heat = np.array([[-8.0, 0, 4, 8, 99]], np.float32)
    picture = overlay(np.full(heat.shape, 100), heat, 8.0).astype(int)
    assert (picture[0, 1] == 100).all()
    assert picture[0, 0, 2] > picture[0, 0, 0]  # blue
    assert picture[0, 3, 0] > picture[0, 3, 2]  # orange
    assert abs(picture[0, 2, 0] - (100 + picture[0, 3, 0]) / 2) <= 1
    assert (picture[0, 3] == picture[0, 4]).all()
    assert colour_limit(heat) == 99
    assert colour_limit(0 * heat) == LEAST_MONTHS


@pytest.mark.parametrize("shape", [(240, 200), (200, 240), (40, 2000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("sexes", ["F", "FM"])
def test_the_picture_holds_the_radiograph_twice(shape, dtype, sexes):
    grey = np.tile(np.linspace(0, np.iinfo(dtype).max, shape[1]).astype(dtype), (shape[0], 1))
    heat = np.zeros(shape, np.float32)
    heat[shape[0] // 2, shape[1] // 2] = 5
    outline = SQUARE * (shape[1] / 200, shape[0] / 200)
    answer = replace(ANSWER, estimates=tuple(Estimate(sex, 100.0) for sex in sexes))
    picture = draw_explanation(Explanation(grey, heat, outline, (9, 20)), answer)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert max(picture.shape) < 1800
    outlined = (picture == (0, 200, 150)).all(2)
    half = picture.shape[1] // 2
    assert outlined[:, :half].any()
    assert outlined[:, half:].any()


def test_the_picture_is_a_png_in_a_new_folder(tmp_path):
    path = picture_path(tmp_path / "new", ANSWER.image)
    write_explanation(EXPLANATION, replace(ANSWER, image="kind/übung 手.dcm"), path)
    assert cv2.imread(str(path)).ndim == 3
    assert path.name.startswith("1-")


def test_files_of_one_name_get_different_pictures(tmp_path):
    names = ["a/1.png", "b/1.png", "1.png", "\udc80.png"]
    assert len({picture_path(tmp_path, name) for name in names}) == 4
