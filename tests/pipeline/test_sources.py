from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.pipeline.sources import image_and_gain, image_source
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing


@pytest.fixture(scope="module")
def radiographs() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24), dtype=np.uint8)


@pytest.fixture
def paths(radiographs: npt.NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    for number, radiograph in enumerate(radiographs):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), radiograph)
    return [tmp_path / f"{number}.png" for number in range(len(radiographs))]


@pytest.mark.parametrize(
    "given",
    [
        lambda radiographs: radiographs,
        lambda radiographs: radiographs[..., None],
        lambda radiographs: radiographs.astype(np.int64),
        lambda radiographs: np.repeat(radiographs[..., None], 3, axis=3) + 0.4,
        lambda radiographs: radiographs.tolist(),
    ],
)
def test_arrays_of_every_kind_give_the_same_rows(radiographs: Any, given: Any) -> None:
    array = given(radiographs)
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        array = np.minimum(array, 255)
    source = image_source(array, None, None)
    assert source.shape == (5, 20, 24)
    assert len(source) == 5
    for row, radiograph in enumerate(radiographs):
        assert source[row].dtype == np.uint8
        assert np.array_equal(source[row], radiograph)


def test_colours_are_weighted_as_red_green_blue() -> None:
    pure = np.zeros((3, 8, 8, 3), np.uint8)
    for channel in range(3):
        pure[channel, :, :, channel] = 255
    source = image_source(pure, None, None)
    assert [int(source[row][0, 0]) for row in range(3)] == [76, 150, 29]


def test_a_uint8_array_is_not_copied(radiographs: npt.NDArray[np.uint8]) -> None:
    assert np.shares_memory(image_source(radiographs, None, None)[2], radiographs)


@pytest.mark.parametrize("kind", [list, tuple, pd.Series, lambda p: [str(x) for x in p], np.array])
def test_paths_are_decoded_and_framed(paths: list[Path], kind: Any) -> None:
    source = image_source(kind(paths), 64, None)
    assert source.shape == (5, 64, 64)
    expected = frame(read_radiograph(paths[3]), Framing(size=64)).pixels
    assert np.array_equal(source[3], expected)
    own = Framing(size=40, contrast_percentiles=(0, 100))
    expected = frame(read_radiograph(paths[3]), own).pixels
    assert np.array_equal(image_source(paths, None, own)[3], expected)
    assert image_source(paths, None, None).shape == (5, 299, 299)


def test_a_gain_is_that_of_the_framing_and_otherwise_one(
    radiographs: npt.NDArray[np.uint8], paths: list[Path]
) -> None:
    flat = radiographs[0] // 8 + 90
    cv2.imwrite(str(paths[0]), flat)
    source = image_source(paths, 64, None)
    framed = frame(flat, Framing(size=64))
    pixels, gain = image_and_gain(source, 0)
    assert np.array_equal(pixels, framed.pixels)
    assert gain == framed.gain
    assert gain > 5 * image_and_gain(source, 1)[1]
    assert image_and_gain(image_source(radiographs, None, None), 0)[1] == 1.0


def test_a_blank_file_is_refused_when_it_is_read(paths: list[Path]) -> None:
    cv2.imwrite(str(paths[1]), np.zeros((20, 24), np.uint8))
    source = image_source(paths, 64, None)
    with pytest.raises(InputError, match=r"1\.png: every pixel is 0"):
        source[1]


def test_all_missing_files_are_named(paths: list[Path]) -> None:
    paths[1].unlink()
    paths[4].unlink()
    with pytest.raises(InputError) as caught:
        image_source(paths, 64, None)
    assert [fault.where for fault in caught.value.faults] == [str(paths[1]), str(paths[4])]


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ([], "there are no images"),
        (np.zeros((20, 20), np.uint8), r"its shape is \(20, 20\)"),
        (np.full((2, 20, 20), 0.5), "already scaled"),
        (np.full((2, 20, 20), 4095, np.uint16), "run from 4095 to 4095"),
        (np.full((2, 20, 20), np.nan), "NaN or infinite"),
        (np.full((2, 20, 20), "x"), "its type is <U1"),
        (np.ones((2, 20, 20), bool), "its type is bool"),
        (Path("hands/1.png"), "it is one path"),
        ([np.zeros((20, 20)), np.zeros((20, 21))], "different sizes"),
    ],
)
def test_what_is_no_images_is_refused(images: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        image_source(images, None, None)


def test_a_size_that_does_not_fit_is_refused(
    radiographs: npt.NDArray[np.uint8], paths: list[Path]
) -> None:
    with pytest.raises(InputError, match="the images are 20 x 24"):
        image_source(radiographs, 64, None)
    with pytest.raises(InputError, match="already decoded"):
        image_source(radiographs, None, Framing())
    with pytest.raises(InputError, match=r"framing\.size is 64"):
        image_source(paths, 32, Framing(size=64))
