from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.errors import InputError
from boneage.pipeline.radiograph import LARGEST_SIDE, read_radiograph

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
def film() -> npt.NDArray[np.uint8]:
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
    film: npt.NDArray[np.uint8], tmp_path: Path, suffix: str, options: list[int]
) -> None:
    image = read_radiograph(write(tmp_path, encode(film, suffix, options), suffix))
    assert image.dtype == np.uint8
    assert image.shape == (90, 60)
    assert np.abs(image.astype(int) - film).max() <= (8 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_kept(film: npt.NDArray[np.uint8], tmp_path: Path, suffix: str) -> None:
    deep = film.astype(np.uint16) * 257 - film
    image = read_radiograph(write(tmp_path, encode(deep, suffix, []), suffix))
    assert image.dtype == np.uint16
    assert np.array_equal(image, deep)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_is_turned_to_grey(
    film: npt.NDArray[np.uint8], tmp_path: Path, channels: int
) -> None:
    image = read_radiograph(write(tmp_path, encode(np.dstack([film] * channels), ".png", [])))
    assert np.array_equal(image, film)


def test_a_photograph_is_turned_upright(film: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    plain = encode(film, ".jpg", [])
    directory = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0)  # orientation: turn right
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + directory + bytes(4)
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    image = read_radiograph(write(tmp_path, turned, ".jpg"))
    expected = read_radiograph(write(tmp_path, plain, ".jpg"))
    assert np.array_equal(image, np.rot90(expected, -1))


@formats
def test_every_truncation_is_refused(
    film: npt.NDArray[np.uint8], tmp_path: Path, suffix: str, options: list[int]
) -> None:
    data = encode(film, suffix, options)
    for length in [*range(0, len(data), len(data) // 60), len(data) - 1]:
        path = write(tmp_path, data[:length], suffix)
        with pytest.raises(InputError) as caught:
            read_radiograph(path)
        (fault,) = caught.value.faults
        assert fault.where == str(path)


def test_opencv_itself_would_have_said_nothing(film: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = encode(film, ".jpg", [])
    path = write(tmp_path, data[: len(data) // 2], ".jpg")
    assert cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) is not None
    with pytest.raises(InputError, match="truncated"):
        read_radiograph(path)


def test_a_thumbnail_inside_does_not_pass_for_the_end(
    film: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    plain = encode(film, ".jpg", [])
    thumbnail = b"Exif\0\0" + plain  # it has an end marker of its own
    whole = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    assert read_radiograph(write(tmp_path, whole, ".jpg")).shape == film.shape
    with pytest.raises(InputError, match="truncated"):
        read_radiograph(write(tmp_path, whole[:-10], ".jpg"))


def test_what_follows_the_end_does_no_harm(film: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        path = write(tmp_path, encode(film, suffix, []) + bytes(700), suffix)
        assert read_radiograph(path).shape == film.shape


def test_a_damaged_png_is_refused(film: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = bytearray(encode(film, ".png", []))
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


def test_floating_point_pixels_are_refused(film: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    data = encode(film.astype(np.float32), ".tiff", [])
    with pytest.raises(InputError, match="floating point"):
        read_radiograph(write(tmp_path, data, ".tiff"))
