"""A decoded radiograph made into one square uint8 picture: contrast, aspect, size."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import numpy.typing as npt

from boneage.pipeline.radiograph import Radiograph
from boneage.recipe import Framing

# Raised whenever `frame` gives other pixels for the same settings: stores are made anew then.
VERSION = 1


def frame(radiograph: Radiograph, framing: Framing) -> npt.NDArray[np.uint8]:
    """Stretches the contrast, then fits the whole film, centred, into a black square.

    The grey levels at the two percentiles of the film become 0 and 255, and what lies outside is
    clipped. The aspect is kept. Shrinking averages areas; enlarging interpolates linearly.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
        framing: The size in pixels, and the two percentiles.

    Returns:
        Array `(size, size)`, uint8.
    """
    stretched = _stretch(radiograph, framing.contrast_percentiles)
    height, width = stretched.shape
    size = framing.size
    scale = size / max(height, width)
    inner_height = max(1, round(height * scale))
    inner_width = max(1, round(width * scale))
    if (inner_height, inner_width) == (height, width):
        inner = stretched
    else:
        inner = cv2.resize(
            stretched,
            (inner_width, inner_height),
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
    if inner.shape == (size, size):
        return inner
    square = np.zeros((size, size), np.uint8)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    square[top : top + inner_height, left : left + inner_width] = inner
    return square


def framing_key(framing: Framing) -> str:
    """Returns the hex digest that changes whenever the framed pixels may change."""
    text = json.dumps({"version": VERSION, **framing.model_dump(mode="json")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _stretch(radiograph: Radiograph, percentiles: tuple[float, float]) -> npt.NDArray[np.uint8]:
    # A histogram and a table of levels: one cheap pass each, where sorting 3 million pixels
    # costs more than decoding them.
    levels = 256 if radiograph.dtype == np.uint8 else 65_536
    counts = cv2.calcHist([radiograph], [0], None, [levels], [0, levels]).ravel()
    cumulative = np.cumsum(counts, dtype=np.float64)
    # The level at a percentile is the lowest one that so many of the pixels (at least
    # one of them) do not exceed.
    shares = np.array(percentiles) / 100
    low, high = np.searchsorted(cumulative, np.maximum(shares * cumulative[-1], 1))
    width = max(1, int(high) - int(low))
    table = (np.arange(levels) - int(low)) * (255.0 / width)
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    if levels == 256:
        return np.asarray(cv2.LUT(radiograph, table), np.uint8)
    return np.asarray(table[radiograph], np.uint8)
