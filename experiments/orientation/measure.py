"""Measure which share of artificial faults `data check` finds.

    python experiments/orientation/measure.py [--count N] FOLDERS...

FOLDERS hold PNG files at any depth. Each folder is measured separately, on N radiographs (default
300) chosen by seed 0. Radiographs that are found turned, paired or inverted are counted and left
out. The result is JSON: the share of faults found, for hands turned by 90, 180 and 270 degrees, for
pairs of radiographs side by side, for inverted radiographs, and for copies that were saved, scaled,
brightened, mirrored or cropped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boneage.datasets.audit.near_duplicates import find_pairs, fingerprint
from boneage.radiographs.image_quality import assess_quality
from boneage.radiographs.orientation import shrunk
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.provenance import provenance

Radiograph = np.ndarray
COPIED = 120
"""Number of radiographs for the search of copies, which compares every pair."""


def saved(radiograph: Radiograph) -> Radiograph:
    """Return the radiograph as a JPEG of quality 60."""
    _, content = cv2.imencode(".jpg", radiograph, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)


def cropped(share: float) -> Callable[[Radiograph], Radiograph]:
    """Return a function that cuts this share off the sides, half of it on each."""

    def crop(radiograph: Radiograph) -> Radiograph:
        y, x = (round(side * share / 2) for side in radiograph.shape)
        return radiograph[y : radiograph.shape[0] - y, x : radiograph.shape[1] - x].copy()

    return crop


COPIES: dict[str, Callable[[Radiograph], Radiograph]] = {
    "jpeg 60": saved,
    "half the size": lambda radiograph: cv2.resize(
        radiograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA
    ),
    "brighter": lambda radiograph: cv2.convertScaleAbs(radiograph, alpha=1.15, beta=10),
    "mirrored": lambda radiograph: radiograph[:, ::-1].copy(),
    "cropped by 2 %": cropped(0.02),
    "cropped by 4 %": cropped(0.04),
    "cropped by 6 %": cropped(0.06),
}


def joined(one: Radiograph, other: Radiograph) -> Radiograph:
    """Return two radiographs side by side, as high as the first."""
    width = round(other.shape[1] * one.shape[0] / other.shape[0])
    return np.hstack([one, cv2.resize(other, (width, one.shape[0]), interpolation=cv2.INTER_AREA)])


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Return the shares of faults found for one folder."""
    paths = sorted(folder.rglob("*.png"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    radiographs = [read_radiograph(paths[index]) for index in chosen]
    qualities = [assess_quality(radiograph) for radiograph in radiographs]
    left_out = [q.is_turned or q.has_two_hands or q.is_inverted for q in qualities]
    radiographs = [
        radiograph for radiograph, faulty in zip(radiographs, left_out, strict=True) if not faulty
    ]
    row: dict[str, Any] = {"name": folder.name, "radiographs": len(radiographs)}
    row["left_out"] = sum(left_out)
    row["turned"] = {
        str(turn): _share(
            assess_quality(np.rot90(radiograph, turn // 90).copy()).orientation.is_turned
            for radiograph in radiographs
        )
        for turn in (90, 180, 270)
    }
    pairs = zip(radiographs[::2], radiographs[1::2], strict=False)
    row["two_hands"] = _share(assess_quality(joined(*pair)).has_two_hands for pair in pairs)
    row["inverted"] = _share(
        assess_quality(radiograph.max() - radiograph).is_inverted for radiograph in radiographs
    )
    row["near_duplicates"] = {
        name: _found(radiographs[:COPIED], copy) for name, copy in COPIES.items()
    }
    return row


def _found(radiographs: list[Radiograph], copy: Callable[[Radiograph], Radiograph]) -> float:
    """Return the share of radiographs that are found to be duplicates of their copy."""
    both = [*radiographs, *(copy(radiograph) for radiograph in radiographs)]
    pairs = find_pairs([fingerprint(shrunk(radiograph)) for radiograph in both])
    found = {(pair.first, pair.second) for pair in pairs}
    return _share((index, index + len(radiographs)) in found for index in range(len(radiographs)))


def _share(hits: Any) -> float:
    return float(np.mean(list(hits)))


def main() -> None:
    """Measure every folder on the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=300)
    arguments.add_argument("folders", type=Path, nargs="+")
    given = arguments.parse_args()
    rows = [measure(folder, given.count) for folder in given.folders]
    print(json.dumps({"machine": provenance(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
