from __future__ import annotations

import cv2
import numpy as np
import pytest

from boneage.datasets.audit import near_duplicates as duplicates
from boneage.datasets.audit.near_duplicates import find_pairs, fingerprint
from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.orientation import shrunk

RADIOGRAPHS = [phantom(5, i, 160).image for i in range(30)]
COPIES = {
    "jpeg": lambda radiograph: cv2.imdecode(cv2.imencode(".jpg", radiograph, [1, 60])[1], 0),
    "half the size": lambda radiograph: cv2.resize(
        radiograph, (80, 80), interpolation=cv2.INTER_AREA
    ),
    "brighter": lambda radiograph: np.clip(radiograph * 1.2 + 15, 0, 255).astype(np.uint8),
    "16 bits": lambda radiograph: radiograph.astype(np.uint16) * 257,
    "cropped": lambda radiograph: radiograph[2:-1, 1:-2],
    "mirrored": lambda radiograph: np.ascontiguousarray(radiograph[:, ::-1]),
}


def prints(*radiographs: np.ndarray) -> list:
    return [fingerprint(shrunk(radiograph)) for radiograph in radiographs]


def test_different_hands_are_no_duplicates() -> None:
    assert find_pairs(prints(*RADIOGRAPHS)) == []
    assert find_pairs([]) == []


@pytest.mark.parametrize("name", COPIES)
def test_a_radiograph_saved_again_is_found(name: str) -> None:
    copy = COPIES[name](RADIOGRAPHS[7])
    (pair,) = find_pairs(prints(*RADIOGRAPHS, copy))
    assert (pair.first, pair.second) == (7, len(RADIOGRAPHS))
    assert pair.mirrored == (name == "mirrored")


def test_each_copy_is_named_once_with_the_first_of_its_kind() -> None:
    found = find_pairs(prints(RADIOGRAPHS[0], RADIOGRAPHS[1], RADIOGRAPHS[0], RADIOGRAPHS[0]))
    assert [(pair.first, pair.second) for pair in found] == [(0, 2), (0, 3)]
    assert all(pair.likeness == pytest.approx(1, abs=1e-4) for pair in found)


def test_hundreds_of_copies_are_as_many_pairs_and_no_square_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "_MOST_AT_ONCE", 3_000)  # ten radiographs a block
    found = find_pairs(prints(RADIOGRAPHS[0]) * 300 + prints(RADIOGRAPHS[1]))
    assert [(pair.first, pair.second) for pair in found] == [(0, i) for i in range(1, 300)]
