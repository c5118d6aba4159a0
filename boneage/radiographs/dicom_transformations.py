"""The transformations that a DICOM header asks for, from stored values to grey; dense is bright.

Whatever can't be applied is refused with its reason, because a radiograph that lacks its lookup
table may be inverted. pydicom 3.0 applies tables of 8-bit entries wrongly, so numpy applies them.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import MutableSequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

_Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]

# The errors in which pydicom's parsing of a damaged header has been seen to end.
PARSING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # includes RecursionError and NotImplementedError
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# At least one of every hundred pixels must lie within a window. Fewer show no hand, not even an
# infant's on a large panel (3 in a hundred).
_MIN_WITHIN_WINDOW = 0.01
_EDGE = 1 / 512  # a sigmoid never quite reaches black and white


class RefusedPixelsError(Exception):
    """Why a DICOM file's pixels are refused; a second argument is what to do about it."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels are stored (PS3.3, C.7.6.3).

    The aspect of a pixel is left out: a projection radiograph's is about 1.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    syntax: str

    @property
    def is_shifted(self) -> bool:
        """Whether the stored bits do not begin at the lowest."""
        return self.high != self.stored - 1

    @property
    def shift(self) -> str:
        """The sentence that refuses stored bits that do not begin at the lowest."""
        return f"the {self.stored} bits end at bit {self.high} of {self.allocated} (HighBit)"

    def with_stored(self, bits: int) -> PixelFormat:
        """Return the format of decoded pixels, whose bits begin at the lowest."""
        return replace(self, stored=bits, high=bits - 1)


def grey_of_colour(
    pixels: npt.NDArray[Any], dataset: Dataset, form: PixelFormat, *, is_rle: bool
) -> _Grey:
    """Weigh red, green and blue as the eye does. A window does not apply to colour."""
    from pydicom.pixels.processing import apply_color_lut, convert_color_space

    if form.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.itemsize
    else:
        bits = form.stored
        if is_rle and form.photometric == "YBR_FULL":
            pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    if bits not in (8, 16):
        top = 255 if bits < 8 else 65_535
        grey = np.rint(np.minimum(grey.astype(np.float32) * (top / (2**bits - 1)), top))
    return np.asarray(grey, np.uint8) if bits <= 8 else np.asarray(grey, np.uint16)


def grey_of_levels(pixels: npt.NDArray[Any], dataset: Dataset, form: PixelFormat) -> _Grey:
    """Apply all transformations to every possible stored value, then that table to the pixels."""
    raw = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).view(f"u{pixels.itemsize}")
    levels = (
        256**raw.itemsize
    )  # also those of the bits above the highest, which may hold an overlay
    stored = (np.arange(levels) >> (form.high + 1 - form.stored)) & (2**form.stored - 1)
    if form.signed:
        stored = stored - ((stored >> (form.stored - 1)) << form.stored)
    values = _apply_modality(stored, dataset)
    padding = _padding(stored, dataset, form)
    counts = cv2.calcHist([raw], [0], None, [levels], [0, levels]).ravel()
    counts[padding] = 0
    shown = _apply_values_of_interest(values, dataset, counts)
    is_deep = shown is not None or form.stored > 8
    if shown is None:
        lowest, highest = values.min(), values.max()
        shown = (values - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    if form.photometric == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    table = np.rint(shown * (65_535 if is_deep else 255)).astype(np.uint16 if is_deep else np.uint8)
    grey: _Grey = np.empty(raw.shape, table.dtype)
    for top in range(0, len(raw), 256):  # numpy makes indices of 8 bytes: a strip at a time
        np.take(table, raw[top : top + 256], out=grey[top : top + 256], mode="clip")
    return grey


def _apply_modality(stored: _Integers, dataset: Dataset) -> _Floats:
    """Apply the modality's lookup table, or slope and intercept, to each stored value."""
    table = _read_table(dataset, "ModalityLUTSequence", stored)
    if table is not None:
        return table.look_up(stored)
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope == 0:
        raise RefusedPixelsError("RescaleSlope is 0, which makes all pixels one grey level")
    return np.asarray(stored * (1.0 if slope is None else slope) + (intercept or 0.0), np.float64)


def _padding(stored: _Integers, dataset: Dataset, form: PixelFormat) -> npt.NDArray[np.bool_]:
    """Return which stored values mean "no image here" (PS3.3, C.7.5.1.1.2)."""
    first = _number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = _number(dataset, "PixelPaddingRangeLimit")
    last = first if last is None else last
    if form.signed:  # some programs write them as if they were unsigned
        wrap = 2**form.allocated
        first, last = (value - wrap if value >= wrap / 2 else value for value in (first, last))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _apply_values_of_interest(
    values: _Floats, dataset: Dataset, counts: npt.NDArray[np.float32]
) -> _Floats | None:
    """Apply the first lookup table or window, to 0 to 1; return None where there is none.

    The header's tables and windows are alternatives (PS3.3, C.11.2.1). One that shows next to none
    of the pixels is left for the next.
    """
    for shown in (_looked_up(values, dataset), _windowed(values, dataset)):
        if shown is not None:
            within = counts[(shown > _EDGE) & (shown < 1 - _EDGE)].sum()
            if within >= _MIN_WITHIN_WINDOW * max(1.0, float(counts.sum())):
                return shown
    return None


def _looked_up(values: _Floats, dataset: Dataset) -> _Floats | None:
    table = _read_table(dataset, "VOILUTSequence", values)
    if table is None:
        return None
    # Some programs write entries of 12 bits into a table that they say is of 16.
    bits = min(table.bits, max(8, int(table.entries.max()).bit_length()))
    return np.asarray(np.minimum(table.look_up(values) / (2**bits - 1), 1.0), np.float64)


def _windowed(values: _Floats, dataset: Dataset) -> _Floats | None:
    """Apply a window as PS3.3, C.11.2.1.2 and C.11.2.1.3 define it, to 0 to 1."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None or width <= 1:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise RefusedPixelsError("VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID")
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class _Table:
    """A lookup table (PS3.3, C.11.1.1).

    Attributes:
        first: The value that the first entry stands for.
        entries: Array `(n,)`, uint16.
        bits: Of an entry, as the header says.
    """

    first: int
    entries: npt.NDArray[np.uint16]
    bits: int

    def look_up(self, values: _Integers | _Floats) -> _Floats:
        """Return the entry of each value; values beyond the table get its first or last entry."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)].astype(np.float64)


def _read_table(dataset: Dataset, keyword: str, values: _Integers | _Floats) -> _Table | None:
    """Read the first lookup table of a sequence, in every form that programs write."""
    try:
        sequence = dataset.get(keyword)
        if not sequence:
            return None
        item = sequence[0]
        order = "<u2" if dataset.original_encoding[1] is not False else ">u2"
        count, first, bits = (int(value) for value in _words(item.LUTDescriptor, order))
        words = (_words(item.LUTData, order) & 0xFFFF).astype(np.uint16)
    except PARSING_ERRORS:
        raise RefusedPixelsError(f"the lookup table in {keyword} can't be read") from None
    count = count % 65_536 or 65_536
    if first >= 32_768 and values.min() < 0:
        first -= 65_536  # a negative number written as if it were unsigned
    if len(words) == (count + 1) // 2 and bits <= 8:
        words = words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)  # two in each word
    elif len(words) < count or not 1 <= bits <= 16:
        raise RefusedPixelsError(
            f"the lookup table in {keyword} has {len(words)} values of {bits} bits, "
            f"and its descriptor says {count}"
        )
    return _Table(first, words[:count], bits)


def _words(value: Any, order: str) -> npt.NDArray[Any]:
    """Return an element's values: pydicom gives integers, or bytes (OW, and UN over 64 kB)."""
    if isinstance(value, bytes):
        return np.frombuffer(value + bytes(len(value) % 2), order)
    return np.atleast_1d(np.asarray(value, np.int64))


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return an element's first number; None where the element is missing or empty."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, (MutableSequence, tuple)):
            value = value[0] if value else None
        if value is None or value == "":
            return None
        number = float(value)
    except PARSING_ERRORS:
        number = math.nan
    if not math.isfinite(number):
        raise RefusedPixelsError(f"{keyword} is not a number")
    return number
