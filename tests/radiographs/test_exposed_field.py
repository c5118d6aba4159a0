from __future__ import annotations

import numpy as np

from boneage.radiographs.exposed_field import (
    above_background,
    exposed_field,
    percentiles,
    trimmed,
)


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_a_collimated_field_is_found_inside_its_margin() -> None:
    inside = box(160, 120, 20, 30, 150, 110)
    radiograph = np.where(inside, 40, 200).astype(np.uint8)
    field = exposed_field(radiograph)
    assert not (field & (1 - inside)).any()
    assert field.sum() > 0.85 * inside.sum()


def test_a_radiograph_without_a_margin_is_exposed_all_over() -> None:
    radiograph = np.full((200, 160), 20, np.uint8)
    y, x = np.mgrid[:200, :160]
    radiograph[(y - 110) ** 2 + (x - 80) ** 2 < 30**2] = 120  # a palm,
    for finger in range(4):
        radiograph[20:110, 54 + 14 * finger : 62 + 14 * finger] = 120  # fingers,
    radiograph[110:, 65:95] = 120  # and a forearm
    assert exposed_field(radiograph).all()


def test_a_shaded_background_is_subtracted() -> None:
    y, x = np.mgrid[:100, :100] / 100
    radiograph = (60 + 40 * x + 30 * (y - 0.5) ** 2).round().astype(np.uint8)
    radiograph[40:60, 40:60] += 50
    above, noise = above_background(radiograph, np.ones_like(radiograph))
    assert np.abs(above[42:58, 42:58] - 50).max() < 3
    assert np.abs(above[:35]).max() < 3
    assert noise < 1


def test_lines_that_are_bright_all_over_are_trimmed_and_no_more_than_an_eighth() -> None:
    field = np.ones((100, 80), np.uint8)
    bright = box(100, 80, 0, 0, 5, 80) | box(100, 80, 60, 30, 100, 50)
    assert np.array_equal(trimmed(bright, field), box(100, 80, 5, 0, 100, 80))
    assert trimmed(field, field).sum() >= (100 - 24) * (80 - 18)
    assert not trimmed(bright, np.zeros_like(field)).any()


def test_percentiles_are_numpys() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        grey = rng.integers(0, rng.integers(1, 257), (height, width)).astype(np.uint8)
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        mask[0, 0] = 1
        shares = [0, 2, 5, 50, 90, 99.5, 100, float(rng.random() * 100)]
        assert percentiles(grey, mask, shares) == np.percentile(grey[mask > 0], shares).tolist()
