"""JPEG data, of a file or inside TIFF and DICOM: its segments, and decoding in strict mode."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import simplejpeg

from boneage.radiographs.file_limits import RefusedPixelsError

_MAX_SEGMENTS = 500  # before the pixels; a colour profile has 255 at most
_MAX_SCANS = 25  # each scan of a progressive JPEG runs over the whole image; encoders write ten
_SEGMENT = re.compile(rb"\xff{1,16}([\xc0-\xcf\xda-\xfe])(..)", re.DOTALL)
_SCAN = b"\xff\xda"
_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # between the markers of frames, 0xC0 to 0xCF


def read_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and content of the segments before the pixels, then the first scan's marker.

    The content of the last is all scans, without metadata and what follows the end.

    Raises:
        RefusedPixelsError: The data is damaged, or has unreasonably many segments.
    """
    found: list[tuple[int, bytes]] = []
    position = 2
    for _ in range(_MAX_SEGMENTS):
        match = _SEGMENT.match(data, position)
        if match is None:
            raise RefusedPixelsError("the JPEG data is truncated or damaged: its header is cut")
        position = match.end() - 2 + int.from_bytes(match[2], "big")
        if match[1] == _SCAN[1:]:
            scans = data[match.start() : data.find(b"\xff\xd9", position)]
            return [*found, (match[1][0], scans)]
        found.append((match[1][0], data[match.end() : position]))
    raise RefusedPixelsError(f"the JPEG data has more than {_MAX_SEGMENTS} segments")


def frame_header(segments: list[tuple[int, bytes]]) -> tuple[int, int, bytes]:
    """Return width, height and component identifiers.

    Raises:
        RefusedPixelsError: The data is damaged.
    """
    for marker, body in segments:
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES and len(body) >= 9:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return width, height, body[6::3]
    raise RefusedPixelsError("the JPEG data is truncated or damaged: it has no frame")


def decode_jpeg(data: bytes, colorspace: str = "GRAY") -> npt.NDArray[np.uint8]:
    """Decode to `(h, w, c)` with libjpeg-turbo in strict mode: its warnings are errors.

    Raises:
        RefusedPixelsError: The data is truncated or damaged.
    """
    segments = read_segments(data)
    _check_scans(segments[-1][1], frame_header(segments)[2])
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace), np.uint8)
    except ValueError as error:
        raise RefusedPixelsError(f"the JPEG data is truncated or damaged ({error})") from None


def _check_scans(data: bytes, components: bytes) -> None:
    """Refuse scans without all coefficients: a decoder would show a blurred image.

    Raises:
        RefusedPixelsError: Scans are missing, or there are unreasonably many.
    """
    if data.count(_SCAN) > _MAX_SCANS:
        raise RefusedPixelsError(f"the JPEG data is damaged: it has more than {_MAX_SCANS} scans")
    sent: dict[int, set[int]] = {component: set() for component in components}
    for start in (match.end() + 2 for match in re.finditer(_SCAN, data)):
        number = data[start] if start < len(data) else 0
        first, last, bits = data[start + 1 + 2 * number :][:3].ljust(3, b"\xff")
        for component in data[start + 1 : start + 1 + 2 * number : 2]:
            if component in sent and not bits & 15:  # the lowest bits come last
                sent[component].update(range(first, min(last, 63) + 1))
    if any(len(coefficients) < 64 for coefficients in sent.values()):
        raise RefusedPixelsError("the JPEG data is truncated: scans are missing")
