from __future__ import annotations

import re
import struct

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.radiographs.file_limits import RefusedPixelsError
from boneage.radiographs.jpeg import decode_jpeg, frame_header, read_segments

PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (90, 60), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


def encode(image: npt.NDArray[np.uint8], options: list[int]) -> bytes:
    return bytes(cv2.imencode(".jpg", image, options)[1])


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(body) + 2) + body


@pytest.mark.parametrize("options", [[], PROGRESSIVE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
def test_data_is_decoded_as_opencv_does(image: npt.NDArray[np.uint8], options: list[int]) -> None:
    data = encode(image, options)
    assert np.array_equal(decode_jpeg(data)[:, :, 0], cv2.imdecode(np.frombuffer(data, "u1"), 0))
    assert frame_header(read_segments(data))[:2] == (60, 90)


def test_every_missing_scan_is_noticed(image: npt.NDArray[np.uint8]) -> None:
    data = encode(image, PROGRESSIVE)
    scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 4
    for start in scans[1:]:
        cut = data[: data.rfind(b"\xff\xc4", 0, start)] + b"\xff\xd9"
        with pytest.raises(RefusedPixelsError, match="scans are missing|truncated"):
            decode_jpeg(cut)


def test_metadata_and_a_video_behind_the_end_are_no_scans(image: npt.NDArray[np.uint8]) -> None:
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    for options in ([], PROGRESSIVE):
        data = encode(image, options)
        padded = data[:2] + segment(0xE1, scan * 100) + data[2:] + scan * 100
        assert np.array_equal(decode_jpeg(padded), decode_jpeg(data))
    missing = data[: data.rfind(b"\xff\xc4")] + b"\xff\xd9"  # nor do they replace a scan
    with pytest.raises(RefusedPixelsError, match="scans are missing"):
        decode_jpeg(missing[:2] + segment(0xE1, scan) + missing[2:])


def test_a_height_below_that_of_the_pixels_is_refused(image: npt.NDArray[np.uint8]) -> None:
    data = encode(image, [])
    at = data.index(b"\xff\xc0") + 5
    for height in (16, 40, 200):
        with pytest.raises(RefusedPixelsError, match="truncated or damaged"):
            decode_jpeg(data[:at] + struct.pack(">H", height) + data[at + 2 :])


@pytest.mark.parametrize(
    ("inserted", "what"),
    [
        (segment(0xFE, b"") * 100_000, "more than 500 segments"),
        (segment(0xE1, b"Exif\0\0") * 501, "more than 500 segments"),
        (b"\xff" * 100_000, "header is cut"),
        (b"\xff\xd0" * 100_000, "header is cut"),
    ],
)
def test_endless_headers_are_refused(
    image: npt.NDArray[np.uint8], inserted: bytes, what: str
) -> None:
    data = encode(image, [])
    with pytest.raises(RefusedPixelsError, match=what):
        decode_jpeg(data[:2] + inserted + data[2:])


def test_large_comments_do_no_harm(image: npt.NDArray[np.uint8]) -> None:
    data = encode(image, [])
    commented = data[:2] + segment(0xFE, bytes(65_000)) * 100 + data[2:]
    assert np.array_equal(decode_jpeg(commented), decode_jpeg(data))
