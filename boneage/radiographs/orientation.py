"""The orientation of the hand on a radiograph, by linear classifiers on its gradients.

A radiograph is divided into 8 x 8 cells. The features of a cell are the strengths of its edges in
eight directions (Dalal & Triggs, CVPR 2005), relative to their neighbourhood. So contrast and
polarity do not matter, and a quarter turn only permutes cells and directions. Two classifiers score
all four turns: one of the whole radiograph, one of the window that is most like a hand. The
confidence is high only where both agree.

`orientation.npz` holds the weights of the classifiers. They are fitted to drawn hands only
(`experiments/orientation/fit.py`).
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CELLS, DIRECTIONS, CELL_PIXELS = 8, 8, 6
WINDOW_PIXELS = CELLS * CELL_PIXELS
RATIOS = (1.0, 1.25, 1.56, 1.95, 2.44)
"""Side of the radiograph divided by the side of each window."""
SURE = 1.0
"""Confidence above which a hand counts as turned; data/README.md has the error rates."""

_WORKING_PIXELS = 256
_WINDOW_WEIGHT = 2.0  # a window's scores span about half of the whole radiograph's
_FAINTEST = 1e-3


@dataclass(frozen=True, slots=True)
class Orientation:
    """The orientation of the hand.

    Attributes:
        turn: Degrees, counter-clockwise, by which the radiograph must be turned so that the fingers
            point up: 0, 90, 180 or 270. `np.rot90(radiograph, turn // 90)` does it.
        confidence: The lead of that turn over the next best, about log odds, by the classifier
            that is less sure. Below 0, the classifiers disagree.
        window: The window with the hand: left, top, right and bottom as shares of the radiograph.
    """

    turn: int
    confidence: float
    window: tuple[float, float, float, float]

    @property
    def is_turned(self) -> bool:
        """Whether the hand is turned, with confidence."""
        return self.turn != 0 and self.confidence > SURE


def find_orientation(radiograph: npt.NDArray[np.generic]) -> Orientation:
    """Find the turn that puts the hand of a radiograph upright.

    Args:
        radiograph: Array `(h, w)` of any number type and size, aspect kept or not.
    """
    radiograph = shrunk(radiograph)
    whole = four_scores(unit(gradient_cells(radiograph, WINDOW_PIXELS))[None], "whole")[0]
    windows, positions = windows_of(radiograph, RATIOS)
    scores = four_scores(windows, "window")
    best = int(scores.max(1).argmax())
    seen = scores.max(0)
    turn = int((whole + _WINDOW_WEIGHT * seen).argmax())
    confidence = min(_lead(whole, turn), _WINDOW_WEIGHT * _lead(seen, turn))
    left, top, side = (float(value) for value in positions[best])
    return Orientation(90 * turn, confidence, (left, top, left + side, top + side))


def shrunk(radiograph: npt.NDArray[np.generic]) -> Floats:
    """Return a radiograph as float32, its long side at most 256 pixels."""
    height, width = radiograph.shape
    scale = _WORKING_PIXELS / max(height, width)
    if radiograph.dtype not in (np.uint8, np.uint16):
        radiograph = radiograph.astype("f4")
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        radiograph = np.asarray(
            cv2.resize(np.asarray(radiograph), size, interpolation=cv2.INTER_AREA)
        )
    return np.ascontiguousarray(radiograph, np.float32)


def gradient_cells(radiograph: Floats, side: int) -> Floats:
    """Return the strengths of the edges of a radiograph, by cell and direction.

    Args:
        radiograph: float32 (h, w).
        side: Side in pixels of the square to which the radiograph is resized; a multiple of
            `CELL_PIXELS`.

    Returns:
        float32 (side / CELL_PIXELS, side / CELL_PIXELS, DIRECTIONS), 0 and more.
    """
    shrinking = max(radiograph.shape) >= side
    square = cv2.resize(
        radiograph, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )
    dx = cv2.Sobel(square, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(square, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    strength = cv2.magnitude(dx, dy)
    around = cv2.blur(strength, (WINDOW_PIXELS // 4 + 1, WINDOW_PIXELS // 4 + 1))
    # Doubled angles: an edge and the same edge inverted are one direction.
    scale = 1 / (around + 0.3 * float(around.mean()) + _FAINTEST) / (strength + _FAINTEST)
    cosine, sine = (dx * dx - dy * dy) * scale, 2 * dx * dy * scale
    angles = 2 * np.pi * np.arange(DIRECTIONS, dtype=np.float32) / DIRECTIONS
    count = side // CELL_PIXELS
    cells = np.empty((count, count, DIRECTIONS), np.float32)
    for direction, angle in enumerate(angles):
        along = cv2.addWeighted(cosine, float(np.cos(angle)), sine, float(np.sin(angle)), 0)
        along = cv2.max(along, 0.0)
        cells[:, :, direction] = cv2.resize(along, (count, count), interpolation=cv2.INTER_AREA)
    return np.asarray(np.sqrt(cells))


def unit(cells: Floats) -> Floats:
    """Return cells with a norm of 1."""
    return np.asarray(cells / (np.linalg.norm(cells) + 1e-6), np.float32)


def windows_of(radiograph: Floats, ratios: Sequence[float]) -> tuple[Floats, Floats]:
    """Return every square window of a radiograph, in steps of one cell, at several scales.

    Returns:
        float32 (n, CELLS, CELLS, DIRECTIONS) of norm 1, and float32 (n, 3): left, top and side of
        each window as shares of the radiograph.
    """
    views, positions = [], []
    for ratio in ratios:
        side = round(WINDOW_PIXELS * ratio / CELL_PIXELS) * CELL_PIXELS
        cells = gradient_cells(radiograph, side)
        view = np.lib.stride_tricks.sliding_window_view(cells, (CELLS, CELLS), (0, 1))
        views.append(view.transpose(0, 1, 3, 4, 2))
        steps, count = len(view), len(cells)
        top, left = np.divmod(np.arange(steps * steps), steps)
        position = (left / count, top / count, np.full(len(left), CELLS / count))
        positions.append(np.stack(position, 1).astype(np.float32))
    windows = np.empty((sum(map(len, positions)), CELLS, CELLS, DIRECTIONS), np.float32)
    start = 0
    for view in views:
        stop = start + len(view) ** 2
        windows[start:stop].reshape(view.shape)[...] = view
        start = stop
    flat = windows.reshape(len(windows), -1)
    flat /= np.sqrt(np.einsum("nf,nf->n", flat, flat))[:, None] + 1e-6
    return windows, np.concatenate(positions)


def four_scores(windows: Floats, classifier: str) -> Floats:
    """Return float32 (n, 4): a classifier's score of each window, turned by 0 to 3 quarters."""
    weights, bias = _weights()[classifier]
    # Not numpy's product: its threads cost more than such a small one takes.
    fit = cv2.gemm(windows.reshape(len(windows), -1), weights, 1.0, None, 0.0)
    return np.asarray(fit + np.float32(bias), np.float32)


def turned(cells: npt.NDArray[np.float32], quarters: int) -> Floats:
    """Return the cells of a radiograph that is turned counter-clockwise by quarters."""
    rotated = np.rot90(cells, quarters, (0, 1))
    return np.asarray(np.roll(rotated, DIRECTIONS // 2 * quarters, axis=2))


def _lead(scores: Floats, turn: int) -> float:
    return float(scores[turn] - np.delete(scores, turn).max())


@functools.cache
def _weights() -> Mapping[str, tuple[Floats, float]]:
    """Return float32 (512, 4), a column for each turn, and the bias of each classifier."""
    weights = {}
    for name, (template, bias) in read_templates().items():
        columns = [turned(template, -quarters % 4).ravel() for quarters in range(4)]
        weights[name] = np.ascontiguousarray(np.stack(columns, 1)), bias
    return weights


def read_templates() -> dict[str, tuple[Floats, float]]:
    """Return the fitted classifiers by name: float32 (CELLS, CELLS, DIRECTIONS) and a bias."""
    file = importlib.resources.files("boneage.radiographs") / "orientation.npz"
    with file.open("rb") as stream, np.load(stream) as stored:
        return {
            name: (stored[name].astype(np.float32), float(stored[f"{name}_bias"]))
            for name in ("whole", "window", "pair")
        }
