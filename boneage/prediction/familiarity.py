"""Tell whether an image is like the hands that a network was trained on.

The network's pooled features have a direction. Spherical k-means of the training images gives some
directions of hands. The distance of an image is 1 minus the cosine to the nearest of them. Where
the orientation of the hand is not clear, the image counts as further off. The limit is a quantile
of the validation images.

Drawn hands have directions of their own, so that they are recognised. Such an image must also show
a hand of clear orientation, because other drawings lie there, too.

The file holds means of many images, and nothing of a single one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.runtime.arrays import ARRAY_ERRORS, read_arrays
from boneage.runtime.files import replacing

NAME = "familiarity.npz"
MIN_IMAGES = 100
"""Fewest training images, and fewest validation images, for a limit that means something."""
QUANTILE = 0.99
"""Share of the validation images within the limit."""

CLEAR = 2.0
"""Confidence of an orientation that raises no doubt."""

_CENTROIDS, _DRAWN_CENTROIDS = 64, 16
_IMAGES_PER_CENTROID = 4
_STEPS = 30
_MOST_DOUBT = 4.0
_OWN_DRAWINGS = 0.05  # share of validation images like drawings above which the hands are drawn
_MOST_BYTES = 2**23
_MOST_CENTROIDS, _MOST_FEATURES = 1024, 2**14
_UNIT = 0.01  # how far the norm of a stored direction may be from 1

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Directions of hands and of drawings in the pooled features, and limits.

    Attributes:
        hands: float16 (k, features), of norm 1.
        drawings: float16 (j, features), of norm 1; j may be 0.
        typical: Mean distance of a training image from its nearest direction.
        limit: Largest distance of a hand; see `distances`.
        drawing_limit: Largest distance of a drawing from the nearest direction of drawings.
    """

    hands: npt.NDArray[np.float16]
    drawings: npt.NDArray[np.float16]
    typical: float
    limit: float
    drawing_limit: float

    @classmethod
    def fit(
        cls,
        train: Floats,
        val: Floats,
        confidence: Floats,
        drawn: Floats | None = None,
        *,
        seed: int = 0,
    ) -> Familiarity:
        """Fit the directions and the limits.

        Args:
            train: (n, features), pooled features of training images.
            val: (m, features), of validation images; they set the limit.
            confidence: (m,), confidence of their orientations.
            drawn: (p, features), of drawn hands. Every fourth sets their limit.
            seed: Seed of the first centroids.
        """
        rng = np.random.default_rng(seed)
        hands = _cluster(_unit(train), _CENTROIDS, rng)
        typical = max(float(_distance(_unit(train), hands).mean()), 1e-6)
        none = np.zeros((0, hands.shape[1]), np.float16)
        fitted = cls(hands, none, typical, np.inf, 0.0)
        limit = float(np.quantile(fitted.distances(val, confidence), QUANTILE))
        fitted = cls(hands, none, typical, limit, 0.0)
        if drawn is None or len(drawn) < 2 * _IMAGES_PER_CENTROID:
            return fitted
        kept = np.arange(len(drawn)) % 4 > 0
        drawings = _cluster(_unit(drawn[kept]), _DRAWN_CENTROIDS, rng)
        reach = float(np.quantile(_distance(_unit(drawn[~kept]), drawings), QUANTILE))
        with_drawings = cls(hands, drawings, typical, limit, reach)
        are_drawn = with_drawings.are_drawings(val, confidence).mean() > _OWN_DRAWINGS
        return fitted if are_drawn else with_drawings

    def distances(self, pooled: Floats, confidence: Floats) -> npt.NDArray[np.float64]:
        """Return how far images are from the nearest hand.

        Args:
            pooled: (n, features), pooled features.
            confidence: (n,), confidence of their orientations.

        Returns:
            float64 (n,), in typical distances of a training image. An unclear orientation adds up
            to 4.
        """
        doubt = np.clip(CLEAR - np.asarray(confidence, np.float64), 0, _MOST_DOUBT)
        return _distance(_unit(pooled), self.hands) / self.typical + doubt

    def are_drawings(self, pooled: Floats, confidence: Floats) -> npt.NDArray[np.bool_]:
        """Return which images are drawn hands; see `distances` for the arguments."""
        if not len(self.drawings):
            return np.zeros(len(pooled), np.bool_)
        directions = _unit(pooled)
        drawing = _distance(directions, self.drawings)
        nearest = drawing < _distance(directions, self.hands)
        clear = np.asarray(confidence) > CLEAR
        return np.asarray(nearest & clear & (drawing <= self.drawing_limit))

    def write(self, folder: Path) -> Path:
        """Write `familiarity.npz` into a run folder."""
        path = folder / NAME
        limits = np.array([self.typical, self.limit, self.drawing_limit])
        with replacing(path, ".npz") as part:
            np.savez(
                part, allow_pickle=False, hands=self.hands, drawings=self.drawings, limits=limits
            )
        return path


def read_familiarity(folder: Path) -> Familiarity | None:
    """Read `familiarity.npz` of a run folder; None if it has none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path, _MOST_BYTES)
        hands, drawings, limits = (arrays[name] for name in ("hands", "drawings", "limits"))
        _check(hands, drawings, limits)
    except ARRAY_ERRORS as error:
        what = f"the directions of hands can't be read: {error!s:.200}"
        fix = "Remove the file, and answers are given for any image; or use a copy of the run."
        raise InputError(Fault(str(path), what, fix)) from None
    return Familiarity(hands, drawings, *map(float, limits))


def _check(hands: Floats, drawings: Floats, limits: Floats) -> None:
    """Check shapes, types and values.

    Raises:
        ValueError: One is wrong.
    """
    if limits.shape != (3,) or limits.dtype != np.float64 or not np.isfinite(limits).all():
        raise ValueError("its limits are not three numbers")
    if limits[0] <= 0 or limits[1] <= 0 or limits[2] < 0:
        raise ValueError("a limit is not positive")
    for name, found in (("hands", hands), ("drawings", drawings)):
        if found.ndim != 2 or found.dtype != np.float16 or found.shape[1] != hands.shape[-1]:
            raise ValueError(f"{name} has the shape {found.shape} and type {found.dtype}")
        norms = np.linalg.norm(found.astype(np.float32), axis=1)
        if not np.all(np.abs(norms - 1) < _UNIT):
            raise ValueError(f"{name} are no directions")
    if not 0 < len(hands) <= _MOST_CENTROIDS or len(drawings) > _MOST_CENTROIDS:
        raise ValueError(f"it has {len(hands)} directions of hands, {len(drawings)} of drawings")
    if hands.shape[1] > _MOST_FEATURES:
        raise ValueError(f"it has {hands.shape[1]} features")


def _unit(features: Floats) -> npt.NDArray[np.float32]:
    features = np.asarray(features, np.float32)
    return np.asarray(features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-12))


def _distance(directions: Floats, centroids: Floats) -> npt.NDArray[np.float64]:
    nearest = (directions @ centroids.astype(np.float32).T).max(1)
    return np.asarray(1 - nearest, np.float64)


def _cluster(
    directions: npt.NDArray[np.float32], count: int, rng: np.random.Generator
) -> npt.NDArray[np.float16]:
    """Return the centroids of spherical k-means, each the mean of at least two images."""
    count = max(1, min(count, len(directions) // _IMAGES_PER_CENTROID))
    centroids = directions[rng.choice(len(directions), count, replace=False)]
    for _ in range(_STEPS):
        nearest = (directions @ centroids.T).argmax(1)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, directions)
        filled = np.bincount(nearest, minlength=count) > 0
        centroids = np.where(filled[:, np.newaxis], _unit(sums), centroids)
    # A centroid of one image would be its features.
    shared = np.bincount((directions @ centroids.T).argmax(1), minlength=count) > 1
    return np.asarray(centroids[shared] if shared.any() else _unit(directions.mean(0)[None]), "f2")
