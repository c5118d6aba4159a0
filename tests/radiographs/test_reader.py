from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.errors import InputError
from boneage.radiographs.reader import (
    LARGEST_PIXELS,
    LARGEST_SIDE,
    read_dimensions,
    read_radiograph,
)

SOFT = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # not compressed
FORMATS = {
    "png": (".png", []),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100]),
    "progressive jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpeg with restart markers": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
    "tiff": (".tiff", []),
    "uncompressed tiff": (".tif", SOFT),
    "bmp": (".bmp", []),
}
formats = pytest.mark.parametrize(("suffix", "options"), FORMATS.values(), ids=FORMATS)


@pytest.fixture(scope="module")
def radiograph() -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (90, 60), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def encode(image: npt.NDArray[np.generic], suffix: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done
    return bytes(data)


def write(folder: Path, data: bytes, suffix: str = ".png") -> Path:
    path = folder / f"film{suffix}"
    path.write_bytes(data)
    return path


@formats
def test_grey_is_read_as_it_is(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str, options: list[int]
) -> None:
    image = read_radiograph(write(tmp_path, encode(radiograph, suffix, options), suffix))
    assert image.dtype == np.uint8
    assert image.shape == (90, 60)
    assert np.abs(image.astype(int) - radiograph).max() <= (8 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_kept(radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str) -> None:
    deep = radiograph.astype(np.uint16) * 257 - radiograph
    image = read_radiograph(write(tmp_path, encode(deep, suffix, []), suffix))
    assert image.dtype == np.uint16
    assert np.array_equal(image, deep)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_is_turned_to_grey(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, channels: int
) -> None:
    image = read_radiograph(write(tmp_path, encode(np.dstack([radiograph] * channels), ".png", [])))
    assert np.array_equal(image, radiograph)


def test_a_photograph_is_turned_upright(radiograph: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    plain = encode(radiograph, ".jpg", [])
    directory = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0)  # orientation: turn right
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + directory + bytes(4)
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    image = read_radiograph(write(tmp_path, turned, ".jpg"))
    expected = read_radiograph(write(tmp_path, plain, ".jpg"))
    assert np.array_equal(image, np.rot90(expected, -1))


@formats
def test_every_truncation_is_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str, options: list[int]
) -> None:
    data = encode(radiograph, suffix, options)
    for length in [*range(0, len(data), len(data) // 60), len(data) - 1]:
        path = write(tmp_path, data[:length], suffix)
        with pytest.raises(InputError) as caught:
            read_radiograph(path)
        (fault,) = caught.value.faults
        assert fault.where == str(path)


def test_opencv_itself_would_have_said_nothing(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph, ".jpg", [])
    path = write(tmp_path, data[: len(data) // 2], ".jpg")
    assert cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) is not None
    with pytest.raises(InputError, match="truncated"):
        read_radiograph(path)


def test_a_thumbnail_inside_does_not_pass_for_the_end(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    plain = encode(radiograph, ".jpg", [])
    thumbnail = b"Exif\0\0" + plain  # it has an end marker of its own
    whole = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    assert read_radiograph(write(tmp_path, whole, ".jpg")).shape == radiograph.shape
    with pytest.raises(InputError, match="truncated"):
        read_radiograph(write(tmp_path, whole[:-10], ".jpg"))


def test_what_follows_the_end_does_no_harm(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    for suffix in (".png", ".jpg"):
        path = write(tmp_path, encode(radiograph, suffix, []) + bytes(700), suffix)
        assert read_radiograph(path).shape == radiograph.shape


def test_a_damaged_png_is_refused(radiograph: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = bytearray(encode(radiograph, ".png", []))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="damaged"):
        read_radiograph(write(tmp_path, bytes(data)))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<html>Too many requests</html>", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"BM", "truncated"),
        (b"II*\x00", "truncated"),
        (b"MM\x00*\xff\xff\xff\xff", "truncated"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_radiograph(write(tmp_path, data))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_radiograph(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="can't be read"):
        read_radiograph(tmp_path)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(LARGEST_SIDE + 1, 100), (100, 3), (0, 100)])
def test_absurd_dimensions_are_refused_before_decoding(
    tmp_path: Path, width: int, height: int
) -> None:
    with pytest.raises(InputError, match=f"{width} x {height} pixels"):
        read_radiograph(write(tmp_path, png(width, height, b"")))


def test_whole_chunks_with_nonsense_in_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be decoded"):
        read_radiograph(write(tmp_path, png(100, 100, b"nonsense")))


def test_floating_point_pixels_are_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph.astype(np.float32), ".tiff", [])
    with pytest.raises(InputError, match="floating point"):
        read_radiograph(write(tmp_path, data, ".tiff"))


def tiff(
    pixels: npt.NDArray[Any], *, order: str = "<", after: bytes = b"", **tags: int | list[int]
) -> bytes:
    """One uncompressed strip; `tags` are t258=8 and the like; `after` is a second directory."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    values: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * samples,
    }
    values |= {259: [1], 262: [1 if samples == 1 else 2], 277: [samples], 278: [height]}
    values |= {273: [0], 279: [len(body)]}
    for name, value in tags.items():
        values[int(name[1:])] = value if isinstance(value, list) else [value]
    start = 8 + 2 + 12 * len(values) + 4
    outside = b""
    long = {tag: len(value) > 2 for tag, value in values.items()}
    values[273] = [start + sum(2 * len(values[tag]) for tag in values if long[tag])]
    entries = b""
    for tag, value in sorted(values.items()):
        kind = "I" if tag in (273, 279) else "H"
        raw = struct.pack(f"{order}{len(value)}{kind}", *value)
        if long[tag]:
            place = struct.pack(order + "I", start + len(outside))
            outside, raw = outside + raw, place
        entries += struct.pack(order + "HHI", tag, 4 if kind == "I" else 3, len(value))
        entries += raw.ljust(4, b"\0")
    following = start + len(outside) + len(body) if after else 0
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(values))
    return head + entries + struct.pack(order + "I", following) + outside + body + after


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_tiff_radiographs_of_every_kind_are_read(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, order: str, depth: type[np.generic]
) -> None:
    top = np.iinfo(depth).max
    grey = radiograph.astype(depth) * depth(top // 255)
    rgb, clear = np.dstack([grey] * 3), np.full_like(grey, top // 3)
    kinds = {
        "grey": tiff(grey, order=order),
        "white is zero": tiff(top - grey, order=order, t262=0),
        "rgb": tiff(rgb, order=order),
        "rgba": tiff(np.dstack([rgb, clear]), order=order, t338=2),
        "rgba applied": tiff(np.dstack([rgb, clear]), order=order, t338=1),
    }
    if depth == np.uint8:
        ramp = [257 * level for level in range(256)]
        kinds["palette"] = tiff(255 - radiograph, order=order, t262=3, t320=ramp[::-1] * 3)
    for kind, data in kinds.items():
        image = read_radiograph(write(tmp_path, data, ".tif"))
        assert image.dtype == depth, kind
        assert np.array_equal(image, grey), kind


def test_one_bit_radiographs_are_black_and_white(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    white = radiograph > 128
    expected = np.where(white, 255, 0)
    for packed, zero in ((np.packbits(white, axis=1), 1), (np.packbits(~white, axis=1), 0)):
        data = tiff(packed, t256=radiograph.shape[1], t258=1, t262=zero)
        assert np.array_equal(read_radiograph(write(tmp_path, data, ".tif")), expected)
    data = encode(expected.astype(np.uint8), ".png", [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert np.array_equal(read_radiograph(write(tmp_path, data)), expected)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, np.fliplr),
        (3, lambda radiograph: np.rot90(radiograph, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda radiograph: np.rot90(radiograph, -1)),
        (7, lambda radiograph: np.rot90(radiograph, 2).T),
        (8, np.rot90),
    ],
)
def test_tiff_radiographs_are_turned_upright(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, orientation: int, turn: Any
) -> None:
    for pixels in (radiograph, radiograph * np.uint16(257)):
        path = write(tmp_path, tiff(pixels, t274=orientation), ".tif")
        image = read_radiograph(path)
        assert np.array_equal(image, turn(pixels))
        assert read_dimensions(path) == image.shape[::-1]


def test_a_png_with_exif_behind_its_pixels_is_turned_upright(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    plain = encode(radiograph, ".png", [])
    turn = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    path = write(tmp_path, plain[:-12] + chunk(b"eXIf", turn) + plain[-12:])
    assert np.array_equal(read_radiograph(path), np.rot90(radiograph, -1))
    assert read_dimensions(path) == (90, 60)


@pytest.mark.parametrize("packing", [5, 7, 8, 32773])
def test_compressed_tiff_radiographs_are_read(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, packing: int
) -> None:
    data = encode(radiograph, ".tif", [cv2.IMWRITE_TIFF_COMPRESSION, packing])
    image = read_radiograph(write(tmp_path, data, ".tif"))
    assert np.abs(image.astype(int) - radiograph).max() <= (12 if packing == 7 else 0)


def test_damage_in_a_deflated_tiff_radiograph_is_seen(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph, ".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    for place in range(100, len(data) // 2, 97):
        damaged = bytearray(data)
        damaged[place] ^= 4
        with pytest.raises(InputError, match="damaged"):
            read_radiograph(write(tmp_path, bytes(damaged), ".tif"))


def test_pages_are_refused_but_a_preview_is_not_a_page(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    def second(kind: int) -> bytes:
        return struct.pack("<HHHIII", 1, 254, 4, 1, kind, 0)

    preview = write(tmp_path, tiff(radiograph, after=second(1)), ".tif")
    assert np.array_equal(read_radiograph(preview), radiograph)
    pages = write(tmp_path, tiff(radiograph, after=second(0)), ".tif")
    with pytest.raises(InputError, match="2 pictures .a multi-page file.; .*one picture a file"):
        read_radiograph(pages)
    plain = encode(radiograph, ".png", [])
    animation = plain[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + plain[33:]
    with pytest.raises(InputError, match="several pictures"):
        read_radiograph(write(tmp_path, animation))


def test_more_pixels_than_a_radiograph_has_are_refused(tmp_path: Path) -> None:
    side = int(LARGEST_PIXELS**0.5) + 1
    path = write(tmp_path, png(side, side, b""))
    for read in (read_radiograph, read_dimensions):
        with pytest.raises(InputError, match="30 million pixels at most"):
            read(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (PNG + chunk(b"IHDR", bytes(13)) + chunk(b"teSt", b"") * 200_001, "chunks"),
        (b"\xff\xd8" + b"\xff\xfe\0\x02" * 30_000 + b"\xff\xd9", "segments"),
    ],
    ids=["png", "jpeg"],
)
def test_files_of_countless_empty_pieces_are_refused(
    tmp_path: Path, data: bytes, what: str
) -> None:
    for read in (read_radiograph, read_dimensions):
        with pytest.raises(InputError, match=what):
            read(write(tmp_path, data))
