"""The pixels of a DICOM file made into one grey array in which dense is bright."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import MutableSequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.radiographs.codestream import (
    CodestreamError,
    FrameHeader,
    decode_rle,
    read_frame_header,
    strip_jp2,
)
from boneage.radiographs.dicom import (
    PARSING_ERRORS,
    dicom_fault,
    open_dicom,
    quiet_pydicom,
    read_dataset,
)
from boneage.radiographs.file_structure import check_dimensions

if TYPE_CHECKING:
    from pydicom import Dataset

_Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Floats = npt.NDArray[np.float64]

_RLE = "1.2.840.10008.1.2.5"
_JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 81))  # JPEG and JPEG-LS
_NATIVE = frozenset(f"1.2.840.10008.1.2{n}" for n in ("", ".1", ".1.98", ".1.99", ".2"))

_ITEM = b"\xfe\xff\x00\xe0"
_MOST_FRAGMENTS = 10_000

# Of every hundred pixels at least one must lie within a window: fewer show no hand, not even an
# infant's on a large panel (3 in a hundred).
_LEAST_WITHIN_WINDOW = 0.01
_EDGE = 1 / 512  # a sigmoid never quite reaches black and white


@dataclass(frozen=True, slots=True)
class _Form:
    """How the pixels are stored (PS3.3, C.7.6.3).

    The aspect of a pixel is not among it: far from 1 it is no projection radiograph.
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


def decode_dicom(data: bytes, path: Path) -> _Grey:
    """Decodes a DICOM file of one frame to grey, dense is bright.

    The value of interest transformation of the file (its first lookup table, else its first
    window) is applied after the modality's, and MONOCHROME1 inverted last, as PS3.4 annex N has it.
    A window that shows next to nothing of the radiograph is passed over.
    Presentation LUT Shape says INVERSE with MONOCHROME1 and nothing else (PS3.3, C.8.11.3), so it
    is not looked at.

    Args:
        data: The whole file, one that `is_dicom`.
        path: Its name for the messages.

    Returns:
        Array `(h, w)`; uint8 where 8 bits or fewer are stored and no window is given, otherwise
        uint16 with the window, or all that the stored bits can hold, spread over 0 to 65,535.

    Raises:
        InputError: It is truncated, damaged, holds several frames or absurd dimensions, or needs a
            decoder that is not installed.
    """
    dataset = read_dataset(io.BytesIO(data), path, pixels=True)
    form = _read_form(dataset, path)
    try:
        pixels, form = _read_pixels(dataset, form, path)
        with quiet_pydicom():
            if form.samples == 3 or form.photometric == "PALETTE COLOR":
                return _grey_of_colour(pixels, dataset, form)
            return _grey_of_levels(pixels, dataset, form)
    except CodestreamError as error:
        raise InputError(dicom_fault(path, str(error))) from None
    except (cv2.error, SyntaxError, *PARSING_ERRORS):  # Pillow's word for a damaged picture
        raise InputError(dicom_fault(path, "its pixels can't be decoded")) from None


def read_dicom_dimensions(path: Path) -> tuple[int, int]:
    """Reads width and height from a DICOM file's header."""
    form = _read_form(open_dicom(path, pixels=False), path)
    return form.columns, form.rows


def _read_form(dataset: Dataset, path: Path) -> _Form:
    try:
        with quiet_pydicom():
            frames = int(dataset.get("NumberOfFrames") or 1)
            form = _Form(
                rows=int(dataset.Rows),
                columns=int(dataset.Columns),
                samples=int(dataset.get("SamplesPerPixel") or 1),
                photometric=str(dataset.PhotometricInterpretation).strip().upper(),
                allocated=int(dataset.BitsAllocated),
                stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
                high=int(dataset.get("HighBit") or dataset.get("BitsStored", 1) - 1),
                signed=int(dataset.get("PixelRepresentation") or 0) == 1,
                syntax=_syntax(dataset),
            )
            integers = "PixelData" in dataset or "FloatPixelData" not in dataset
    except PARSING_ERRORS:
        raise InputError(
            dicom_fault(path, "its header lacks what describes the pixels, or is damaged")
        ) from None
    if frames > 1:
        raise InputError(dicom_fault(path, f"it holds {frames} frames (a multi-frame object)"))
    check_dimensions(path, form.columns, form.rows)
    kinds = _PHOTOMETRIC.get(form.photometric)
    if kinds != form.samples:
        raise InputError(
            dicom_fault(path, f"its pixels have {form.samples} samples of a kind not read")
        )
    fits = 1 <= form.stored <= form.allocated and form.stored - 1 <= form.high < form.allocated
    if form.allocated not in (1, 8, 16) or not fits or not integers:
        what = f"its pixels have {form.stored} of {form.allocated} bits"
        raise InputError(dicom_fault(path, what if integers else "its pixels are floating point"))
    if form.high != form.stored - 1 and (form.samples == 3 or form.photometric[0] == "P"):
        raise InputError(dicom_fault(path, _misplaced(form)))
    return form


_PHOTOMETRIC = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}


def _syntax(dataset: Dataset) -> str:
    """The transfer syntax; files without one hold what every DICOM program must read."""
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    return str(syntax) if syntax else "1.2.840.10008.1.2"


def _read_pixels(dataset: Dataset, form: _Form, path: Path) -> tuple[npt.NDArray[Any], _Form]:
    """Returns the stored values, `(h, w)` or `(h, w, 3)`, and how they are stored after all."""
    if form.syntax in _NATIVE:
        return _through_pydicom(dataset, "", masked=form.high == form.stored - 1), form
    if form.syntax not in _JPEG | _JPEG_2000 | _LOSSLESS | {_RLE}:
        raise InputError(
            Fault(
                str(path),
                f"its pixels are compressed in a way that is not read ({_syntax_name(form)})",
                "Export it without compression (Explicit VR Little Endian).",
                expected="native pixels, RLE, JPEG, JPEG lossless, JPEG-LS or JPEG 2000",
            )
        )
    from pydicom.encaps import get_frame

    if dataset.PixelData.count(_ITEM) > _MOST_FRAGMENTS:
        raise CodestreamError("its compressed pixels are in too many pieces")
    with quiet_pydicom():
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if form.syntax == _RLE:
        return _runs(frame, form), form
    frame = strip_jp2(frame)
    header = read_frame_header(frame)
    _check_agreement(header, form)
    if form.high != form.stored - 1 and header.bits != form.stored:
        raise CodestreamError(_misplaced(form))
    if form.syntax in _LOSSLESS:
        if importlib.util.find_spec("gdcm") is None:
            raise InputError(
                Fault(
                    str(path),
                    f"its pixels are compressed ({_syntax_name(form)})",
                    "Install it: pip install python-gdcm",
                    expected="a decoder for them, which is not installed",
                )
            )
        pixels = _through_pydicom(dataset, "gdcm")
    elif (
        header.samples == 1
        and not header.signed
        and header.bits <= (8 if form.syntax in _JPEG else 16)
    ):
        pixels = _through_pillow(frame, header.bits)
    elif form.syntax in _JPEG and header.bits > 8:
        raise CodestreamError(f"it is JPEG of {header.bits} bits, which is not read")
    else:
        pixels = _through_pydicom(dataset, "pillow")
    if pixels.shape[:2] != (form.rows, form.columns):
        raise CodestreamError("its compressed pixels are not as many as its header says")
    if not form.signed and header.bits > form.stored and int(pixels.max()) >> form.stored:
        form = replace(form, stored=header.bits, high=header.bits - 1)
    return pixels, replace(form, high=form.stored - 1)


def _syntax_name(form: _Form) -> str:
    from pydicom.uid import UID

    with quiet_pydicom():
        name = UID(form.syntax).name
    return "of an unknown name" if name == form.syntax else name  # never what the file says itself


def _check_agreement(header: FrameHeader, form: _Form) -> None:
    kinds = {0xF7: _LOSSLESS, 0xC3: _LOSSLESS, 0x51: _JPEG_2000}.get(header.process, _JPEG)
    if form.syntax not in kinds:
        raise CodestreamError("its compressed pixels are of another kind than its header says")
    if (header.width, header.height) != (form.columns, form.rows):
        raise CodestreamError(
            f"its compressed pixels are {header.width} x {header.height}, "
            f"and its header says {form.columns} x {form.rows}"
        )
    if header.samples != form.samples or not 1 <= header.bits <= form.allocated:
        raise CodestreamError(
            f"its compressed pixels have {header.samples} samples of {header.bits} bits, "
            f"and its header says {form.samples} of {form.allocated}"
        )


def _misplaced(form: _Form) -> str:
    return f"its {form.stored} bits end at bit {form.high} of {form.allocated} (HighBit)"


def _through_pydicom(dataset: Dataset, plugin: str, *, masked: bool = True) -> npt.NDArray[Any]:
    """Has pydicom decode; `masked` clears all but the lowest BitsStored bits."""
    from pydicom.pixels.utils import pixel_array as decode

    with quiet_pydicom():
        return decode(dataset, decoding_plugin=plugin, correct_unused_bits=masked)


def _through_pillow(frame: bytes, bits: int) -> npt.NDArray[Any]:
    # No lock is held here, unlike within pydicom, so that threads decode at the same time.
    from PIL import Image

    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
        pixels = np.array(picture)
    return pixels >> (8 * pixels.itemsize - bits)  # Pillow fills 8 or 16 bits from the top


def _runs(frame: bytes, form: _Form) -> npt.NDArray[Any]:
    width = form.allocated // 8
    if not width:
        raise CodestreamError("its run-length coded pixels have a single bit")
    raw = decode_rle(frame, form.rows * form.columns, form.samples * width)
    planes = np.frombuffer(raw, np.uint8).reshape(form.samples, width, form.rows, form.columns)
    values = planes[:, 0].astype(f"u{width}")
    if width == 2:
        values <<= 8
        values |= planes[:, 1]
    return values[0] if form.samples == 1 else np.moveaxis(values, 0, -1)


def _grey_of_colour(pixels: npt.NDArray[Any], dataset: Dataset, form: _Form) -> _Grey:
    """Weighs red, green and blue as the eye does; a window does not apply to colour."""
    from pydicom.pixels.processing import apply_color_lut, convert_color_space

    if form.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.itemsize
    else:
        bits = form.stored
        if form.syntax == _RLE and form.photometric == "YBR_FULL":
            pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    if bits not in (8, 16):
        top = 255 if bits < 8 else 65_535
        grey = np.rint(np.minimum(grey.astype(np.float32) * (top / (2**bits - 1)), top))
    return np.asarray(grey, np.uint8) if bits <= 8 else np.asarray(grey, np.uint16)


def _grey_of_levels(pixels: npt.NDArray[Any], dataset: Dataset, form: _Form) -> _Grey:
    """Looks every stored value up in one table that holds all the steps."""
    raw = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).view(f"u{pixels.itemsize}")
    levels = 256**raw.itemsize  # those of bits above the highest, which may hold an overlay, too
    stored = (np.arange(levels) >> (form.high + 1 - form.stored)) & (2**form.stored - 1)
    if form.signed:
        stored = stored - ((stored >> (form.stored - 1)) << form.stored)
    values = _apply_modality(stored, dataset)
    padding = _padding(stored, dataset, form)
    counts = cv2.calcHist([raw], [0], None, [levels], [0, levels]).ravel()
    counts[padding] = 0
    shown = _apply_interest(values, dataset, counts)
    deep = shown is not None or form.stored > 8
    if shown is None:
        lowest, highest = values.min(), values.max()
        shown = (values - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    if form.photometric == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    table = np.rint(shown * (65_535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    shades = np.empty(raw.shape, table.dtype)
    for top in range(0, len(raw), 256):  # numpy makes indices of 8 bytes: a strip at a time
        np.take(table, raw[top : top + 256], out=shades[top : top + 256], mode="clip")
    return shades


def _apply_modality(stored: npt.NDArray[np.int64], dataset: Dataset) -> _Floats:
    """Applies the modality's lookup table, or slope and intercept, to each stored value."""
    from pydicom.pixels.processing import apply_modality_lut

    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if dataset.get("ModalityLUTSequence"):
        try:
            return np.asarray(apply_modality_lut(stored, dataset), np.float64)
        except PARSING_ERRORS:
            return stored.astype(np.float64)
    if not slope:  # absent, or a radiograph of one grey
        return stored.astype(np.float64)
    return np.asarray(stored * slope + (intercept or 0.0), np.float64)


def _padding(stored: npt.NDArray[np.int64], dataset: Dataset, form: _Form) -> npt.NDArray[np.bool_]:
    """Tells the stored values that stand for "no picture here" (PS3.3, C.7.5.1.1.2)."""
    first = _number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = _number(dataset, "PixelPaddingRangeLimit")
    last = first if last is None else last
    if form.signed:  # some write them as if they were unsigned
        wrap = 2**form.allocated
        first, last = (value - wrap if value >= wrap / 2 else value for value in (first, last))
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _apply_interest(
    values: _Floats, dataset: Dataset, counts: npt.NDArray[np.float32]
) -> _Floats | None:
    """Applies the first lookup table or window, to 0 to 1; None where there is no sensible one."""
    for shown in (_looked_up(values, dataset), _windowed(values, dataset)):
        if shown is not None and np.isfinite(shown).all():
            within = counts[(shown > _EDGE) & (shown < 1 - _EDGE)].sum()
            if within >= _LEAST_WITHIN_WINDOW * max(1.0, float(counts.sum())):
                return shown
    return None


def _looked_up(values: _Floats, dataset: Dataset) -> _Floats | None:
    from pydicom.pixels.processing import apply_voi

    if not dataset.get("VOILUTSequence"):
        return None
    try:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = np.asarray(apply_voi(np.rint(values).astype(np.int64), dataset, 0), np.float64)
    except PARSING_ERRORS:
        return None
    return np.minimum(shown / (2**bits - 1), 1.0) if 8 <= bits <= 16 else None


def _windowed(values: _Floats, dataset: Dataset) -> _Floats | None:
    """Applies a window as PS3.3, C.11.2.1.2 and C.11.2.1.3 write it, from 0 to 1."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None or width <= 1:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Returns an element's first number, or None where there is none that is finite."""
    try:
        value = dataset.get(keyword)
        first = float(value[0] if isinstance(value, (MutableSequence, tuple)) else value)
    except PARSING_ERRORS:
        return None
    return first if math.isfinite(first) else None
