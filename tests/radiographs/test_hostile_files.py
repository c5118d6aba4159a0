"""Several hundred files that are damaged, truncated, forged or not images, read in one process.

The process may spend 5 s of its own time on each file, because a wall clock would measure the
machine. It may never take more than 1 GB of memory. A crash or a hang names the file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.phantom.cohort import draw_hand

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
MEGABYTES = 1024  # both count kilobytes on Linux

Whole = dict[str, tuple[str, bytes]]


def encode(image: npt.NDArray[Any], suffix: str, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done
    return bytes(data)


@pytest.fixture(scope="module")
def whole(make_dicom: Callable[..., bytes]) -> Whole:
    """One whole file of each kind: its suffix and its bytes."""
    hand = draw_hand(120, "F", rng=np.random.default_rng(0), size=SIDE)
    deep, mid = hand * np.uint16(257), (hand * np.uint16(16)) | (hand >> 4)
    compression = cv2.IMWRITE_TIFF_COMPRESSION
    files = {
        "png": (".png", encode(hand, ".png")),
        "png 16": (".png", encode(deep, ".png")),
        "jpeg": (".jpg", encode(hand, ".jpg")),
        "jpeg progressive": (".jpg", encode(hand, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        "tiff": (".tif", encode(hand, ".tif", compression, 1)),
        "tiff lzw": (".tif", encode(hand, ".tif", compression, 5)),
        "tiff deflate": (".tiff", encode(hand, ".tiff", compression, 8)),
        "tiff 16": (".tiff", encode(deep, ".tiff", compression, 5)),
        "bmp": (".bmp", encode(hand, ".bmp")),
        "dicom": (".dcm", make_dicom(hand, 8, PhotometricInterpretation="MONOCHROME1")),
        "dicom 12": (".dcm", make_dicom(mid, 12, WindowCenter=2048, WindowWidth=4096)),
    }
    if importlib.util.find_spec("gdcm") is not None:
        for name, number in (("rle", "5"), ("lossless", "4.70"), ("ls", "4.80"), ("2000", "4.90")):
            data = make_dicom(mid, 12, syntax=f"1.2.840.10008.1.2.{number}")
            files[f"dicom {name}"] = (".dcm", data)
    return files


def read_all(paths: list[Path]) -> tuple[list[tuple[Any, Any]], float]:
    """Reads the files in one process; returns what came of each, and the peak in megabytes."""
    lines = "".join(json.dumps(str(path)) + "\n" for path in paths)
    reader = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER],
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *found, last = [json.loads(line) for line in reader.stdout.splitlines()] or [None]
    if reader.returncode:
        found = [*found, *([last] if last else [])]
        at = paths[len(found)].name
        pytest.fail(f"died with {reader.returncode} at {at}:\n{reader.stderr[-2000:]}")
    assert len(found) == len(paths)
    assert "Traceback" not in reader.stderr
    return [(pixels, sides) for pixels, sides in found], last / MEGABYTES


def check_message(message: Any, path: Path) -> None:
    assert isinstance(message, str), f"{path.name} was read as an image: {message}"
    form = rf"{re.escape(str(path))}: [^\n]+\. [^\n]+[.?\"']"
    assert re.fullmatch(form, message), message
    assert "Doe" not in message
    assert "20150401" not in message


def cuts(data: bytes) -> Iterator[bytes]:
    for tenth in range(8):
        yield data[: len(data) * tenth // 8]
    for missing in (1, 9):
        yield data[:-missing]


def flips(data: bytes, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng([20_150_401, seed])
    for number in range(16):
        flipped = bytearray(data)
        # Half of them within the first bytes, where the headers are.
        last = min(len(data), 1200) if number % 2 else len(data)
        for place in rng.integers(0, last, 1 + number % 3):
            flipped[place] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)


def test_a_truncated_file_is_always_refused(whole: Whole, tmp_path: Path) -> None:
    paths = []
    for name, (suffix, data) in whole.items():
        for number, cut in enumerate(cuts(data)):
            paths.append(tmp_path / f"{name} {number}{suffix}")
            paths[-1].write_bytes(cut)
    assert len(paths) >= 110
    found, peak = read_all(paths)
    for path, (pixels, sides) in zip(paths, found, strict=True):
        check_message(pixels, path)
        if isinstance(sides, str):
            check_message(sides, path)
    assert peak < 1000


def test_a_flipped_bit_is_refused_or_keeps_to_the_header(whole: Whole, tmp_path: Path) -> None:
    # JPEG, LZW and uncompressed pixels carry no checksum: there the picture may differ.
    # PNG and deflated TIFF do, and there nothing passes.
    paths = []
    for seed, (name, (suffix, data)) in enumerate(whole.items()):
        for number, flipped in enumerate(flips(data, seed)):
            paths.append(tmp_path / f"{name} {number}{suffix}")
            paths[-1].write_bytes(flipped)
    assert len(paths) >= 176
    found, peak = read_all(paths)
    for path, (pixels, sides) in zip(paths, found, strict=True):
        if isinstance(pixels, str):
            check_message(pixels, path)
        else:
            assert pixels == sides[::-1], path.name
            assert not path.name.startswith("png")
    assert peak < 1000


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, packed: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(next_page: int = 0, **entries: int) -> bytes:
    numbers = {"width": 256, "height": 257, "bits": 258, "packed": 259, "white": 262}
    numbers |= {"offset": 273, "samples": 277, "rows": 278, "count": 279, "kind": 339}
    values = {"width": 96, "height": 96, "bits": 8, "packed": 1, "white": 1, "samples": 1}
    values |= {"rows": 96, "count": 9216, "offset": 400, **entries}
    rows = sorted((numbers[name], value) for name, value in values.items() if value >= 0)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in rows)
    start = b"II*\0" + struct.pack("<IH", 8, len(rows)) + directory + struct.pack("<I", next_page)
    return start.ljust(400, b"\0") + bytes(range(256)) * 36


def with_jpeg_sides(data: bytes, width: int, height: int) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def forged(whole: Whole, make_dicom: Callable[..., bytes]) -> Iterator[tuple[str, bytes]]:
    """Files that are whole, and want too much or make no sense."""
    radiograph = np.zeros((SIDE, SIDE), np.uint8)
    jpeg = whole["jpeg"][1]
    bomb = zlib.compress(bytes(20_001 * 2000), 9)  # a tenth of its rows, and 40 kB
    yield "bomb.png", png(20_000, 20_000, bomb)
    yield "vast.png", png(100_000, 100_000, bomb)
    yield "vaster.png", png(2**31 - 1, 2**31 - 1, bomb)
    yield "flat.png", png(1, 40_000_000, bomb)
    yield "short.png", png(SIDE, SIDE, zlib.compress(bytes(500)))
    yield "nonsense.png", png(SIDE, SIDE, b"nonsense")
    yield "vast.jpg", with_jpeg_sides(jpeg, 65_535, 65_535)
    yield "none.jpg", with_jpeg_sides(jpeg, SIDE, 0)
    scan = jpeg.index(b"\xff\xda")
    yield "scans.jpg", jpeg[:scan] + jpeg[scan:-2] * 300 + jpeg[-2:]
    yield "vast.tif", tiff(width=100_000, height=100_000)
    yield "thin.tif", tiff(count=100)
    yield "far.tif", tiff(offset=2**32 - 1)
    yield "samples.tif", tiff(samples=60_000)
    yield "bits.tif", tiff(bits=64)
    yield "float.tif", tiff(bits=32, kind=3)
    yield "signed.tif", tiff(bits=16, kind=2, count=18_432)
    yield "loop.tif", tiff(next_page=8)
    yield "away.tif", tiff(next_page=2**31)
    yield "unpacked.tif", tiff(packed=8)
    yield "unknown.tif", tiff(packed=60_000)
    yield "big.tif", b"II+\0\x08\0\0\0" + bytes(500)
    bmp = whole["bmp"][1]
    yield "vast.bmp", bmp[:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + bmp[26:]
    yield "negative.bmp", bmp[:18] + struct.pack("<ii", -96, 96) + bmp[26:]
    yield "runs.bmp", bmp[:30] + struct.pack("<I", 1) + bmp[34:]
    for number, header in enumerate(
        (
            {"Rows": 65_535, "Columns": 65_535},
            {"Rows": 0},
            {"NumberOfFrames": 2**31 - 1},
            {"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63},
            {"BitsAllocated": 1},
            {"BitsStored": 0, "HighBit": 200},
            {"SamplesPerPixel": 60_000},
            {"PhotometricInterpretation": "HSV"},
            {"PhotometricInterpretation": "PALETTE COLOR"},
        )
    ):
        yield f"header {number}.dcm", make_dicom(radiograph, 8, **header)
    dicom = whole["dicom 12"][1]
    for number, syntax in enumerate((b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.105")):
        # The name of another syntax over native pixels; it is padded to the length it had.
        old = b"1.2.840.10008.1.2.1\0"
        place = dicom.index(old) - 2
        new = struct.pack("<H", len(syntax)) + syntax
        yield f"syntax {number}.dcm", dicom[:place] + new + dicom[place + 2 + len(old) :]
    for name, kind in (("2000", b"\xff\x51"), ("lossless", b"\xff\xc3"), ("ls", b"\xff\xf7")):
        if f"dicom {name}" in whole:
            data = whole[f"dicom {name}"][1]
            place = data.index(kind, data.index(b"\xe0\x7f\x10\x00")) + 5
            forgery = data[:place] + b"\x7f\xff\x7f\xff\x7f\xff" + data[place + 6 :]
            yield f"codestream {name}.dcm", forgery
    if "dicom 2000" in whole:
        data = whole["dicom 2000"][1]
        place = data.index(b"\xff\x52\0") + 6
        yield "layers.dcm", data[:place] + b"\xff\xff" + data[place + 2 :]


NO_IMAGES = {
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "text": b"id,boneage,male\n1377,180,False\n" * 20,
    "page": b"<!DOCTYPE html><html><body>Too many requests</body></html>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(900),
    "zip": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(900),
    "gif": b"GIF89a\x60\0\x60\0\xf7\0\0" + bytes(900),
    "program": b"\x7fELF\x02\x01\x01" + bytes(900),
    "preamble": bytes(128) + b"DICM",
    "preamble and text": bytes(128) + b"DICM" + b"id,boneage,male\n" * 30,
    "one byte": b"\x89",
}


def test_forged_files_and_files_without_an_image_are_refused(
    whole: Whole, make_dicom: Callable[..., bytes], tmp_path: Path
) -> None:
    paths = []
    for name, data in forged(whole, make_dicom):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    for name, data in NO_IMAGES.items():
        for suffix in (".png", ".jpg", ".tif", ".dcm", ""):
            paths.append(tmp_path / f"{name}{suffix}")
            paths[-1].write_bytes(data)
    paths += odd_places(tmp_path)
    found, peak = read_all(paths)
    for path, (pixels, sides) in zip(paths, found, strict=True):
        check_message(pixels, path)
        if isinstance(sides, str):
            check_message(sides, path)
    assert peak < 1000


def odd_places(folder: Path) -> list[Path]:
    """A folder, a pipe (nobody writes to it), links to nowhere, names that can't be."""
    pipe, loop, nowhere = folder / "pipe.png", folder / "loop.png", folder / "nowhere.png"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    nowhere.symlink_to(folder / "gone.png")
    through = folder / "text.png" / "radiograph.png"
    return [folder, pipe, loop, nowhere, through, folder / ("long" * 100), folder / "gone.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_refused(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "radiograph.png"
    path.write_bytes(whole["png"][1])
    path.chmod(0)
    ((pixels, sides),), _ = read_all([path])
    check_message(pixels, path)
    check_message(sides, path)
