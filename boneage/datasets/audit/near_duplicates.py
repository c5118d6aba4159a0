"""Find radiographs that are the same although their files are not.

A copy may be compressed, resized, brightened, mirrored or cropped a little. A 64-bit hash of every
radiograph (signs of its low cosine frequencies) finds the candidates. All hands have similar
hashes, so candidates are compared as 16 x 16 cells, then as small copies laid over each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from boneage.radiographs.orientation import Floats

LIKE = 0.94
"""Correlation of two copies' detail from which they count as the same radiograph. The largest of 64
million pairs of different children of RSNA is 0.93."""

_HASH_PIXELS, _HASH_SIDE = 32, 8
_MOST_BITS = 10
_COARSE_PIXELS, _COARSE_LIKE = 16, 0.84
_THUMB_PIXELS = 64
_INNER = 50  # of one copy, laid over the other: it still fits a radiograph cropped a little
_FINE = 2.0  # pixels: outlines of hands are similar, their bones are not
_SCALES = (1.0, 0.96, 0.92, 1.04, 1.08)
_MOST_AT_ONCE = 8_000_000  # pairs of hashes; 64 MB of their differences
_CLOSE = 0.5


@dataclass(frozen=True, eq=False, slots=True)
class Fingerprint:
    """A summary of a radiograph, by which the same radiograph is found again.

    Attributes:
        code: 64 bits of its low cosine frequencies.
        mirrored: The same bits of its mirror image.
        thumb: uint8 (64, 64), its detail around 128.
    """

    code: int
    mirrored: int
    thumb: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two radiographs that are the same.

    Attributes:
        first: Position of the first radiograph.
        second: Position of the second.
        likeness: Correlation of their detail, from `LIKE` to 1.
        mirrored: Whether the second is the mirror image of the first.
    """

    first: int
    second: int
    likeness: float
    mirrored: bool


def fingerprint(radiograph: Floats) -> Fingerprint:
    """Return a radiograph's fingerprint.

    Args:
        radiograph: float32 (h, w), a small copy.
    """
    detail = _detail(radiograph)
    thumb = np.clip(128 + 40 * detail, 0, 255).astype(np.uint8)
    low = cv2.resize(detail, (_HASH_PIXELS, _HASH_PIXELS), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(low)[: _HASH_SIDE + 1, : _HASH_SIDE + 1]
    waves = waves[:_HASH_SIDE, 1:]  # the first column is about the rows, not about the hand
    # Mirroring changes the sign of every odd horizontal frequency.
    flipped = waves * np.where(np.arange(1, _HASH_SIDE + 1) % 2, -1, 1)
    return Fingerprint(_bits(waves), _bits(flipped), thumb)


def find_pairs(prints: Sequence[Fingerprint]) -> list[Pair]:
    """Return a pair for every radiograph that is the same as an earlier one.

    A radiograph is the second of one pair at most: the pair with the first copy of it. So five
    thousand copies of one placeholder give five thousand pairs, not twelve million.
    """
    pairs: list[Pair] = []
    copies = np.zeros(len(prints), bool)
    for first, others, mirrored in _similar_cells(prints, copies):
        for second in others:
            likeness = _likeness(prints[first].thumb, prints[second].thumb, mirrored)
            if likeness >= LIKE:
                copies[second] = True
                pairs.append(Pair(first, int(second), likeness, mirrored))
    return pairs


def _detail(radiograph: Floats) -> Floats:
    """Return local contrast, normalized by its local size: float32 (64, 64)."""
    size = (_THUMB_PIXELS, _THUMB_PIXELS)
    shrinking = min(radiograph.shape) >= _THUMB_PIXELS
    small = cv2.resize(
        radiograph, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
    band = cv2.GaussianBlur(small, (0, 0), 0.7) - cv2.GaussianBlur(small, (0, 0), 6)
    around = np.sqrt(cv2.GaussianBlur(band * band, (0, 0), 8))
    return np.asarray(np.clip(band / (around + 0.1 * around.mean() + 1e-3), -3, 3), np.float32)


def _bits(waves: npt.NDArray[np.float32]) -> int:
    return int.from_bytes(np.packbits(waves.ravel() > 0).tobytes(), "big")


def _similar_cells(
    prints: Sequence[Fingerprint], copies: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, npt.NDArray[np.intp], bool]]:
    """Yield for each radiograph the candidates whose 16 x 16 cells are similar too."""
    if not prints:
        return
    cells = np.stack([_coarse(each.thumb) for each in prints])
    flat = cells.reshape(len(cells), -1)
    flipped = cells[:, :, ::-1].reshape(len(cells), -1)
    for first, others, mirrored in _candidates(prints, copies):
        compared = (flipped if mirrored else flat)[others]
        is_similar = np.einsum("c,nc->n", flat[first], compared) >= _COARSE_LIKE
        if is_similar.any():
            yield first, others[is_similar], mirrored


def _coarse(thumb: npt.NDArray[np.uint8]) -> Floats:
    size = (_COARSE_PIXELS, _COARSE_PIXELS)
    cells = cv2.resize(thumb.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    cells -= cells.mean()
    return np.asarray(cells / (np.linalg.norm(cells) + 1e-6))


def _candidates(
    prints: Sequence[Fingerprint], copies: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, npt.NDArray[np.intp], bool]]:
    """Yield for each radiograph the later ones with similar hashes, and whether mirrored.

    Radiographs marked in `copies` are left out; the caller marks them while it iterates.
    """
    codes = np.array([each.code for each in prints], np.uint64)
    flipped = np.array([each.mirrored for each in prints], np.uint64)
    step = max(1, _MOST_AT_ONCE // max(1, len(codes)))
    for start in range(0, len(codes), step):
        block = codes[start : start + step, None]
        alike = np.bitwise_count(block ^ codes[None, start:]) <= _MOST_BITS
        turned = np.bitwise_count(block ^ flipped[None, start:]) <= _MOST_BITS
        turned &= ~alike
        for row in range(len(block)):
            later = start + row + 1
            for matrix, mirrored in ((alike, False), (turned, True)):
                others = later + np.flatnonzero(matrix[row, row + 1 :] & ~copies[later:])
                if len(others):
                    yield start + row, others, mirrored


def _likeness(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], mirrored: bool) -> float:
    """Return the best correlation of the middle of one copy with any position of the other."""
    still, moved = _fine(first), _fine(second)
    if mirrored:
        moved = np.ascontiguousarray(moved[:, ::-1])
    best = -1.0
    for scale in _SCALES:
        best = max(best, _overlay(still, moved, scale))
        if best < _CLOSE or best >= LIKE:
            break
    return best


def _fine(thumb: npt.NDArray[np.uint8]) -> Floats:
    thumb32 = thumb.astype(np.float32)
    return np.asarray(thumb32 - cv2.GaussianBlur(thumb32, (0, 0), _FINE), np.float32)


def _overlay(first: Floats, second: Floats, scale: float) -> float:
    edge = (_THUMB_PIXELS - _INNER) // 2
    inner = first[edge:-edge, edge:-edge]
    if scale != 1:
        side = round(_INNER * scale)
        inner = cv2.resize(inner, (side, side), interpolation=cv2.INTER_LINEAR)
    return float(cv2.matchTemplate(second, inner, cv2.TM_CCOEFF_NORMED).max())
