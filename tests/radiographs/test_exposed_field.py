from __future__ import annotations

import numpy as np
import pytest

from boneage.radiographs.exposed_field import (
    above_background,
    commonest,
    contact,
    erode,
    exposed_field,
    filled,
    hull,
    largest,
    opened,
    percentiles,
    shape,
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


def test_contact_counts_long_stretches() -> None:
    field = np.ones((100, 100), np.uint8)
    share, stretches = contact(box(100, 100, 50, 30, 100, 70), field)
    assert 0.05 < share < 0.2
    assert stretches == 1
    assert contact(box(100, 100, 30, 0, 70, 100), field)[1] == 2
    assert contact(box(100, 100, 30, 30, 70, 70), field) == (0.0, 0)


def test_masks() -> None:
    ring = box(50, 50, 10, 10, 40, 40) - box(50, 50, 15, 15, 35, 35)
    assert np.array_equal(filled(ring), box(50, 50, 10, 10, 40, 40))
    assert np.array_equal(hull(ring), box(50, 50, 10, 10, 40, 40))
    two = ring | box(50, 50, 0, 0, 4, 4)
    assert np.array_equal(largest(two), ring)
    assert not largest(np.zeros((5, 5), np.uint8)).any()
    assert erode(np.ones((20, 20), np.uint8), 2).sum() == 16 * 16
    rectangle, solid = shape(box(50, 50, 10, 10, 40, 40))
    assert rectangle == pytest.approx(1, abs=0.1)
    assert solid >= 1


def test_an_opening_takes_away_what_is_thin() -> None:
    palm, finger = box(80, 80, 30, 20, 70, 60), box(80, 80, 5, 36, 30, 44)
    thick = opened(palm | finger, 10)
    assert not (thick & finger)[:25].any()
    assert (thick & palm).sum() > 0.9 * palm.sum()
    assert not opened(finger, 10).any()


def test_the_commonest_level_counts_its_neighbours() -> None:
    values = np.array([10, 11, 12, 200, 200], np.uint8)
    everywhere = np.ones_like(values)
    assert commonest(values, everywhere, 0) == (200, 0.4)
    assert commonest(values, everywhere, 1) == (11, 0.6)


def test_percentiles_are_numpys() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        grey = rng.integers(0, rng.integers(1, 257), (height, width)).astype(np.uint8)
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        mask[0, 0] = 1
        shares = [0, 2, 5, 50, 90, 99.5, 100, float(rng.random() * 100)]
        assert percentiles(grey, mask, shares) == np.percentile(grey[mask > 0], shares).tolist()
