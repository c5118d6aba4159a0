"""A DICOM file: recognise it, open it, and decode its pixels to one grey array.

Messages never quote a value of the header, because it may identify a person.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from boneage.errors import Fault, InputError
from boneage.radiographs.dicom_transformations import (
    PARSING_ERRORS,
    PixelFormat,
    grey_of_colour,
    grey_of_levels,
)
from boneage.radiographs.file_limits import (
    LARGEST_FILE,
    CountedReads,
    RefusedPixelsError,
    Upload,
    check_dimensions,
    open_radiograph,
    quiet,
)
from boneage.radiographs.jpeg import decode_jpeg, read_segments
from boneage.radiographs.tiff import has_more_packbits
from boneage.runtime.extras import install_command

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataelem import RawDataElement

SNIFFED_BYTES = 256
"""Of the beginning of a file, enough to recognise DICOM."""
_PREAMBLE = 128
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNDEFINED = 0xFFFFFFFF

# Files without a preamble begin with group 2 or 8 in little endian, then a value representation
# and a length (explicit), or a short length (implicit).
_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".dic", ".ima"})
_UID_NAME = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_BARE_START = re.compile(
    rb"(\x02\x00|\x08\x00).[\x00-\x02](AE|CS|DA|DT|IS|LO|OB|PN|SH|SQ|TM|UI|UL|UN|US|.\x00\x00\x00)",
    re.DOTALL,
)

_MAX_FRAGMENTS = 10_000
_MOST_ABOVE = 0.01
_MAX_LAYERS = 64  # of JPEG 2000: a decoder reserves memory for each
_NO_PACKET = re.compile(rb"\xff[\x94-\xff]")  # of JPEG 2000 (ISO/IEC 15444-1, B.10.1)
_HOLE = bytes(512)  # would be as many empty packets

_UID = "1.2.840.10008.1.2"
_NATIVE = frozenset(f"{_UID}{end}" for end in ("", ".1", ".1.98", ".1.99", ".2"))
_DEFLATED = f"{_UID}.1.99"
_RLE = f"{_UID}.5"
_JPEG = frozenset({f"{_UID}.4.50", f"{_UID}.4.51"})
_JPEG_LOSSLESS = frozenset({f"{_UID}.4.57", f"{_UID}.4.70"})
_JPEG_LS = frozenset({f"{_UID}.4.80", f"{_UID}.4.81"})
_JPEG_2000 = frozenset({f"{_UID}.4.90", f"{_UID}.4.91"})
_LOSSY = frozenset({f"{_UID}.4.81", f"{_UID}.4.91"})
# The marker that begins the frame header of each (ITU-T T.81, T.87).
_FRAME_MARKERS = {0xC0: _JPEG, 0xC1: _JPEG, 0xC2: _JPEG, 0xC3: _JPEG_LOSSLESS}
_FRAME_MARKERS[0xF7] = _JPEG_LS
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}
_SAMPLES |= dict.fromkeys(("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log lines, which quote values of the header.

    Hold it wherever a value of a dataset is read, because pydicom converts values when read.

    Raises:
        ValueError: In place of pydicom's own kinds of errors, which quote values too.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with quiet("pydicom"):
            yield
    except (BytesLengthException, InvalidDicomError):
        raise ValueError("the header is damaged") from None


def is_dicom(start: bytes, path: Path) -> bool:
    """Return whether a file is DICOM, by its first bytes.

    Args:
        start: The first 132 bytes of the file, or more.
        path: The file. Without DICOM's preamble, its name must be typical of DICOM, too.
    """
    if start[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    has_name = path.suffix.lower() in _SUFFIXES or _UID_NAME.fullmatch(path.name) is not None
    return has_name and _BARE_START.match(start) is not None


def open_dicom(path: str | Path | Upload, *, pixels: bool = True) -> Dataset:
    """Read a DICOM file that holds pixels.

    Args:
        path: The file, or one in memory.
        pixels: Whether to read the pixels, too. Without them, only the header is read. Either way,
            a truncated file is refused as far as the header allows.

    Returns:
        The dataset, with `file_meta`. Read its values within `quiet_pydicom()`.

    Raises:
        InputError: The file is missing, not readable, not DICOM, truncated, or holds no pixels (for
            example a report or a DICOMDIR).
    """
    with open_radiograph(path if isinstance(path, Upload) else Path(path)) as file:
        path = Path(str(path))
        if not is_dicom(file.read(_PREAMBLE + 4), path):
            raise InputError(dicom_fault(path, "the file is not DICOM"))
        file.seek(0)
        return _read_dataset(io.BytesIO(file.read()) if pixels else file, path, pixels=pixels)


def decode_dicom(data: bytes, path: Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Decode a DICOM file of one frame to grey; dense is bright.

    The order is that of PS3.4, annex N: the modality's transformation, then the first lookup table
    or window of the values of interest, then the inversion of MONOCHROME1. A transformation that
    can't be applied, or that shows nearly nothing, is a fault with its reason.

    Args:
        data: The whole file, for which `is_dicom` is true.
        path: Its name for the messages.

    Returns:
        Array `(h, w)`. It is uint8 where at most 8 bits are stored and no window is given, or where
        a lookup table gives at most 8 bits. Else it is uint16, and the window, the bits of the
        table or the range of values is spread over 0 to 65,535.

    Raises:
        InputError: The file is truncated or damaged, holds several frames or unsupported
            dimensions, or needs a decoder that is not installed.
    """
    dataset = _read_dataset(io.BytesIO(data), path, pixels=True)
    form = _read_format(dataset, path)
    try:
        with quiet_pydicom():
            pixels, form = _stored_values(dataset, form, path)
            if form.samples == 3:
                return grey_of_colour(pixels, form, is_rle=form.syntax == _RLE)
            return grey_of_levels(pixels, dataset, form)
    except RefusedPixelsError as refused:
        has_fix = len(refused.args) > 1
        fault = Fault(str(path), *refused.args) if has_fix else dicom_fault(path, *refused.args)
        raise InputError(fault) from None
    except (cv2.error, SyntaxError, *PARSING_ERRORS):  # SyntaxError: Pillow, of a damaged image
        raise InputError(
            dicom_fault(path, "the pixels are damaged, and can't be decoded")
        ) from None


def read_dicom_dimensions(path: Path) -> tuple[int, int]:
    """Read width and height from a DICOM file's header."""
    form = _read_format(open_dicom(path, pixels=False), path)
    return form.columns, form.rows


def dicom_fault(path: Path, what: str, fix: str = "Download or export it again.") -> Fault:
    """Return what is wrong with a DICOM file; `what` quotes nothing that may identify a person."""
    return Fault(str(path), what, fix, expected="a whole DICOM file that holds one image")


def _read_dataset(stream: BinaryIO, path: Path, *, pixels: bool) -> Dataset:
    from pydicom.filereader import read_partial

    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    lengths: list[int] = []

    def stop(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            lengths.append(length)
        return bool(lengths) and not pixels

    try:
        with quiet_pydicom():
            deflated = _is_deflated(stream)
            dataset = read_partial(cast(BinaryIO, CountedReads(stream)), stop, force=True)
            elements = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118
            whole = all(_is_whole(element, None if deflated else size) for element in elements)
    except PARSING_ERRORS:
        raise InputError(dicom_fault(path, "the header is damaged, and can't be read")) from None
    if not lengths and whole:
        what = "the file holds no pixels: it is truncated, or not an image"
        fix = "Name the file of the radiograph, or export it again."
        raise InputError(dicom_fault(path, what, fix))
    missing = pixels and not any(tag in dataset for tag in _PIXEL_TAGS)
    beyond = not deflated and lengths and size < lengths[0] != _UNDEFINED
    if missing or beyond or not whole:
        raise InputError(dicom_fault(path, f"the file is truncated ({size} bytes)"))
    return dataset


def _is_whole(element: RawDataElement | DataElement, size: int | None) -> bool:
    """Return whether an element's value, and the delimiter behind it, lie within `size` bytes."""
    from pydicom.dataelem import RawDataElement

    if not isinstance(element, RawDataElement):
        return True  # a sequence, parsed already
    held = len(element.value or b"")
    if element.length != _UNDEFINED:
        return held >= element.length
    return size is None or element.value_tell + held + 8 <= size


def _is_deflated(stream: BinaryIO) -> bool:
    """Return whether the dataset is deflated; raise ValueError if it is truncated or too large."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(stream, force=True)
    meta = _read_file_meta_info(stream)
    deflated = str(meta.get("TransferSyntaxUID", "")) == _DEFLATED
    if deflated:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(stream.read(), LARGEST_FILE)
        if not inflater.eof:
            raise ValueError("truncated or too large")
    stream.seek(0)
    return deflated


def _read_format(dataset: Dataset, path: Path) -> PixelFormat:
    """Read how the pixels are stored, and refuse what is not supported before decoding."""
    try:
        with quiet_pydicom():
            syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
            frames = int(dataset.get("NumberOfFrames") or 1)
            signed, high = int(dataset.PixelRepresentation), dataset.get("HighBit")
            form = PixelFormat(
                rows=int(dataset.Rows),
                columns=int(dataset.Columns),
                samples=int(dataset.SamplesPerPixel),
                photometric=str(dataset.PhotometricInterpretation).strip(),
                allocated=int(dataset.BitsAllocated),
                stored=int(dataset.BitsStored),
                high=int(dataset.BitsStored) - 1 if high is None else int(high),
                signed=signed == 1,
                # The one that needs no name is little-endian; an old file may be the other.
                syntax=str(syntax or (_UID if dataset.original_encoding[1] else f"{_UID}.2")),
            )
            is_float = "PixelData" not in dataset and any(tag in dataset for tag in _PIXEL_TAGS)
    except PARSING_ERRORS:
        what = "the header does not describe the pixels, or is damaged"
        raise InputError(dicom_fault(path, what)) from None
    if frames != 1:
        what = f"the file holds {frames} frames (a multi-frame object)"
        raise InputError(dicom_fault(path, what, "Export the single radiograph instead."))
    check_dimensions(path, form.columns, form.rows)
    what = ""
    if _SAMPLES.get(form.photometric) != form.samples:
        what = f"the pixels have {form.samples} samples of a kind that is not supported"
    elif is_float:
        what = "the pixels are floating point"
    elif signed not in (0, 1):
        what = f"PixelRepresentation is {signed}, and not 0 or 1"
    elif (
        form.allocated not in (1, 8, 16)
        or not 1 <= form.stored <= form.allocated
        or not form.stored - 1 <= form.high < form.allocated
    ):
        what = f"the pixels have {form.stored} of {form.allocated} bits, and HighBit is {form.high}"
    elif form.is_shifted and form.samples == 3:
        what = form.shift
    if what:
        raise InputError(dicom_fault(path, what))
    return form


def _stored_values(
    dataset: Dataset, form: PixelFormat, path: Path
) -> tuple[npt.NDArray[Any], PixelFormat]:
    """Return the stored values, `(h, w)` or `(h, w, 3)`, and how they are stored after decoding."""
    if form.syntax in _NATIVE:
        _check_native_length(dataset, form)
        return _through_pydicom(dataset, form, "", masked=form.samples == 3), form
    if form.syntax not in _JPEG | _JPEG_2000 | _JPEG_LOSSLESS | _JPEG_LS | {_RLE}:
        raise RefusedPixelsError(
            f"the compression of the pixels is not supported ({_syntax_name(form)})",
            "Export it without compression (Explicit VR Little Endian).",
        )
    frame = _only_frame(dataset.PixelData, form)
    if form.syntax == _RLE:
        return _decode_rle(frame, form), form
    bits = _check_frame(frame, form)
    plugin = "pillow"
    if form.syntax in _JPEG_LOSSLESS | _JPEG_LS:
        plugin = "gdcm"
        if importlib.util.find_spec("gdcm") is None:
            raise InputError(
                Fault(
                    str(path),
                    f"its pixels are compressed ({_syntax_name(form)}), and their decoder is not "
                    "installed",
                    f"To install it: {install_command('gdcm')}",
                )
            )
    if form.syntax in _JPEG:
        if bits > 8:
            raise RefusedPixelsError(f"JPEG of {bits} bits is not supported")
        return decode_jpeg(frame)[:, :, 0], replace(form, high=form.stored - 1)
    if form.syntax in _JPEG_LOSSLESS:
        _check_lossless_jpeg(frame, form, bits)
        # Else GDCM would clear bits that must not be used.
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
    with _refusing_what_is_printed() if plugin == "gdcm" else nullcontext():
        pixels = _through_pydicom(dataset, form, plugin, masked=False)
    if form.syntax in _LOSSY and not form.signed:
        above = pixels >= 2**form.stored
        if above.mean() < _MOST_ABOVE:  # a few values that the compression raised
            pixels = np.minimum(pixels, 2**form.stored - 1).astype(pixels.dtype)
    return pixels, replace(form, high=form.stored - 1)


def _check_native_length(dataset: Dataset, form: PixelFormat) -> None:
    """Compare the length of pixels that are not compressed with the header's dimensions.

    A few bytes more are padding. A row or a column more means that the header is wrong.
    """
    bits = form.rows * form.columns * form.samples * form.allocated
    expected = -(-bits // 8)
    if form.photometric == "YBR_FULL_422":
        expected = expected // 3 * 2
    held = len(dataset.PixelData)
    slack = max(2, min(form.rows, form.columns) * form.samples * form.allocated // 8)
    if not expected <= held < expected + slack:
        raise RefusedPixelsError(
            f"the number of pixels is not that in the header: {form.columns} x {form.rows} pixels "
            f"have {expected:,} bytes, and the file holds {held:,}"
        )


def _only_frame(data: bytes, form: PixelFormat) -> bytes:
    """Return the one compressed frame, which may be in several fragments."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    if data.count(b"\xfe\xff\x00\xe0") > _MAX_FRAGMENTS:
        raise RefusedPixelsError("the compressed pixels are in too many fragments")
    buffer = io.BytesIO(data)
    offsets = parse_basic_offsets(buffer)
    fragments = list(generate_fragments(buffer))
    starts = sum(part.startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51")) for part in fragments)
    frames = max(len(offsets), len(fragments) if form.syntax == _RLE else starts)
    if frames != 1:
        raise RefusedPixelsError(f"the file holds {frames} frames, and the header says 1")
    return b"".join(fragments)


def _syntax_name(form: PixelFormat) -> str:
    from pydicom.uid import UID

    name = UID(form.syntax).name
    return "of an unknown name" if name == form.syntax else name  # never quote the file itself


def _through_pydicom(
    dataset: Dataset, form: PixelFormat, plugin: str, *, masked: bool = True
) -> npt.NDArray[Any]:
    """Let pydicom decode; `masked` clears all but the lowest BitsStored bits."""
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    dataset.file_meta.TransferSyntaxUID = UID(form.syntax)
    pixels = pixel_array(dataset, decoding_plugin=plugin, correct_unused_bits=masked)
    if pixels.shape != (form.rows, form.columns, *([3] if form.samples == 3 else [])):
        raise RefusedPixelsError("the number of pixels is not that in the header")
    return pixels


def _check_frame(frame: bytes, form: PixelFormat) -> int:
    """Compare a compressed frame's header with the file's; return the bits of a sample.

    A decoder reserves the memory that the frame's own header asks for.
    """
    try:
        kinds, columns, rows, samples, bits = _read_frame_header(frame)
    except struct.error:
        raise RefusedPixelsError("the compressed pixels are truncated") from None
    if form.syntax not in kinds:
        raise RefusedPixelsError("the compressed pixels are of another kind than the header says")
    if (columns, rows) != (form.columns, form.rows):
        raise RefusedPixelsError(
            f"the compressed pixels are {columns} x {rows}, "
            f"and the header says {form.columns} x {form.rows}"
        )
    if samples != form.samples or not form.stored <= bits <= form.allocated:
        raise RefusedPixelsError(
            f"the compressed pixels have {samples} samples of {bits} bits, "
            f"and the header says {form.samples} of {form.stored}"
        )
    if form.is_shifted and bits != form.stored:
        raise RefusedPixelsError(form.shift)
    # One byte makes the length even, and some programs fill up blocks. JPEG 2000 ends like JPEG.
    if not frame[-1024:].rstrip(b"\0").endswith(b"\xff\xd9"):
        raise RefusedPixelsError("the compressed pixels are truncated (no end marker)")
    return bits


def _read_frame_header(frame: bytes) -> tuple[frozenset[str], int, int, int, int]:
    """Return syntaxes, columns, rows, samples and bits of a JPEG, JPEG-LS or JPEG 2000 frame."""
    damaged = RefusedPixelsError("the compressed pixels have a damaged header")
    # Some programs wrongly put a whole JP2 file around the codestream.
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096) if frame[:1] in (b"\xff", b"\0") else -1
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        samples, depth = struct.unpack_from(">HB", frame, start + 40)
        coding = frame.find(b"\xff\x52", start)
        if struct.unpack_from(">H", frame, coding + 6)[0] > _MAX_LAYERS:
            raise damaged
        _check_tiles(frame, start)
        return _JPEG_2000, right - left, bottom - top, samples, (depth & 0x7F) + 1
    if not frame.startswith(b"\xff\xd8"):
        raise RefusedPixelsError("the compressed pixels are of no known kind")
    for marker, body in read_segments(frame):
        if marker in _FRAME_MARKERS:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", body)
            return _FRAME_MARKERS[marker], columns, rows, samples, bits
    raise damaged


def _check_tiles(frame: bytes, start: int) -> None:
    """Count the tiles of JPEG 2000 data, and refuse holes: decoders are silent about both."""
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", frame, start + 8)
    expected = -(-(right - left) // width) * -(-(bottom - top) // height)
    tiles: set[int] = set()
    position = frame.find(b"\xff\x90\x00\x0a", start)
    while position >= 0 and frame.startswith(b"\xff\x90", position):
        tile, length = struct.unpack_from(">HI", frame, position + 4)
        tiles.add(tile)
        packets = frame.find(b"\xff\x93", position) + 2
        end = position + length if length else frame.rfind(b"\xff\xd9")
        if _NO_PACKET.search(frame, packets, end) or frame.find(_HOLE, packets, end) >= 0:
            raise RefusedPixelsError("the compressed pixels are truncated or damaged")
        position += max(length, 14)
        if not length:  # the last, which ends where the data ends
            break
    else:
        if position < 0 or not frame.startswith(b"\xff\xd9", position):
            raise RefusedPixelsError("the compressed pixels are truncated or damaged")
    if len(tiles) != expected:
        raise RefusedPixelsError(f"the compressed pixels have {len(tiles)} of {expected} tiles")


def _check_lossless_jpeg(frame: bytes, form: PixelFormat, bits: int) -> None:
    """Have libjpeg-turbo read a frame in strict mode: its warnings are errors.

    GDCM aborts the process on some damaged headers. libjpeg-turbo decodes 8 bits, but reads the
    headers of all.
    """
    try:
        simplejpeg.decode_jpeg_header(frame)
        if bits <= 8:
            simplejpeg.decode_jpeg(frame, colorspace="GRAY" if form.samples == 1 else "RGB")
    except ValueError:
        raise RefusedPixelsError("the compressed pixels are truncated or damaged") from None


@contextmanager
def _refusing_what_is_printed() -> Iterator[None]:
    """Refuse pixels of which GDCM's libjpeg prints a warning, which is the only way to hear it.

    Hold it within `quiet_pydicom()`, so that threads take turns. What other threads print meanwhile
    comes a moment later. A pipe holds it, because a server's worker can write no file. What does
    not fit into the pipe, 64 KiB on Linux, is lost.
    """
    read_end, write_end = os.pipe()
    with suppress(AttributeError):  # Windows before Python 3.12
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
    with os.fdopen(read_end, "rb", buffering=0) as printed:
        kept = os.dup(2)
        os.dup2(write_end, 2)
        os.close(write_end)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            lines = (printed.readall() or b"").splitlines(keepends=True)
            warned = [line for line in lines if b"JPEG" in line]
            os.write(2, b"".join(line for line in lines if line not in warned))
    if warned:
        raise RefusedPixelsError("the compressed pixels are truncated or damaged")


def _decode_rle(frame: bytes, form: PixelFormat) -> npt.NDArray[Any]:
    """Decode run-length coded pixels (PS3.5, annex G), one byte plane after the other.

    Pillow's decoder of the same code stops at the planes' size. pydicom's would decode whatever is
    in the file, up to 64 times its size.
    """
    width = form.allocated // 8
    count, *offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[:count], len(frame)]
    if not width or count != form.samples * width or ends != sorted(ends) or ends[0] < 64:
        raise RefusedPixelsError("the run-length coded pixels have a damaged header")
    size = (form.rows * form.columns, 1)
    parts = [frame[start:end] for start, end in pairwise(ends)]
    try:
        planes = [np.asarray(Image.frombytes("L", size, part, "packbits", "L")) for part in parts]
    except ValueError:
        raise RefusedPixelsError("the run-length coded pixels are truncated") from None
    if any(has_more_packbits(part, size[0]) for part in parts):
        raise RefusedPixelsError("the run-length coded pixels are more than the header says")
    values = np.stack(planes).reshape(form.samples, width, form.rows, form.columns)
    # The most significant byte comes first.
    values = values.transpose(0, 2, 3, 1).copy().view(f">u{width}")[..., 0]
    values = values.astype(f"u{width}")
    return values[0] if form.samples == 1 else np.moveaxis(values, 0, -1)
