"""The transformations that a DICOM header asks for, from stored values to grey; dense is bright.

Whatever can't be applied is refused with its reason, because a radiograph that lacks its lookup
table may be inverted. pydicom 3.0 applies tables of 8-bit entries wrongly, so numpy applies them.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.radiographs.file_limits import RefusedPixelsError

if TYPE_CHECKING:
    from pydicom import Dataset

_Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

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
_FIX_HEADER = "Correct the element or remove it, or export the file again."
_SHAPES = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}

# Elements that change how pixels look, and that no radiograph of one frame should have.
_NOT_SUPPORTED = (
    *("LUTDescriptor", "LUTData", "GrayLookupTableDescriptor", "GrayLookupTableData"),
    *("PresentationLUTSequence", "SoftcopyVOILUTSequence"),
    *("FrameVOILUTSequence", "PixelValueTransformationSequence"),
)


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


def grey_of_colour(pixels: npt.NDArray[Any], form: PixelFormat, *, is_rle: bool) -> _Grey:
    """Weigh red, green and blue as the eye does. A window does not apply to colour."""
    from pydicom.pixels.processing import convert_color_space

    if pixels.ndim == 2:
        return np.asarray(pixels, np.uint8)  # libjpeg-turbo weighs colours in the same way
    if is_rle and form.photometric == "YBR_FULL":
        pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    bits = form.stored
    if bits not in (8, 16):
        top = 255 if bits < 8 else 65_535
        grey = np.rint(np.minimum(grey.astype(np.float32) * (top / (2**bits - 1)), top))
    return np.asarray(grey, np.uint8) if bits <= 8 else np.asarray(grey, np.uint16)


def grey_of_levels(pixels: npt.NDArray[Any], dataset: Dataset, form: PixelFormat) -> _Grey:
    """Apply all transformations to every possible stored value, then that table to the pixels."""
    _check_supported(dataset, form)
    raw = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).view(f"u{pixels.itemsize}")
    levels = 256**raw.itemsize  # also those of the bits above the highest
    counts = cv2.calcHist([raw], [0], None, [levels], [0, levels]).ravel()
    every = np.arange(levels)
    stored = (every >> (form.high + 1 - form.stored)) & (2**form.stored - 1)
    if form.signed:
        stored, every = _signed(stored, form.stored), _signed(every, 8 * raw.itemsize)
    padding = _padding(stored, dataset, form) | _padding(every, dataset, form)
    counts[padding] = 0
    if not counts.any():
        raise RefusedPixelsError("PixelPaddingValue covers all pixels", _FIX_HEADER)
    _check_unused_bits(counts, every >> form.high, dataset, form)
    if form.photometric == "PALETTE COLOR":
        shown, bits = _apply_palette(stored, dataset)
    else:
        shown, bits = _apply_modality_and_window(stored, dataset, form, counts)
    if form.photometric == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    table = np.rint(shown * 255).astype(np.uint8)
    if bits > 8:
        table = np.rint(shown * 65_535).astype(np.uint16)
    grey: _Grey = np.empty(raw.shape, table.dtype)
    for top in range(0, len(raw), 256):  # numpy makes indices of 8 bytes: a strip at a time
        np.take(table, raw[top : top + 256], out=grey[top : top + 256], mode="clip")
    return grey


def _signed(values: _Integers, bits: int) -> _Integers:
    """Return the numbers that stored bits mean in two's complement."""
    return values - ((values >> (bits - 1)) << bits)


def _check_supported(dataset: Dataset, form: PixelFormat) -> None:
    """Refuse transformations that are not applied, and a shape that contradicts the pixels'.

    Presentation LUT Shape is INVERSE with MONOCHROME1 and never else (PS3.3, C.8.11.3). Viewers
    show a file that contradicts itself differently, so either polarity may be right.
    """
    functional = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    holders = [dataset, *(item for name in functional for item in dataset.get(name) or ())]
    for keyword in _NOT_SUPPORTED:
        if any(keyword in holder for holder in holders):
            raise RefusedPixelsError(f"{keyword} is not supported here", _FIX_HEADER)
    is_grey = form.photometric.startswith("MONOCHROME")
    if is_grey and "RedPaletteColorLookupTableDescriptor" in dataset:
        raise RefusedPixelsError("the grey pixels have a colour table", _FIX_HEADER)
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    if is_grey and shape and form.photometric != _SHAPES.get(shape):
        what = "PresentationLUTShape contradicts PhotometricInterpretation, or is unknown"
        raise RefusedPixelsError(what, _FIX_HEADER)


def _check_unused_bits(
    counts: npt.NDArray[np.float32], above: _Integers, dataset: Dataset, form: PixelFormat
) -> None:
    """Refuse pixels that use bits above the highest, unless the header says that overlays do."""
    # `above` is each level without its lower bits. The sign fills those of negative numbers.
    beyond = (above >> 1 != 0) & ~(form.signed & (above == -1))
    if not counts[beyond].any():
        return
    if not any(tag.group >> 8 == 0x60 and tag.elem == 0x0102 for tag in dataset.keys()):  # noqa: SIM118
        what = f"the pixels use more than the {form.stored} bits that the header says (BitsStored)"
        raise RefusedPixelsError(what, _FIX_HEADER)


def _padding(stored: _Integers, dataset: Dataset, form: PixelFormat) -> _Mask:
    """Return which values mean "no image here" (PS3.3, C.7.5.1.1.2)."""
    first = _number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = _number(dataset, "PixelPaddingRangeLimit")
    last = first if last is None else last
    wrap = 2**form.allocated  # some programs write signed numbers as unsigned, or the reverse
    if form.signed:
        first, last = (value - wrap if value >= wrap / 2 else value for value in (first, last))
    else:
        first, last = (value + wrap if value < 0 else value for value in (first, last))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _apply_palette(stored: _Integers, dataset: Dataset) -> tuple[_Floats, int]:
    """Return the grey of each stored value's colour, 0 to 1, and the bits of an entry."""
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    if any(f"Segmented{name}Data" in dataset for name in names):
        raise RefusedPixelsError("segmented colour tables are not supported", _FIX_HEADER)
    tables = [_read_table(dataset, name, name, stored) for name in names]
    bits = max(table.bits for table in tables)
    colours = [(table.look_up(stored) / (2**bits - 1)).astype(np.float32) for table in tables]
    grey = cv2.cvtColor(np.stack(colours, -1)[:, None], cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.float64).ravel(), bits


def _apply_modality_and_window(
    stored: _Integers, dataset: Dataset, form: PixelFormat, counts: npt.NDArray[np.float32]
) -> tuple[_Floats, int]:
    """Return what is shown of each stored value, 0 to 1, and how many bits that has.

    The header's tables and windows of interest are alternatives, and the first table comes before
    the first window (PS3.3, C.11.2.1).
    """
    modality = _sequence_table(dataset, "ModalityLUTSequence", stored)
    values = _rescaled(stored, dataset) if modality is None else modality.look_up(stored)
    if values.min() == values.max() or not np.isfinite(values).all():
        raise RefusedPixelsError("the header makes all pixels one grey level", _FIX_HEADER)
    table = _sequence_table(dataset, "VOILUTSequence", values)
    if table is not None:
        shown, bits, what = table.look_up(values) / table.top, table.bits, "VOILUTSequence"
    elif (window := _windowed(values, dataset)) is not None:
        shown, bits, what = window, 16, "the window (WindowCenter, WindowWidth)"
    elif modality is not None:
        return values / modality.top, modality.bits
    else:
        return (values - values.min()) / (values.max() - values.min()), form.stored
    within = counts[(shown > _EDGE) & (shown < 1 - _EDGE)].sum()
    share = float(within / counts.sum())
    if share < _MIN_WITHIN_WINDOW:
        what = f"{what} shows {share:.1%} of the pixels, and the others all black or white"
        raise RefusedPixelsError(what, _FIX_HEADER)
    return shown, bits


def _rescaled(stored: _Integers, dataset: Dataset) -> _Floats:
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    with np.errstate(all="ignore"):  # the caller refuses what is not finite
        return np.asarray(stored * (1.0 if slope is None else slope) + (intercept or 0.0))


def _windowed(values: _Floats, dataset: Dataset) -> _Floats | None:
    """Apply a window as PS3.3, C.11.2.1.2 and C.11.2.1.3 define it, to 0 to 1."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None and width is None:
        return None
    if centre is None or width is None:
        raise RefusedPixelsError("WindowCenter or WindowWidth is missing", _FIX_HEADER)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        what = "VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID"
        raise RefusedPixelsError(what, _FIX_HEADER)
    if width <= (1 if function == "LINEAR" else 0):
        raise RefusedPixelsError(f"WindowWidth is {width:g}, which shows nothing", _FIX_HEADER)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class _Table:
    """A lookup table (PS3.3, C.11.1.1).

    Attributes:
        first: The value that the first entry stands for.
        entries: Array `(n,)`, uint16.
    """

    first: int
    entries: npt.NDArray[np.uint16]

    @property
    def bits(self) -> int:
        """The bits of the largest entry. Some programs write others into the descriptor."""
        return int(self.entries.max()).bit_length()

    @property
    def top(self) -> int:
        """The largest entry that these bits can hold."""
        return int(2**self.bits - 1)

    def look_up(self, values: _Integers | _Floats) -> _Floats:
        """Return the entry of each value; values beyond the table get its first or last entry."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)].astype(np.float64)


def _sequence_table(dataset: Dataset, keyword: str, values: _Integers | _Floats) -> _Table | None:
    """Read the first lookup table of a sequence; return None where there is no sequence."""
    try:
        sequence = dataset.get(keyword)
        if sequence is None or len(sequence) == 0:
            return None
        item = sequence[0]
    except PARSING_ERRORS:
        raise _unreadable(keyword) from None
    return _read_table(item, "LUT", keyword, values)


def _unreadable(where: str) -> RefusedPixelsError:
    return RefusedPixelsError(f"the lookup table in {where} can't be read", _FIX_HEADER)


def _read_table(holder: Dataset, prefix: str, where: str, values: _Integers | _Floats) -> _Table:
    """Read a lookup table in every form that programs write."""
    try:
        order = "<u2" if holder.original_encoding[1] is not False else ">u2"
        count, first, bits = (
            int(value) for value in _words(holder[f"{prefix}Descriptor"].value, order)
        )
        data = holder[f"{prefix}Data"]
        words = (_words(data.value, "<u2" if data.VR == "OB" else order) & 0xFFFF).astype("<u2")
    except PARSING_ERRORS:
        raise _unreadable(where) from None
    count = count % 65_536 or 65_536
    if len(words) == (count + 1) // 2 and bits <= 8:
        words = words.view(np.uint8)[:count].astype("<u2")  # two in each word
    # One entry too many makes the length even, or is a common slip.
    if not count <= len(words) <= count + 1 or not 1 <= bits <= 16:
        raise RefusedPixelsError(
            f"the lookup table in {where} has {len(words)} values of {bits} bits, "
            f"and its descriptor says {count}",
            _FIX_HEADER,
        )
    entries = words[:count].astype(np.uint16)
    if entries.min() == entries.max():
        raise RefusedPixelsError(f"the lookup table in {where} has one grey level", _FIX_HEADER)
    if _roughness(entries) > 4 * _roughness(entries.byteswap()):
        entries = entries.byteswap()  # some programs keep the other byte order
    return _Table(_first_value(first, count, values, where), entries)


def _roughness(entries: npt.NDArray[np.uint16]) -> float:
    """Return how far entries go up and down, relative to their range; 1 where they only rise."""
    levels = entries.astype(np.int64)
    return float(np.abs(np.diff(levels)).sum() / np.ptp(levels))


def _first_value(first: int, count: int, values: _Integers | _Floats, where: str) -> int:
    """Return the first value that a table stands for: some programs write its sign wrongly."""

    def overlap(start: int) -> float:
        return float(min(start + count - 1, values.max()) - max(start, values.min()))

    best = max((first, first - 65_536, first + 65_536), key=overlap)  # the first of equals
    if overlap(best) < 0:
        raise RefusedPixelsError(f"the lookup table in {where} is of other values", _FIX_HEADER)
    return best


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
            if len(value) > 1 and not keyword.startswith("Window"):
                raise RefusedPixelsError(f"{keyword} has several values", _FIX_HEADER)
            value = value[0] if value else None
            if value == "":
                value = math.nan  # others follow
        if value is None or value == "":
            return None
        number = math.nan if "_" in str(value) else float(value)
    except PARSING_ERRORS:
        number = math.nan
    if not math.isfinite(number):
        raise RefusedPixelsError(f"{keyword} is not a number", _FIX_HEADER)
    return number
