from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.hand_detection import WHOLE_RADIOGRAPH, find_hand

REAL = Path(os.environ.get("BONEAGE_REAL", Path(__file__).parents[3] / "shared" / "real"))


def share(box: tuple[int, int, int, int], radiograph: np.ndarray) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top) / radiograph.size


def test_the_hand_is_found_on_every_phantom() -> None:
    radiographs = [phantom(0, index, 256).image for index in range(40)]
    hands = [find_hand(radiograph) for radiograph in radiographs]
    assert all(hand.is_found for hand in hands)
    shares = [
        share(hand.box, radiograph) for hand, radiograph in zip(hands, radiographs, strict=True)
    ]
    assert np.median(shares) < 0.7


def test_the_crop_turns_with_the_radiograph() -> None:
    radiograph = phantom(0, 2, 256).image
    upright = find_hand(radiograph)
    assert upright.forearm is not None
    assert upright.forearm[1] > 0.8
    turned = find_hand(radiograph[::-1, ::-1].copy())
    left, top, right, bottom = upright.box
    assert (
        np.abs(np.array(turned.box) - (256 - right, 256 - bottom, 256 - left, 256 - top)).max() < 8
    )
    assert turned.forearm is not None
    assert turned.forearm[1] < -0.8


def test_size_and_depth_change_the_crop_little() -> None:
    radiograph = phantom(0, 2, 512).image
    reference = np.array(find_hand(radiograph).box)
    deep = find_hand(radiograph.astype(np.uint16) * 200 + 300)
    assert np.abs(np.array(deep.box) - reference).max() <= 10
    half = find_hand(radiograph[::2, ::2].copy())
    assert np.abs(2 * np.array(half.box) - reference).max() <= 16


@pytest.mark.parametrize("frame", [40, 200])
def test_a_frame_around_the_radiograph_is_left_out(frame: int) -> None:
    radiograph = np.full((400, 400), frame, np.uint8)
    radiograph[72:328, 72:328] = phantom(0, 5, 256).image
    left, top, right, bottom = find_hand(radiograph).box
    assert min(left, top) >= 60
    assert max(right, bottom) <= 340


def test_the_forearm_is_cut_below_the_wrist() -> None:
    radiograph = np.zeros((400, 200), np.uint8)
    radiograph[100:180, 50:150] = 150  # a palm,
    for finger in range(4):
        radiograph[20:100, 52 + 26 * finger : 70 + 26 * finger] = 120  # fingers,
    radiograph[180:, 75:125] = 140  # and a long forearm
    hand = find_hand(radiograph)
    assert hand.is_found
    assert hand.box[1] <= 20
    assert 220 < hand.box[3] < 320


@pytest.mark.parametrize(
    "radiograph",
    [
        np.zeros((100, 100), np.uint8),
        np.full((16, 900), 255, np.uint8),
        np.random.default_rng(0).integers(0, 65_536, (300, 200)).astype(np.uint16),
        np.tile(np.arange(200, dtype=np.uint8), (100, 1)),
    ],
    ids=["black", "a white strip", "noise", "a ramp"],
)
def test_without_a_hand_the_whole_radiograph_is_kept(radiograph: np.ndarray) -> None:
    hand = find_hand(radiograph)
    assert not hand.is_found
    assert hand.why == WHOLE_RADIOGRAPH
    assert hand.box == (0, 0, radiograph.shape[1], radiograph.shape[0])
    assert not hand.mask.any()


@pytest.mark.slow
@pytest.mark.skipif(
    not (REAL / "joints").is_dir(),
    reason="the real radiographs and their annotations are not beside this checkout",
)
def test_every_joint_is_inside_the_crop_of_all_but_one_in_a_hundred_radiographs() -> None:
    script = Path(__file__).parents[2] / "experiments" / "framing-100px" / "measure.py"
    joints = ["--joints", str(REAL / "joints" / "train")]
    done = subprocess.run(
        [sys.executable, str(script), *joints, str(REAL / "rsna-kaggle-100px")],
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout)["rows"]
    assert row["annotated_radiographs"] == 219
    assert row["all_joints_inside"] >= 0.99
    assert row["median_area_ratio"] <= 1.5
