"""A PNG file inflated beforehand is decoded, or refused, as it would have been as it came."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.phantom.cohort import draw_hand
from boneage.radiographs import png_inflate as inflation
from boneage.radiographs.png_inflate import inflated

HAND = draw_hand(120, "F", rng=np.random.default_rng(0), size=96)
ROWS = b"".join(b"\0" + row.tobytes() for row in HAND)
PACKED = zlib.compress(ROWS, 9)
HEADER = struct.pack(">IIBBBBB", 96, 96, 8, 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("isal", reason="without isal files are left as they are")
    monkeypatch.setattr(inflation, "_LEAST", 1)


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*packed: bytes, header: bytes = HEADER, before: bytes = b"", after: bytes = b"") -> bytes:
    data = b"".join(chunk(b"IDAT", part) for part in packed)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + data + after + chunk(b"IEND")


def decoded(data: bytes) -> npt.NDArray[np.generic] | None:
    how = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    image: npt.NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    return image


def check_same(data: bytes, *, changed: bool) -> None:
    stored = inflated(data)
    assert (stored is not data) is changed
    before, after = decoded(data), decoded(stored)
    assert (before is None) is (after is None)
    if before is not None and after is not None:
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["grey", "deep", "colour", "alpha", "deep colour"])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_every_kind_of_pixels_stays_as_it_is(kind: str, level: int) -> None:
    deep = HAND.astype(np.uint16) * np.uint16(257)
    pictures = {
        "grey": HAND,
        "deep": deep,
        "colour": cv2.merge([HAND, HAND // 2, 255 - HAND]),
        "alpha": cv2.merge([HAND, HAND // 2, HAND, HAND]),
        "deep colour": cv2.merge([deep, deep // 2, deep]),
    }
    done, data = cv2.imencode(".png", pictures[kind], [cv2.IMWRITE_PNG_COMPRESSION, level])
    assert done
    check_same(bytes(data), changed=True)


def test_pixels_of_many_blocks_stay_as_they_are() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (700, 655), np.uint8)
    done, data = cv2.imencode(".png", noise)
    assert done
    stored = inflated(bytes(data))
    assert stored.count(b"IDAT") == 1
    check_same(bytes(data), changed=True)


def test_pieces_and_what_stands_around_them_stay_as_they_are() -> None:
    turned = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    check_same(png(PACKED[:99], b"", PACKED[99:]), changed=True)
    check_same(png(PACKED, before=chunk(b"eXIf", turned)), changed=True)
    check_same(png(PACKED, after=chunk(b"eXIf", turned) + chunk(b"tEXt", b"a\0b")), changed=True)
    check_same(png(PACKED, before=chunk(b"tRNS", b"\0\x04")), changed=True)
    palette = chunk(b"PLTE", bytes(range(256)) * 3)
    coloured = struct.pack(">IIBBBBB", 96, 96, 8, 3, 0, 0, 0)
    check_same(png(PACKED, header=coloured, before=palette), changed=True)
    text = chunk(b"tEXt", b"a\0b")
    between = png(PACKED[:99])[:-12] + text + png(PACKED[99:])[33:]
    check_same(between, changed=False)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(PACKED[:-4] + b"abcd", id="another checksum"),
        pytest.param(PACKED[:-4], id="no checksum"),
        pytest.param(PACKED[:-1], id="cut"),
        pytest.param(PACKED[: len(PACKED) // 2], id="cut in the middle"),
        pytest.param(PACKED[2:], id="no header"),
        pytest.param(b"nonsense", id="nonsense"),
        pytest.param(b"", id="nothing"),
        pytest.param(zlib.compress(ROWS[:-1]), id="a byte too few"),
        pytest.param(zlib.compress(ROWS + b"x"), id="a byte too many"),
        pytest.param(zlib.compress(ROWS + bytes(2**24)), id="a bomb"),
    ],
)
def test_what_is_not_as_usual_is_left_to_opencv(packed: bytes) -> None:
    check_same(png(packed), changed=False)


def test_bits_that_fell_over_come_to_the_same() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        broken = bytearray(PACKED)
        for place in rng.integers(len(broken), size=rng.integers(1, 3)):
            broken[place] ^= 1 << int(rng.integers(8))
        data = png(bytes(broken))
        before, after = decoded(data), decoded(inflated(data))
        assert (before is None) is (after is None)
        assert before is None or np.array_equal(before, after)


def test_a_filter_that_there_is_not_is_refused_still() -> None:
    data = png(zlib.compress(b"\x09" + ROWS[1:]))
    assert decoded(data) is None
    assert decoded(inflated(data)) is None


def test_other_files_and_small_ones_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    interlaced = struct.pack(">IIBBBBB", 96, 96, 8, 0, 0, 0, 1)
    for data in (b"", b"\x89PNG\r\n\x1a\n", png(PACKED)[:33], png(PACKED, header=interlaced)):
        assert inflated(data) is data
    done, jpeg = cv2.imencode(".jpg", HAND)
    assert done
    assert inflated(bytes(jpeg)) == bytes(jpeg)
    whole = png(PACKED)
    monkeypatch.setattr(inflation, "_MOST", 9000)
    assert inflated(whole) is whole


def test_without_isal_files_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflation, "isal_zlib", None)
    whole = png(PACKED)
    assert inflated(whole) is whole
