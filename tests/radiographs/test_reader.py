from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import InputError
from boneage.radiographs import reader
from boneage.radiographs.reader import LARGEST_SIDE, read_dimensions, read_radiograph

CASES = Path(__file__).parents[3] / "shared" / "cases" / "hostile"
PNG = b"\x89PNG\r\n\x1a\n"
FORMATS = {
    "png": (".png", []),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100]),
    "progressive jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpeg with restart markers": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]),
    "uncompressed tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    "lzw tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
    "jpeg tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 7]),
    "deflate tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
    "packbits tiff": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 32773]),
    "bmp": (".bmp", []),
}
formats = pytest.mark.parametrize(("suffix", "options"), FORMATS.values(), ids=FORMATS)
TURNS: dict[int, Any] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).T,
    8: np.rot90,
}


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
    path = folder / f"radiograph{suffix}"
    path.write_bytes(data)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@formats
def test_grey_is_read_as_it_is(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str, options: list[int]
) -> None:
    # The suffix is wrong on purpose: the content decides.
    image = read_radiograph(write(tmp_path, encode(radiograph, suffix, options), ".dat"))
    assert image.dtype == np.uint8
    assert image.shape == (90, 60)
    is_lossy = suffix == ".jpg" or 7 in options
    assert np.abs(image.astype(int) - radiograph).max() <= (12 if is_lossy else 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_kept(radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str) -> None:
    deep = radiograph.astype(np.uint16) * 257 - radiograph
    for pixels in (deep, np.dstack([deep] * 3)):
        image = read_radiograph(write(tmp_path, encode(pixels, suffix, []), suffix))
        assert image.dtype == np.uint16
        assert np.array_equal(image, deep)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_other_modes_become_grey(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, mode: str, kind: str
) -> None:
    image = Image.fromarray(radiograph)
    expected = radiograph if mode != "1" else np.where(radiograph > 128, 255, 0)
    if kind == "BMP" and mode == "LA":
        pytest.skip("BMP has no such mode")
    made = Image.fromarray(expected.astype(np.uint8)).convert(mode)
    if "A" in mode:
        made.putalpha(image.point(lambda level: level // 2))
    made.save(tmp_path / "radiograph", kind)
    assert np.array_equal(read_radiograph(tmp_path / "radiograph"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_radiographs_are_turned_upright(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, kind: str, orientation: int
) -> None:
    exif, path = Image.Exif(), tmp_path / "radiograph"
    image = Image.fromarray(radiograph)
    image.save(path, kind)
    plain = read_radiograph(path)
    exif[0x0112] = orientation
    image.save(path, kind, exif=exif)
    turned = read_radiograph(path)
    assert np.array_equal(turned, TURNS[orientation](plain))
    assert read_dimensions(path) == turned.shape[::-1]


def test_a_png_with_exif_behind_its_pixels_is_turned_upright(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    plain = encode(radiograph, ".png", [])
    turn = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + bytes(4)
    path = write(tmp_path, plain[:-12] + chunk(b"eXIf", turn) + plain[-12:])
    assert np.array_equal(read_radiograph(path), np.rot90(radiograph, -1))
    assert read_dimensions(path) == (90, 60)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the cases, which are not in the repository")
@pytest.mark.parametrize("case", ["02", "03", "04"])
def test_what_a_decoder_warns_of_is_refused(case: str) -> None:
    (folder,) = CASES.glob(f"{case}-*")
    files = [path for path in folder.iterdir() if path.suffix != ".md"]
    assert len(files) >= 2
    for path in files:
        with pytest.raises(InputError, match="truncated|damaged"):
            read_radiograph(path)


def test_half_a_jpeg_with_an_end_marker_is_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph, ".jpg", [])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_radiograph(write(tmp_path, data[: len(data) // 2] + b"\xff\xd9", ".jpg"))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_behind_the_end_do_no_harm(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path, encode(radiograph, suffix, []) + bytes(700), suffix)
    assert read_radiograph(path).shape == radiograph.shape


def test_a_bmp_of_more_rows_than_its_header_says_is_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph, ".bmp", [])
    height = 22  # its place in the header
    for size in (data[34:38], bytes(4)):
        fewer = data[:height] + struct.pack("<i", 80) + data[height + 4 : 34] + size + data[38:]
        with pytest.raises(InputError, match="more pixels than its header says"):
            read_radiograph(write(tmp_path, fewer, ".bmp"))
    profile = data + bytes(5000)
    stated = profile[:34] + struct.pack("<I", 90 * 60) + profile[38:]
    assert np.array_equal(read_radiograph(write(tmp_path, stated, ".bmp")), radiograph)


def test_damage_to_deflated_pixels_is_seen(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    for suffix, options in (FORMATS["png"], FORMATS["deflate tiff"]):
        data = encode(radiograph, suffix, options)
        for position in range(100, len(data) // 2, 97):
            damaged = bytearray(data)
            damaged[position] ^= 4
            with pytest.raises(InputError, match="damaged"):
                read_radiograph(write(tmp_path, bytes(damaged), suffix))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<html>Too many requests</html>", "not a supported image"),
        (PNG, "truncated"),
        (png(LARGEST_SIDE + 1, 100, b""), f"{LARGEST_SIDE + 1} x 100 pixels"),
        (png(100, 3, b""), "100 x 3 pixels"),
        (png(6000, 6000, b""), "30 million pixels at most"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    for read in (read_radiograph, read_dimensions):
        with pytest.raises(InputError, match=what):
            read(write(tmp_path, data))


def tiff(
    pixels: npt.NDArray[Any],
    *,
    order: str = "<",
    after: bytes = b"",
    following: int = 0,
    **tags: int | list[int],
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
            position = struct.pack(order + "I", start + len(outside))
            outside, raw = outside + raw, position
        entries += struct.pack(order + "HHI", tag, 4 if kind == "I" else 3, len(value))
        entries += raw.ljust(4, b"\0")
    following = start + len(outside) + len(body) if after else following
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
    for kind, data in kinds.items():
        image = read_radiograph(write(tmp_path, data, ".tif"))
        assert image.dtype == depth, kind
        assert np.array_equal(image, grey), kind


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [0, 1])
def test_12_bits_are_read(tmp_path: Path, order: str, white: int) -> None:
    levels = np.arange(64 * 64).reshape(64, 64)
    stored = levels if white else 4095 - levels
    first, second = stored[:, ::2], stored[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2)
    data = tiff(packed.astype(np.uint8).reshape(64, 96), order=order, t256=64, t258=12, t262=white)
    assert np.array_equal(read_radiograph(write(tmp_path, data, ".tif")), levels)


def test_a_tiff_of_unknown_polarity_is_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    unknown = tiff(radiograph).replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 263, 3))
    with pytest.raises(InputError, match="PhotometricInterpretation"):
        read_radiograph(write(tmp_path, unknown, ".tif"))


def test_floating_point_and_signed_pixels_are_refused(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    data = encode(radiograph.astype(np.float32), ".tiff", [])
    for content in (data, tiff(radiograph, t339=2), tiff(radiograph.astype(np.int16), t339=2)):
        with pytest.raises(InputError, match="signed or floating point"):
            read_radiograph(write(tmp_path, content, ".tif"))


def test_pages_are_refused_but_a_preview_is_not_a_page(
    radiograph: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    def second(kind: int) -> bytes:
        return struct.pack("<HHHIII", 1, 254, 4, 1, kind, 0)

    preview = write(tmp_path, tiff(radiograph, after=second(1)), ".tif")
    assert np.array_equal(read_radiograph(preview), radiograph)
    pages = write(tmp_path, tiff(radiograph, after=second(0)), ".tif")
    with pytest.raises(InputError, match="several pages.*Save it as a grey PNG"):
        read_radiograph(pages)
    frames = io.BytesIO()
    image = Image.fromarray(radiograph)
    image.save(frames, "PNG", save_all=True, append_images=[image.transpose(0)])
    with pytest.raises(InputError, match="several images"):
        read_radiograph(write(tmp_path, frames.getvalue()))


# Files that are damaged, truncated, forged or no images, read in one process. It may spend 5 s of
# its own time on each file, and never take more than 1 GB of memory.
SIDE = 96
READER = """
import json, resource, signal, sys
from pathlib import Path
from boneage.errors import InputError
from boneage.radiographs.reader import read_dimensions, read_radiograph

def outcome(read, path):
    try:
        result = read(path)
    except InputError as error:
        return str(error)
    return list(getattr(result, "shape", result))

for line in sys.stdin:
    path = Path(json.loads(line))
    signal.setitimer(signal.ITIMER_PROF, 5)
    found = [outcome(read_radiograph, path), outcome(read_dimensions, path)]
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(found), flush=True)
status = Path("/proc/self/status")
if status.exists():  # getrusage would count what the process that started this one had used
    print(status.read_text().partition("VmHWM:")[2].split()[0])
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


Whole = dict[str, tuple[str, bytes]]
Files = Iterable[tuple[str, bytes | None]]


@pytest.fixture(scope="module")
def whole(make_dicom: Callable[..., bytes]) -> Whole:
    """One whole file of each kind: its suffix and its bytes."""
    hand = draw_hand(120, "F", rng=np.random.default_rng(0), size=SIDE)[:, :60]
    mid = (hand * np.uint16(16)) | (hand >> 4)
    files = {name: (suffix, encode(hand, suffix, how)) for name, (suffix, how) in FORMATS.items()}
    files["png 16"] = (".png", encode(hand * np.uint16(257), ".png", []))
    files["dicom"] = (".dcm", make_dicom(hand, 8, PhotometricInterpretation="MONOCHROME1"))
    files["dicom 12"] = (".dcm", make_dicom(mid, 12, WindowCenter=2048, WindowWidth=4096))
    if importlib.util.find_spec("gdcm") is not None:
        for name, number in (("rle", "5"), ("lossless", "4.70"), ("ls", "4.80"), ("2000", "4.90")):
            data = make_dicom(mid, 12, syntax=f"1.2.840.10008.1.2.{number}")
            files[f"dicom {name}"] = (".dcm", data)
    return files


def read_all(folder: Path, files: Files) -> Iterator[tuple[Path, Any, Any]]:
    """Read the files in one process; yield what came of the pixels and of the dimensions."""
    paths = []
    for name, data in files:
        paths.append(folder / name)
        if data is not None:
            paths[-1].write_bytes(data)
    reader = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *found, peak = [json.loads(line) for line in reader.stdout.splitlines()] or [None]
    if reader.returncode:
        at = paths[len(reader.stdout.splitlines())].name
        pytest.fail(f"died with {reader.returncode} at {at}:\n{reader.stderr[-2000:]}")
    assert "Traceback" not in reader.stderr
    assert peak < 1_000_000  # kilobytes
    for path, (pixels, sides) in zip(paths, found, strict=True):
        for message in (pixels, sides):
            if isinstance(message, str):
                form = rf"{re.escape(str(path))}: [^\n]+\. [^\n]+[.?\"']"
                assert re.fullmatch(form, message), message
                assert "Doe" not in message
                assert "20150401" not in message
        yield path, pixels, sides


def test_a_truncated_file_is_always_refused(whole: Whole, tmp_path: Path) -> None:
    cuts = (
        (f"{name} {length}{suffix}", data[:length])
        for name, (suffix, data) in whole.items()
        for length in [*range(0, len(data), len(data) // 9), len(data) - 9, len(data) - 1]
    )
    for path, pixels, _ in read_all(tmp_path, cuts):
        assert isinstance(pixels, str), path.name


def flips(whole: Whole) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(20_150_401)
    for name, (suffix, data) in whole.items():
        for number in range(16):
            flipped = bytearray(data)
            # Half of them within the first bytes, where the headers are.
            last = min(len(data), 1200) if number % 2 else len(data)
            for position in rng.integers(0, last, 1 + number % 3):
                flipped[position] ^= 1 << int(rng.integers(8))
            yield f"{name} {number}{suffix}", bytes(flipped)


def test_a_flipped_bit_is_refused_or_keeps_to_the_header(whole: Whole, tmp_path: Path) -> None:
    # JPEG, LZW and uncompressed pixels carry no checksum: their values may differ.
    for path, pixels, sides in read_all(tmp_path, flips(whole)):
        if not isinstance(pixels, str):
            assert pixels == sides[::-1], path.name
            assert not path.name.startswith("png")


def forged(whole: Whole) -> Iterator[tuple[str, bytes]]:
    """Files that are whole, and want too much or make no sense."""
    level = np.zeros((SIDE, SIDE), np.uint8)
    jpeg, bmp, dicom = whole["jpeg"][1], whole["bmp"][1], whole["dicom 12"][1]
    size, scan = jpeg.index(b"\xff\xc0") + 5, jpeg.index(b"\xff\xda")
    yield "vast.png", png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(10**7), 9))
    yield "short.png", png(SIDE, SIDE, zlib.compress(bytes(500)))
    yield "nonsense.png", png(SIDE, SIDE, b"nonsense")
    yield "chunks.png", PNG + chunk(b"IHDR", bytes(13)) + chunk(b"teSt", b"") * 200_001
    yield "vast.jpg", jpeg[:size] + b"\xff" * 4 + jpeg[size + 4 :]
    yield "scans.jpg", jpeg[:scan] + jpeg[scan:-2] * 300 + jpeg[-2:]
    yield "vast.tif", tiff(level, t256=65_535, t257=65_535)
    yield "thin.tif", tiff(level, t279=100)
    yield "samples.tif", tiff(level, t277=60_000)
    yield "bits.tif", tiff(level, t258=64)
    yield "loop.tif", tiff(level, following=8)
    yield "away.tif", tiff(level, following=2**31)
    yield "unpacked.tif", tiff(level, t259=8)
    yield "unknown.tif", tiff(level, t259=60_000)
    yield "big.tif", b"II+\0\x08\0\0\0" + bytes(500)
    yield "vast.bmp", bmp[:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + bmp[26:]
    yield "runs.bmp", bmp[:30] + struct.pack("<I", 1) + bmp[34:]
    native, other = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.90"
    at = dicom.index(native) - 2
    new = struct.pack("<H", len(other)) + other
    yield "syntax.dcm", dicom[:at] + new + dicom[at + 2 + len(native) :]
    for name, kind in (("2000", b"\xff\x51"), ("lossless", b"\xff\xc3"), ("ls", b"\xff\xf7")):
        if f"dicom {name}" in whole:
            data = whole[f"dicom {name}"][1]
            at = data.index(kind, data.index(b"\xe0\x7f\x10\x00")) + 5
            yield f"codestream {name}.dcm", data[:at] + b"\x7f\xff" * 3 + data[at + 6 :]
    if "dicom 2000" in whole:
        data = whole["dicom 2000"][1]
        at = data.index(b"\xff\x52\0") + 6
        yield "layers.dcm", data[:at] + b"\xff\xff" + data[at + 2 :]
    for suffix in (".png", ".dcm"):
        yield f"zeros{suffix}", bytes(5000)
        yield f"text{suffix}", b"id,boneage,male\n1377,180,False\n" * 20
        yield f"gif{suffix}", b"GIF89a\x60\0\x60\0\xf7\0\0" + bytes(900)
        yield f"preamble{suffix}", bytes(128) + b"DICM" + b"id,boneage,male\n" * 30


def odd_paths(folder: Path) -> Iterator[tuple[str, None]]:
    """A folder, a pipe that nobody writes to, links to nowhere, and names that can't be."""
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.png")
    for name in (".", "pipe.png", "loop.png", "nowhere.png", "gone.png", "text.png/a.png"):
        yield name, None
    yield "long" * 100, None
    if os.geteuid():  # the superuser may read every file
        (folder / "closed.png").touch(0)
        yield "closed.png", None


def test_forged_files_and_odd_paths_are_refused(whole: Whole, tmp_path: Path) -> None:
    for path, pixels, _ in read_all(tmp_path, chain(forged(whole), odd_paths(tmp_path))):
        assert isinstance(pixels, str), path.name


@pytest.mark.parametrize("error", [ValueError("too many values"), MemoryError(), KeyError(7)])
def test_a_bug_of_a_decoder_is_a_fault_of_its_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    path = tmp_path / "a.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    monkeypatch.setattr(reader, "decode_dicom", fail)
    with pytest.raises(InputError, match=r"a\.dcm: the file can't be decoded") as refused:
        read_radiograph(path)
    assert f"({type(error).__name__})" in str(refused.value)
