from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.radiographs.file_limits import RefusedPixelsError
from boneage.radiographs.png import SIGNATURE, read_png

IMAGE = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def encode(image: npt.NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def test_only_the_chunks_of_the_pixels_are_kept() -> None:
    plain = encode(IMAGE)
    bomb = zlib.compress(bytes(10**6))
    others = [
        *(chunk(b"tEXt", b"k\0value"), chunk(b"zTXt", b"k\0\0" + bomb)),
        *(chunk(b"iTXt", b"k\0\1\0\0\0" + bomb), chunk(b"iCCP", b"k\0\0" + bomb)),
        *(chunk(b"gAMA", bytes(4)), chunk(b"teSt", b"")),
    ]
    data = plain[:33] + b"".join(others) * 1000 + plain[33:]
    assert read_png(io.BytesIO(data), pixels=True) == (plain, b"")


def test_exif_is_returned_and_limited() -> None:
    plain = encode(IMAGE)
    found = read_png(io.BytesIO(plain[:33] + chunk(b"eXIf", b"MM") + plain[33:]), pixels=False)[1]
    assert found == b"MM"
    large = plain[:33] + chunk(b"eXIf", bytes(70_000)) + plain[33:]
    with pytest.raises(RefusedPixelsError, match="EXIF data has more than 65,536 bytes"):
        read_png(io.BytesIO(large), pixels=True)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encode(IMAGE)[:-12], "truncated"),
        (encode(IMAGE)[:33] + chunk(b"teSt", b"") * 40_001, "more than 40,000 chunks"),
        (encode(IMAGE)[:33] + chunk(b"TEST", b"") + encode(IMAGE)[33:], "b'TEST' is not supported"),
        (encode(IMAGE)[:33] + b"\0\0\0\0teSt1234" + encode(IMAGE)[33:], "checksum of teSt"),
        (SIGNATURE + chunk(b"acTL", struct.pack(">II", 2, 0)), "several images"),
    ],
)
def test_faulty_files_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(RefusedPixelsError, match=what):
        read_png(io.BytesIO(data), pixels=True)
