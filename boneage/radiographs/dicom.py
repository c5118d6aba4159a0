"""DICOM files: telling them, opening them, and making grey pixels of them.

No value of a header gets into a message from here, because it may identify a person; what pydicom
itself would say about a header's values is silenced for the same reason.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from boneage.errors import Fault, InputError
from boneage.radiographs.file_structure import LARGEST_FILE, open_regular

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataelem import RawDataElement

_PREAMBLE = 128
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNDEFINED = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"

# Files without preamble: group 2 or 8 in little endian, then a value representation and a length
# (explicit), or a short length (implicit).
_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".dic", ".ima"})
_UID_NAME = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_BARE_START = re.compile(
    rb"(\x02\x00|\x08\x00).[\x00-\x02](AE|CS|DA|DT|IS|LO|OB|PN|SH|SQ|TM|UI|UL|UN|US|.\x00\x00\x00)",
    re.DOTALL,
)

# Whatever pydicom's parsing of a hostile header has been seen to end in.
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

# A radiograph's header takes some hundreds of reads, its pixels one a fragment or one in 8 kB; a
# file of millions of empty elements would take minutes and gigabytes.
_MOST_READS = 200_000

_SILENCE = threading.RLock()


class _CountedReads:
    """A stream that ends with an error after so many reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _MOST_READS
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many reads")
        return self._stream.read(size)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silences pydicom's warnings and log lines, which quote values of the header.

    To be held wherever a value of a dataset is read, because that is when pydicom converts it.
    Python's warning filters belong to the whole process, so threads take turns; pydicom's
    parsing holds the interpreter anyway.

    Raises:
        ValueError: What pydicom raises as errors of its own kinds, which quote values, too.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    logger = logging.getLogger("pydicom")
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        except (BytesLengthException, InvalidDicomError):
            raise ValueError("the header is damaged") from None
        finally:
            logger.disabled = before


def is_dicom(start: bytes, path: Path) -> bool:
    """Tells a DICOM file by its first bytes; without a preamble its name must be one of DICOM's.

    Args:
        start: The first 132 bytes of the file, or more.
        path: Its name; only looked at when the preamble is missing.
    """
    if start[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    named = path.suffix.lower() in _SUFFIXES or _UID_NAME.fullmatch(path.name) is not None
    return named and _BARE_START.match(start) is not None


def open_dicom(path: str | Path, *, pixels: bool = True) -> Dataset:
    """Reads a DICOM file that holds pixels.

    Args:
        path: The file.
        pixels: Whether to read the pixels, too; without them a large file costs no more than its
            header. That the file is whole is checked either way, as far as it can be.

    Returns:
        The dataset, with `file_meta`. Read its values within `quiet_pydicom()`.

    Raises:
        InputError: The file is missing, can't be read, is not DICOM, holds no pixels (a report or
            a DICOMDIR, say), or is truncated.
    """
    path = Path(path)
    with open_regular(path) as file:
        start = file.read(_PREAMBLE + 4)
        if not is_dicom(start, path):
            raise InputError(dicom_fault(path, "it is not a DICOM file"))
        file.seek(0)
        stream = file if not pixels else io.BytesIO(file.read())
        return read_dataset(stream, path, pixels=pixels)


def read_dataset(stream: BinaryIO, path: Path, *, pixels: bool) -> Dataset:
    """Does what `open_dicom` does, from an open stream that `is_dicom`.

    Args:
        stream: The file's bytes; `read` gives what there is, however much more is asked for.
        path: The name for the messages.
        pixels: Whether to read the pixels, too.
    """
    from pydicom.filereader import read_partial

    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    found: list[int] = []

    def stop(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            found.append(length)
        return bool(found) and not pixels

    try:
        with quiet_pydicom():
            deflated = _is_deflated(stream)
            dataset = read_partial(cast(BinaryIO, _CountedReads(stream)), stop, force=True)
            elements = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118
            whole = all(_is_whole(element, None if deflated else size) for element in elements)
    except PARSING_ERRORS:
        raise InputError(dicom_fault(path, "its header can't be read")) from None
    if not found and whole:
        raise InputError(dicom_fault(path, "it holds no pixels (truncated, or no picture)"))
    missing = pixels and not any(tag in dataset for tag in _PIXEL_TAGS)
    beyond = not deflated and found and size < found[0] != _UNDEFINED
    if missing or beyond or not whole:
        raise InputError(dicom_fault(path, f"the file is truncated ({size} bytes)"))
    return dataset


def _is_whole(element: RawDataElement | DataElement, size: int | None) -> bool:
    """Whether an element's value, and the delimiter behind it, lie within `size` bytes."""
    from pydicom.dataelem import RawDataElement

    if not isinstance(element, RawDataElement):
        return True  # a sequence, already taken apart
    held = len(element.value or b"")
    if element.length != _UNDEFINED:
        return held >= element.length
    return size is None or element.value_tell + held + 8 <= size


def _is_deflated(stream: BinaryIO) -> bool:
    """Whether the dataset is deflated; one that unfolds to more than a file may hold is an error.

    Raises:
        ValueError: It is truncated, or too large.
    """
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(stream, force=True)
    meta = _read_file_meta_info(stream)
    deflated = str(meta.get("TransferSyntaxUID", "")) == _DEFLATED
    if deflated:
        unfolder = zlib.decompressobj(-zlib.MAX_WBITS)
        unfolder.decompress(stream.read(), LARGEST_FILE)
        if not unfolder.eof:
            raise ValueError("truncated or too large")
    stream.seek(0)
    return deflated


def dicom_fault(path: Path, what: str) -> Fault:
    """Says what is wrong with a DICOM file; `what` quotes nothing that may tell a person."""
    return Fault(
        str(path),
        what,
        "Fetch or export it again.",
        expected="a whole DICOM file that holds a picture",
    )
