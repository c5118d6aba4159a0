"""Draw an explanation: the radiograph, and next to it the places that move the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from boneage.prediction.answers import RESEARCH_ONLY, Answer
from boneage.prediction.explanation import Explanation, Heat
from boneage.prediction.picture import estimate_lines, resize_stretched
from boneage.runtime.files import write_bytes

Picture: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]

LEAST_MONTHS = 3.0
"""The colours are full at this many months or more, so that noise is not drawn as a finding."""
PANEL = 800
"""Longest side of either image, in pixels."""

_GAP, _LINE, _COLUMN = 24, 30, 660
_PAPER, _INK, _FAINT = (16, 16, 16), (240, 240, 240), (180, 180, 180)
_OLDER, _YOUNGER = (255, 150, 30), (60, 150, 255)  # orange and blue, for any colour vision
_OUTLINE = (0, 200, 150)
_OPAQUE = 0.75
_BAR = 360, 20


def picture_path(folder: Path, image: str) -> Path:
    """Return the file of a radiograph's picture, which differs for files of the same name."""
    digest = hashlib.sha256(image.encode(errors="surrogateescape")).hexdigest()
    return folder / f"{Path(image).stem}-{digest[:8]}.png"


def write_explanation(explanation: Explanation, answer: Answer, path: Path) -> None:
    """Write the picture of an explanation as PNG.

    Args:
        explanation: The heat map.
        answer: The answer that it explains.
        path: The file to write.

    Raises:
        InputError: The file can't be written.
    """
    picture = draw_explanation(explanation, answer)
    _, png = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_bytes(path, png.tobytes())


def draw_explanation(explanation: Explanation, answer: Answer) -> Picture:
    """Return the picture of an explanation, RGB.

    On the left is the radiograph, with the outline of the part that the model gets. On the right
    is that part. Above them is the answer, below them what the colours mean.
    """
    limit = colour_limit(explanation.heat)
    box = _framed_box(explanation)
    left, _ = _panel(explanation, (0, 0, *explanation.radiograph.shape[::-1]), None)
    right, scale = _panel(explanation, box, limit)
    shown = [replace(each, comparison=None) for each in answer.estimates]
    lines = [line for each in shown for line in estimate_lines(each)]
    top, height = (2 + len(lines)) * _LINE + _GAP, max(len(left), len(right))
    columns = [max(_COLUMN, panel.shape[1]) for panel in (left, right)]
    shape = top + height + 6 * _LINE, 3 * _GAP + sum(columns), 3
    picture = np.full(shape, _PAPER, np.uint8)
    starts = _GAP, 2 * _GAP + columns[0]
    for start, panel in zip(starts, (left, right), strict=True):
        picture[top : top + len(panel), start : start + panel.shape[1]] = panel
    below = top + height + _LINE // 2
    _draw_bar(picture[below : below + _BAR[1], starts[1] : starts[1] + _BAR[0]])
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(lines):
        _write(draw, (_GAP, _GAP // 2 + row * _LINE), text, 22)
    names = ", ".join(model.name for model in answer.models)
    text = f"{Path(answer.image).name}   {names}"
    _write(draw, (_GAP, _GAP // 2 + len(lines) * _LINE), text, 18, _FAINT)
    headings = "Radiograph, and the part that the model gets", "Which places move the answer"
    for start, heading in zip(starts, headings, strict=True):
        _write(draw, (start, top - _LINE), heading, 18)
    _write_legend(draw, (starts[1], below), limit, [each * scale for each in explanation.patches])
    says = "The colours show what moves the answer, and not whether the answer is right."
    for row, text in enumerate((says, RESEARCH_ONLY)):
        _write(draw, (_GAP, below + row * _LINE), text, 18, _INK if row else _FAINT)
    return np.asarray(sheet)


def colour_limit(heat: Heat) -> float:
    """Return the whole number of months at which the colours of a heat map are full."""
    return max(LEAST_MONTHS, float(np.ceil(np.abs(heat).max())))


def overlay(grey: npt.NDArray[Any], heat: Heat, limit: float) -> Picture:
    """Return a grey image with a heat map in colours: orange above 0, blue below.

    Args:
        grey: `(h, w)`, levels from 0 to 255.
        heat: float32 `(h, w)`, months. 0 is transparent.
        limit: Months of the full colours; see `colour_limit`.

    Returns:
        uint8 `(h, w, 3)`, RGB.
    """
    share = np.clip(heat / limit, -1, 1)[..., np.newaxis]
    colour = np.where(share > 0, np.array(_OLDER, np.float32), np.array(_YOUNGER, np.float32))
    picture = grey[..., np.newaxis] + (colour - grey[..., np.newaxis]) * (_OPAQUE * np.abs(share))
    return np.asarray(np.rint(picture), np.uint8)


def _framed_box(explanation: Explanation) -> tuple[int, int, int, int]:
    """Return the box around the framed part, with a margin."""
    start, end = explanation.outline.min(0), explanation.outline.max(0)
    margin = 0.03 * (end - start).max()
    first = np.maximum(np.floor(start - margin), 0).astype(int).tolist()
    last = np.minimum(np.ceil(end + margin), explanation.radiograph.shape[::-1])
    return (*first, *last.astype(int).tolist())


def _panel(
    explanation: Explanation, box: tuple[int, int, int, int], limit: float | None
) -> tuple[Picture, float]:
    """Return a part of the radiograph with the outline, and pixels of the panel for one of it.

    Args:
        explanation: The radiograph and its heat map.
        box: The part: left, top, right, bottom.
        limit: Months of the full colours; None for no colours.
    """
    left, top, right, bottom = box
    scale = PANEL / max(right - left, bottom - top)
    low, high = np.percentile(explanation.radiograph[_slices(_framed_box(explanation))], [1, 99.5])
    levels = resize_stretched(explanation.radiograph[top:bottom, left:right], scale, low, high)
    heat = cv2.resize(explanation.heat[top:bottom, left:right], levels.shape[::-1])
    panel = overlay(levels, heat * (limit is not None), limit or 1.0)
    outline = np.rint((explanation.outline - (left, top)) * scale).astype(np.int32)
    cv2.polylines(panel, [outline], True, _OUTLINE, 2, cv2.LINE_AA)
    return panel, scale


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    left, top, right, bottom = box
    return slice(top, bottom), slice(left, right)


def _draw_bar(bar: Picture) -> None:
    share = np.linspace(-1, 1, bar.shape[1], dtype=np.float32)[np.newaxis].repeat(len(bar), 0)
    bar[:] = overlay(np.full(share.shape, 110), share, 1.0)


def _write_legend(
    draw: ImageDraw.ImageDraw, start: tuple[int, int], limit: float, patches: Sequence[float]
) -> None:
    """Write what the colours mean below the bar that starts here, and draw the patches."""
    x, y = start
    width, height = _BAR
    for place, text in ((0.0, f"-{limit:g}"), (0.5, "0"), (1.0, f"+{limit:g} months")):
        _write(draw, (x + place * width, y + height + 4), text, 18, anchor="ma" if place else "la")
    _write(draw, (x, y + 2 * _LINE), "Orange places make the answer older, blue ones younger:", 18)
    _write(
        draw, (x, y + 3 * _LINE - 4), "the change of the answer if a patch there is blurred.", 18
    )
    middle = x + _COLUMN - 90, y + 75
    for radius in (patch / 2 for patch in patches):
        corners = [middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius]
        draw.ellipse(corners, outline=_FAINT, width=2)
    _write(draw, middle, "patch", 18, anchor="mm")


def _write(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = _INK,
    anchor: str = "la",
) -> None:
    draw.text(position, text, colour, ImageFont.load_default(size), anchor=anchor)
