"""Which maintained decoder gives a full-size radiograph's pixels fastest, and unchanged?

Question: how long do libraries on PyPI take for the same pixels, and do other threads run?
Cost: about two minutes on one core. Only installed libraries are measured:
    pip install isal imagecodecs "pyvips[binary]" kornia-rs pyspng-seunglab pywuffs zlib-ng deflate
    PyTurboJPEG
Expected result: `boneage` uses Pillow and simplejpeg. Some libraries are faster, but they check
    less, hold the interpreter's lock, or accept damaged files.
Command: python decoders.py --radiographs FOLDER --out results/decoders.json   (in this folder)

Each row is one library and one kind of file. The files are the radiographs of the folder, or a
drawn one: as 8-bit PNG unchanged, and as 16-bit PNG and JPEG written by OpenCV. `inflate` is the
compressed pixels of the PNG files alone. Rounds are interleaved. `ms` is processor time for each
radiograph (median of the rounds). `ratio` is the row's time divided by boneage's. `identical`
compares the pixels with OpenCV's. `frees_threads` says whether another Python thread ran meanwhile.
`refuses_damage` says whether a PNG is refused whose pixels do not fit zlib's checksum.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import struct
import threading
import time
import zlib
from collections.abc import Callable
from importlib import import_module, metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.runtime.provenance import provenance

Pixels = npt.NDArray[Any]
Decode = Callable[[bytes, Pixels], Any]
GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH


def packed(data: bytes) -> bytes:
    """Return the deflated pixels of a PNG file."""
    place, parts = 8, []
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            parts.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    return b"".join(parts)


def with_opencv(data: bytes, _: Pixels) -> Any:
    """Decode with OpenCV, as most tutorials do."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), GREY)


def kornia(kind: str) -> Decode:
    """kornia-rs: Rust's png crate, which leaves zlib's checksum unread; libjpeg-turbo."""
    codec = import_module("kornia_rs.io")
    if kind == "jpeg":
        return lambda data, _: codec.decode_image_jpegturbo(data, "mono")
    decode = codec.decode_image_png_u8 if kind == "png" else codec.decode_image_png_u16
    return lambda data, radiograph: decode(data, radiograph.shape, "mono")


def imagecodecs(name: str) -> Callable[[str], Decode]:
    """Return one of the decoders of imagecodecs, by its name."""

    def make(_: str) -> Decode:
        decode = getattr(import_module("imagecodecs"), name)
        return lambda data, radiograph: decode(data)

    return make


def vips(_: str) -> Decode:
    """libvips: libspng and zlib-ng; libjpeg-turbo."""
    image = import_module("pyvips").Image
    return lambda data, radiograph: image.new_from_buffer(data, "", access="sequential").numpy()


def pillow(_: str) -> Decode:
    """Pillow: libpng's format decoded by code of its own; zlib-ng."""
    picture = import_module("PIL.Image")
    return lambda data, radiograph: np.asarray(picture.open(io.BytesIO(data)))


def spng(_: str) -> Decode:
    """pyspng: libspng."""
    load = import_module("pyspng").load
    return lambda data, radiograph: load(data)


def wuffs(_: str) -> Decode:
    """pywuffs: Wuffs, whose wheels are built on the spot."""
    auxiliary, formats = import_module("pywuffs.aux"), import_module("pywuffs").PixelFormat

    def decode(data: bytes, radiograph: Pixels) -> Any:
        settings = auxiliary.ImageDecoderConfig()
        settings.pixel_format = formats.Y if radiograph.dtype == np.uint8 else formats.Y_16LE
        return auxiliary.ImageDecoder(settings).decode(data).pixbuf

    return decode


def simplejpeg(_: str) -> Decode:
    """simplejpeg: libjpeg-turbo."""
    decode = import_module("simplejpeg").decode_jpeg
    return lambda data, radiograph: decode(data, colorspace="GRAY")


def turbojpeg(_: str) -> Decode:
    """PyTurboJPEG: the libjpeg-turbo that the system has."""
    library = import_module("turbojpeg")
    codec = library.TurboJPEG()
    return lambda data, radiograph: codec.decode(data, pixel_format=library.TJPF_GRAY)


def inflate(module: str, name: str = "decompress") -> Callable[[str], Decode]:
    """Return the function of a library that inflates."""

    def make(_: str) -> Decode:
        function = getattr(import_module(module), name)
        if module == "deflate":
            return lambda data, radiograph: function(data, radiograph.nbytes + len(radiograph))
        return lambda data, radiograph: function(data)

    return make


CONTENDERS: tuple[tuple[str, str, str, Callable[[str], Decode]], ...] = (
    # Name, its package, the kinds of files, how to make the function.
    ("boneage (Pillow)", "pillow", "png png16", pillow),
    ("boneage (simplejpeg)", "simplejpeg", "jpeg", simplejpeg),
    ("OpenCV", "opencv-python-headless", "png png16 jpeg", lambda kind: with_opencv),
    ("kornia-rs", "kornia-rs", "png png16 jpeg", kornia),
    ("Wuffs", "pywuffs", "png", wuffs),
    ("imagecodecs png", "imagecodecs", "png png16", imagecodecs("png_decode")),
    ("imagecodecs apng", "imagecodecs", "png png16", imagecodecs("apng_decode")),
    ("imagecodecs spng", "imagecodecs", "png png16", imagecodecs("spng_decode")),
    ("imagecodecs jpeg8", "imagecodecs", "jpeg", imagecodecs("jpeg8_decode")),
    ("pyspng", "pyspng-seunglab", "png png16", spng),
    ("libvips", "pyvips-binary", "png png16 jpeg", vips),
    ("Pillow", "pillow", "jpeg", pillow),
    ("PyTurboJPEG", "PyTurboJPEG", "jpeg", turbojpeg),
    ("zlib of Python", "", "inflate", inflate("zlib")),
    ("ISA-L", "isal", "inflate", inflate("isal.isal_zlib")),
    ("zlib-ng", "zlib-ng", "inflate", inflate("zlib_ng.zlib_ng")),
    ("libdeflate", "deflate", "inflate", inflate("deflate", "zlib_decompress")),
)


def make_files(folder: Path | None) -> dict[str, list[tuple[bytes, Pixels]]]:
    """Return bytes and pixels of every radiograph, by the kind of file."""
    if folder is None:
        from boneage.datasets.phantom.cohort import draw_hand

        drawn = draw_hand(120, "F", rng=np.random.default_rng(0), size=2044)[:, :1514]
        originals = [bytes(cv2.imencode(".png", drawn)[1])]
    else:
        originals = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    radiographs = [with_opencv(data, np.empty(0)) for data in originals]
    noise = np.random.default_rng(1)
    deep = [
        radiograph.astype(np.uint16) * 16 + noise.integers(0, 16, radiograph.shape, np.uint16)
        for radiograph in radiographs
    ]
    jpegs = [bytes(cv2.imencode(".jpg", radiograph)[1]) for radiograph in radiographs]
    return {
        "png": list(zip(originals, radiographs, strict=True)),
        "png16": [(bytes(cv2.imencode(".png", radiograph)[1]), radiograph) for radiograph in deep],
        "jpeg": [(data, with_opencv(data, np.empty(0))) for data in jpegs],
        "inflate": [
            (packed(data), radiograph)
            for data, radiograph in zip(originals, radiographs, strict=True)
        ],
    }


def frees_threads(decode: Decode, data: bytes, radiograph: Pixels) -> bool:
    """Return whether this thread never waits long while another decodes, in the best of 12 times.

    A fifth of the decoding time counts as long. Libraries that release the interpreter's lock
    reached at most 0.17, on a busy machine too. Others took at least 0.28.
    """

    def longest_wait() -> float:
        span: list[float] = []

        def work() -> None:
            span.append(time.perf_counter())
            decode(data, radiograph)
            span.append(time.perf_counter())

        thread = threading.Thread(target=work)
        ticks: list[float] = []
        thread.start()
        while thread.is_alive():
            ticks.append(time.perf_counter())
        inside = [span[0], *(tick for tick in ticks if span[0] < tick < span[1]), span[1]]
        return max(after - before for before, after in pairwise(inside)) / (span[1] - span[0])

    return min(longest_wait() for _ in range(12)) < 0.2


def refuses_damage(decode: Decode, data: bytes, radiograph: Pixels) -> bool:
    """Return whether a PNG file is refused whose pixels do not fit zlib's checksum."""
    stream = packed(data)
    stream = stream[:-4] + bytes(255 - byte for byte in stream[-4:])
    chunks = [(b"IHDR", data[16:29]), (b"IDAT", stream), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    try:
        return decode(data[:8] + b"".join(parts), radiograph) is None
    except Exception:  # noqa: BLE001  each library has its own
        return True


def is_identical(result: Any, radiograph: Pixels, kind: str) -> bool:
    """Return whether the pixels are those of OpenCV, or the inflated bytes are right."""
    if kind == "inflate":
        return len(result) == radiograph.size + len(
            radiograph
        )  # any fault in them would have raised
    pixels = np.asarray(result)
    return pixels.dtype == radiograph.dtype and np.array_equal(
        pixels.reshape(radiograph.shape), radiograph
    )


def measure(rounds: int, files: dict[str, list[tuple[bytes, Pixels]]]) -> list[dict[str, Any]]:
    """Measure each library and kind of file, in interleaved rounds."""
    rows: list[dict[str, Any]] = []
    running: list[tuple[dict[str, Any], Decode, list[tuple[bytes, Pixels]]]] = []
    for name, package, kinds, make in CONTENDERS:
        for kind in kinds.split():
            row: dict[str, Any] = {"name": name, "kind": kind}
            rows.append(row)
            try:
                row["version"] = f"{package} {metadata.version(package)}" if package else ""
                decode = make(kind)
                data, radiograph = files[kind][0]
                row["identical"] = is_identical(decode(data, radiograph), radiograph, kind)
                row["frees_threads"] = frees_threads(decode, data, radiograph)
                if kind.startswith("png"):
                    row["refuses_damage"] = refuses_damage(decode, data, radiograph)
            except metadata.PackageNotFoundError as error:
                row["skipped"] = f"{error.name} is not installed"
                continue
            except Exception as error:  # noqa: BLE001  whatever it raises is why it is not measured
                row["skipped"] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            running.append((row, decode, files[kind]))
    times: dict[int, list[float]] = {}
    for _ in range(rounds):
        for number, (_, decode, pairs) in enumerate(running):
            start = time.process_time()
            for data, radiograph in pairs:
                decode(data, radiograph)
            times.setdefault(number, []).append((time.process_time() - start) / len(pairs) * 1e3)
    for number, (row, decode, pairs) in enumerate(running):
        row["ms"] = round(statistics.median(times[number]), 2)
        row["ms_range"] = [round(min(times[number]), 2), round(max(times[number]), 2)]
        row["identical"] &= all(
            is_identical(decode(data, radiograph), radiograph, row["kind"])
            for data, radiograph in pairs
        )
    ours = {
        row["kind"]: row["ms"] for row in rows if row["name"].startswith("boneage") and "ms" in row
    }
    for row in rows:
        if "ms" in row and row["kind"] in ours:
            row["ratio"] = round(row["ms"] / ours[row["kind"]], 3)
    return rows


def main() -> None:
    """Measure, and print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--radiographs", type=Path, help="Folder of full-size 8-bit grey PNG files."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="File that gets the JSON, too.")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    files = make_files(chosen.radiographs)
    rows = measure(chosen.rounds, files)
    machine = {key: value for key, value in provenance().items() if key != "uncommitted_changes"}
    machine["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    text = json.dumps(
        {"machine": machine, "radiographs": len(files["png"]), "rows": rows}, indent=2
    )
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
