from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage.pipeline.framing import frame, framing_key
from boneage.recipe import Framing

PLAIN = (0.0, 100.0)


def gradient(height: int, width: int, low: int = 0, high: int = 255) -> np.ndarray:
    return np.tile(np.linspace(low, high, width).round(), (height, 1)).astype(np.uint8)


@given(
    height=st.integers(16, 200),
    width=st.integers(16, 200),
    size=st.integers(32, 128),
    bits=st.sampled_from([8, 16]),
)
def test_any_film_becomes_a_square(height: int, width: int, size: int, bits: int) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    film = rng.integers(0, 2**bits, (height, width)).astype(f"uint{bits}")
    square = frame(film, Framing(size=size))
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert np.array_equal(square, frame(film.copy(), Framing(size=size)))


def test_the_aspect_is_kept_and_the_rest_is_black() -> None:
    square = frame(np.full((200, 100), 200, np.uint8) - gradient(200, 100, 0, 9), Framing(size=64))
    assert not square[:, :16].any()
    assert not square[:, 48:].any()
    assert (square[:, 16:47] > 0).mean() > 0.95


def test_a_round_stays_round() -> None:
    y, x = np.mgrid[:300, :200]
    film = (((y - 150) ** 2 + (x - 100) ** 2 < 80**2) * 255).astype(np.uint8)
    square = frame(film, Framing(size=100, contrast_percentiles=PLAIN)) > 127
    assert abs(int(square.any(0).sum()) - int(square.any(1).sum())) <= 1


def test_shrinking_averages_areas() -> None:
    film = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8)
    film[0, :2] = 0, 255
    square = frame(film, Framing(size=32, contrast_percentiles=PLAIN))
    expected = film.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(square - expected).max() <= 0.5


def test_a_film_of_the_right_size_is_only_stretched() -> None:
    film = gradient(64, 64, 10, 130)
    square = frame(film, Framing(size=64, contrast_percentiles=PLAIN))
    assert np.abs(square - (film - 10.0) * 255 / 120).max() <= 0.5


def test_levels_at_the_percentiles_become_black_and_white() -> None:
    film = np.random.default_rng(1).normal(100, 10, (400, 400)).clip(0, 255).astype(np.uint8)
    low, high = np.percentile(film, [2, 99.5])
    square = frame(film, Framing(size=400))
    assert square[film <= low].max() == 0
    assert square[film >= high].min() == 255
    between = (film > low) & (film < high)
    assert set(square[between].tolist()).isdisjoint({0, 255})


def test_depth_makes_no_difference() -> None:
    film = gradient(100, 80, 20, 90)
    deep = film.astype(np.uint16) * 100 + 7
    settings = Framing(size=50)
    assert np.abs(frame(film, settings).astype(int) - frame(deep, settings)).max() <= 1


@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_film_gives_no_contrast(level: int) -> None:
    square = frame(np.full((100, 100), level, np.uint8), Framing(size=32))
    assert len(np.unique(square)) == 1


def test_the_key_changes_with_every_setting() -> None:
    keys = {
        framing_key(Framing(size=size, contrast_percentiles=percentiles))
        for size in (64, 65)
        for percentiles in ((2.0, 99.5), (2.0, 99.0), (1.0, 99.5))
    }
    assert len(keys) == 6
    assert framing_key(Framing()) == framing_key(Framing())
