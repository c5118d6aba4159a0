"""Draw an answer as text above its radiograph: the picture that a PACS shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from boneage import __version__
from boneage.prediction.answers import Answer, Estimate, age_in_words
from boneage.radiographs.reader import Radiograph

LONG_SIDE = (1024, 2048)
"""Range of the radiograph's longer side in the picture, in pixels."""

_MOST_FINDINGS = 3
_LEVELS = 0.5, 99.8  # percentiles that become black and white
_SAMPLED_SIDE = 512  # pixels of the longer side that the percentiles are taken from
_LARGE = 1 / 24  # size of the large text in widths of the picture: the bone age fits on one row
_SMALL = 0.65  # size of the small text in sizes of the large one
_NARROWEST = 0.6  # width of the picture in heights of the radiograph
_NOTICE = "RESEARCH USE ONLY. Not for diagnosis."


def draw_answer(radiograph: Radiograph, answer: Answer) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Draw an answer above its radiograph.

    The text hides no pixel of the radiograph, and names neither the child nor the file.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16; dense is bright.
        answer: The answer, with an estimate.

    Returns:
        The lines of the text, and the picture, uint8 `(h, w)`.
    """
    lines = list(_lines(answer))
    image = _scaled(radiograph)
    height, width = image.shape
    side = max(width, round(_NARROWEST * height))
    size = round(_LARGE * side)
    fonts = {True: _font(size), False: _font(_SMALL * size)}
    margin = round(size / 2)
    rows = [
        (row, fonts[is_large])
        for text, is_large in lines
        for row in _wrapped(text, fonts[is_large], side - 2 * margin)
    ]
    step = [round(1.3 * font.size) for _, font in rows]
    band = Image.new("L", (side, sum(step) + 2 * margin), 0)
    canvas = ImageDraw.Draw(band)
    top = margin
    for (row, font), below in zip(rows, step, strict=True):
        canvas.text((margin, top), row, fill=255, font=font)
        top += below
    before = (side - width) // 2
    padded = np.pad(image, ((0, 0), (before, side - width - before)))
    return [text for text, _ in lines], np.vstack([np.asarray(band, np.uint8), padded])


def _lines(answer: Answer) -> Iterator[tuple[str, bool]]:
    """Yield each line of the text, and whether it is large."""
    if len(answer.estimates) > 1:
        yield "Sex not known. Two estimates:", True
    for estimate in answer.estimates:
        first, *details = estimate_lines(estimate)
        yield first, True
        yield from ((text, False) for text in details)
    for finding in answer.findings[:_MOST_FINDINGS]:
        yield f"{'Note' if finding.is_corrected else 'Check'}: {finding.what}.", False
    if len(answer.findings) > _MOST_FINDINGS:
        yield f"Check: {len(answer.findings) - _MOST_FINDINGS} more findings.", False
    yield _NOTICE, True
    models = [
        " ".join(filter(None, (model.name, model.version, f"(SHA-256 {model.digest[:8]})")))
        for model in answer.models
    ]
    yield f"boneage {__version__}, model {' + '.join(models)}", False


def estimate_lines(estimate: Estimate) -> list[str]:
    """Return the bone age, its interval, calibration and SD score, a line of text each."""
    interval, comparison = estimate.interval, estimate.comparison
    child = {"F": "girl", "M": "boy"}[estimate.sex]
    lines = [f"Bone age {age_in_words(estimate.months)} ({child}, {estimate.months:.1f} months)"]
    if interval is not None:
        low, high = age_in_words(interval.low), age_in_words(interval.high)
        lines.append(f"{100 * interval.level:g} % interval: {low} to {high}")
    if estimate.calibration is not None:
        lines.append(f"The answer is {estimate.calibration}.")
    if comparison is not None:
        score = comparison.score_in_words or "no SD score"
        note = f". {comparison.note.partition('. ')[0]}." if comparison.score_in_words else ""
        age = age_in_words(comparison.chronological_age_months)
        lines.append(f"Chronological age {age}: {score}{note}")
    return lines


def _scaled(radiograph: Radiograph) -> npt.NDArray[np.uint8]:
    """Return a radiograph with its grey levels stretched, its longer side in `LONG_SIDE`."""
    longest = max(radiograph.shape)
    step = max(1, longest // _SAMPLED_SIDE)
    low, high = np.percentile(radiograph[::step, ::step], _LEVELS)
    levels = resize_stretched(radiograph, np.clip(longest, *LONG_SIDE) / longest, low, high)
    return np.asarray(np.rint(levels), np.uint8)


def resize_stretched(
    radiograph: Radiograph, scale: float, low: float, high: float
) -> npt.NDArray[np.float32]:
    """Return a radiograph at another size, with its levels from `low` to `high` as 0 to 255."""
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    width, height = (max(1, round(side * scale)) for side in radiograph.shape[::-1])
    resized = cv2.resize(radiograph, (width, height), interpolation=how).astype(np.float32)
    return np.asarray(np.clip((resized - low) * (255 / max(1.0, high - low)), 0, 255), np.float32)


def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))  # Pillow brings the font


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Yield a text as rows that are not wider than `width` pixels."""
    row = ""
    for word in text.split():
        longer = f"{row} {word}".strip()
        if row and font.getlength(longer) > width:
            yield row
            row = word
        else:
            row = longer
    yield row
