from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from boneage.errors import InputError
from boneage.radiographs.reader import read_dimensions, read_radiograph
from boneage.radiographs.tiff import has_more_packbits

IMAGE = np.asarray(
    cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 60), np.uint8), (0, 0), 2),
    np.uint8,
)
COMPRESSIONS = [None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"]


def encode(image: npt.NDArray[np.uint8], compression: str | None, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "TIFF", compression=compression, **options)
    return out.getvalue()


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """The same little-endian file with another value of a tag."""
    position = struct.unpack_from("<I", data, 4)[0]
    for at in range(
        position + 2, position + 2 + 12 * struct.unpack_from("<H", data, position)[0], 12
    ):
        if struct.unpack_from("<H", data, at)[0] == tag:
            kind = "<H" if struct.unpack_from("<H", data, at + 2)[0] == 3 else "<I"
            return data[: at + 8] + struct.pack(kind, value).ljust(4, b"\0") + data[at + 12 :]
    raise AssertionError(tag)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("tags", [{}, {278: 16}, {278: 7}])
@pytest.mark.parametrize("is_colour", [False, True])
def test_strips_of_every_kind_are_read(
    tmp_path: Path, compression: str | None, tags: dict[int, int], is_colour: bool
) -> None:
    image = np.dstack([IMAGE] * 3) if is_colour else IMAGE
    rows = {278: 16} if tags and compression == "jpeg" else tags  # JPEG blocks have 8 rows
    path = tmp_path / "radiograph.tif"
    path.write_bytes(encode(image, compression, tiffinfo=rows))
    assert np.abs(read_radiograph(path).astype(int) - IMAGE).max() <= (
        9 if compression == "jpeg" else 0
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("height", [45, 80, 100, 180])
def test_a_height_that_is_not_that_of_the_pixels_is_refused(
    tmp_path: Path, compression: str | None, height: int
) -> None:
    if compression == "tiff_lzw" and height < 90:
        pytest.skip("libtiff does not say how many rows a strip of LZW holds beyond these")
    path = tmp_path / "radiograph.tif"
    path.write_bytes(with_tag(encode(IMAGE, compression), 257, height))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_radiograph(path)


def test_fewer_strips_than_the_height_asks_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "radiograph.tif"
    data = encode(IMAGE, "tiff_adobe_deflate", tiffinfo={278: 30})
    for rows in (15, 60):
        path.write_bytes(with_tag(data, 278, rows))
        with pytest.raises(InputError, match="it has 3 strips"):
            read_radiograph(path)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compression_is_refused(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "radiograph.tif"
    Image.fromarray(IMAGE).convert("1").save(path, compression=compression)
    with pytest.raises(InputError, match="compression [234] of the TIFF file is not supported"):
        read_radiograph(path)


def test_packbits_are_counted() -> None:
    data = bytes([9]) + bytes(10) + bytes([255 - 7, 7]) + bytes([128])  # ten bytes, then nine
    assert has_more_packbits(data, 18)
    assert not has_more_packbits(data, 19)
    assert not has_more_packbits(data[:-1] + bytes(100), 19)  # padding


@pytest.mark.parametrize("bit", [1, 8, 64])
def test_a_changed_run_of_packbits_is_refused(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "radiograph.tif"
    ramp = np.add.outer(np.arange(90) // 2 + 150, np.arange(80) // 2).astype(np.uint8)
    Image.fromarray(ramp).save(path, compression="packbits")
    with Image.open(path) as image:
        first = image.tag_v2[273][0]  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    assert read_radiograph(path).shape == (90, 80)
    data[first] ^= bit
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_radiograph(path)


def directory(entries: int, values: int, following: int = 0) -> bytes:
    """A BigTIFF file of one directory whose entries share their values."""
    body = b"".join(struct.pack("<HHQQ", 40_000 + i % 9000, 12, values, 8) for i in range(entries))
    start = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, entries)
    return start + body + struct.pack("<Q", following)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (directory(250_000, 1), "truncated or damaged"),
        (directory(900, 60_000), "truncated or damaged"),
        (directory(3, 1, following=16), "a directory has no end"),
        (directory(3, 1, following=10**9), "a directory has no end"),
        (directory(3, 1)[:-9], "a directory has no end"),
        (directory(3, 1)[:9], "truncated or damaged"),
    ],
)
def test_directories_are_limited(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "radiograph.tif"
    path.write_bytes(data)
    for read in (read_radiograph, read_dimensions):
        with pytest.raises(InputError, match=what):
            read(path)


def test_deflate_bombs_are_not_inflated(tmp_path: Path) -> None:
    data = encode(IMAGE, "tiff_adobe_deflate")
    bomb = zlib.compress(bytes(10**8))
    path = tmp_path / "radiograph.tif"
    path.write_bytes(with_tag(with_tag(data + bomb, 273, len(data)), 279, len(bomb)))
    with pytest.raises(InputError, match="too few or many pixels"):
        read_radiograph(path)


def test_a_last_strip_may_be_filled_up(tmp_path: Path) -> None:
    data = encode(IMAGE, "tiff_adobe_deflate", tiffinfo={278: 16})  # six strips, 96 rows
    path = tmp_path / "radiograph.tif"
    path.write_bytes(with_tag(data, 257, 85))
    assert np.array_equal(read_radiograph(path), IMAGE[:85])
    path.write_bytes(with_tag(data, 257, 80))
    with pytest.raises(InputError, match="it has 6 strips"):
        read_radiograph(path)
