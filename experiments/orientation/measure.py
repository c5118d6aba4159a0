"""What `data check` finds of faults that were made on purpose, on films that have none.

    python experiments/orientation/measure.py [--count N] FILMS...

FILMS are folders with PNGs at any depth, each measured by itself, on N films (300 unless said)
chosen by seed 0. Films that are told to be turned, paired or inverted as they are are left out,
and counted. Prints as JSON the share of faults told: hands turned by 90, 180 and 270 degrees, pairs
of films joined side by side, inverted films, and copies that were saved, scaled, brightened,
mirrored or cropped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boneage.datasets.audit.image_quality import look_at
from boneage.datasets.audit.near_duplicates import find_pairs, fingerprint
from boneage.radiographs.orientation import shrunk
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.provenance import provenance

Film = np.ndarray
COPIED = 120
"""Films whose copies are looked for: the search compares each with each."""


def saved(film: Film) -> Film:
    """As a JPEG of quality 60."""
    _, content = cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)


def cropped(share: float) -> Callable[[Film], Film]:
    """Less that share of the sides, half of it on each."""

    def crop(film: Film) -> Film:
        y, x = (round(side * share / 2) for side in film.shape)
        return film[y : film.shape[0] - y, x : film.shape[1] - x].copy()

    return crop


COPIES: dict[str, Callable[[Film], Film]] = {
    "jpeg 60": saved,
    "half the size": lambda film: cv2.resize(
        film, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA
    ),
    "brighter": lambda film: cv2.convertScaleAbs(film, alpha=1.15, beta=10),
    "mirrored": lambda film: film[:, ::-1].copy(),
    "cropped by 2 %": cropped(0.02),
    "cropped by 4 %": cropped(0.04),
    "cropped by 6 %": cropped(0.06),
}


def joined(one: Film, other: Film) -> Film:
    """Two films side by side, as high as the first."""
    width = round(other.shape[1] * one.shape[0] / other.shape[0])
    return np.hstack([one, cv2.resize(other, (width, one.shape[0]), interpolation=cv2.INTER_AREA)])


def measure(folder: Path, count: int) -> dict[str, Any]:
    """The shares told for one folder."""
    paths = sorted(folder.rglob("*.png"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:count]
    films = [read_radiograph(paths[index]) for index in chosen]
    looks = [look_at(film) for film in films]
    told = [look.is_turned or look.has_two_hands or look.is_inverted for look in looks]
    films = [film for film, faulty in zip(films, told, strict=True) if not faulty]
    row: dict[str, Any] = {"name": folder.name, "films": len(films), "left_out": sum(told)}
    row["turned"] = {
        str(turn): _share(
            look_at(np.rot90(film, turn // 90).copy()).orientation.is_turned for film in films
        )
        for turn in (90, 180, 270)
    }
    pairs = zip(films[::2], films[1::2], strict=False)
    row["two_hands"] = _share(look_at(joined(*pair)).has_two_hands for pair in pairs)
    row["inverted"] = _share(look_at(film.max() - film).is_inverted for film in films)
    row["near_duplicates"] = {name: _found(films[:COPIED], copy) for name, copy in COPIES.items()}
    return row


def _found(films: list[Film], copy: Callable[[Film], Film]) -> float:
    """The share of films that are found to be alike with their copy."""
    both = [*films, *(copy(film) for film in films)]
    pairs = find_pairs([fingerprint(shrunk(film)) for film in both])
    found = {(pair.first, pair.second) for pair in pairs}
    return _share((index, index + len(films)) in found for index in range(len(films)))


def _share(hits: Any) -> float:
    return float(np.mean(list(hits)))


def main() -> None:
    """Measures every folder named on the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=300)
    arguments.add_argument("films", type=Path, nargs="+")
    given = arguments.parse_args()
    rows = [measure(folder, given.count) for folder in given.films]
    print(json.dumps({"machine": provenance(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
