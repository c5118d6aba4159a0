from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import InputError
from boneage.radiographs import dicom
from boneage.radiographs.dicom import is_dicom, open_dicom, quiet_pydicom
from boneage.radiographs.reader import read_dimensions, read_radiograph

MakeDicom = Callable[..., bytes]
Read = Callable[..., npt.NDArray[Any]]

REAL = Path(__file__).parents[3] / "shared" / "real" / "dicom" / "cr-extremity-monochrome1-j2k.dcm"
JPEG, JPEG_12 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
LOSSLESS = {
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG lossless SV1": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG-LS near lossless": "1.2.840.10008.1.2.4.81",
    "JPEG 2000 lossless": "1.2.840.10008.1.2.4.90",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "RLE": "1.2.840.10008.1.2.5",
}


@pytest.fixture(scope="module")
def hand() -> npt.NDArray[np.uint8]:
    radiograph = draw_hand(120, "F", rng=np.random.default_rng(0), size=96)[:80]
    return np.asarray(cv2.normalize(radiograph, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


@pytest.fixture
def read(make_dicom: MakeDicom, tmp_path: Path) -> Read:
    """Makes a DICOM file of an array and reads it back."""

    def make_and_read(pixels: npt.NDArray[Any], bits: int, **header: Any) -> npt.NDArray[Any]:
        path = tmp_path / "radiograph"
        path.write_bytes(make_dicom(pixels, bits, **header))
        image = read_radiograph(path)
        assert read_dimensions(path) == (image.shape[1], image.shape[0])
        return image

    return make_and_read


def spread(hand: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint16]:
    """The same radiograph at another depth."""
    return np.rint(hand * ((2**bits - 1) / 255)).astype(np.uint16)


def steps_apart(image: npt.NDArray[Any], hand: npt.NDArray[np.uint8]) -> float:
    """The largest difference to the 8-bit radiograph, in its steps."""
    return float(np.abs(image / 257.0 - hand).max())


def sequence(first: int, bits: int, table: npt.NDArray[Any], kind: str = "US") -> list[Any]:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(table) % 65536, first, bits])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    item.add_new("ModalityLUTType", "LO", "US")
    return [item]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_it_is_the_same_radiograph_as_the_eight_bit_png(
    read: Read, hand: npt.NDArray[np.uint8], tmp_path: Path, bits: int, photometric: str
) -> None:
    cv2.imwrite(str(tmp_path / "radiograph.png"), hand)
    png = read_radiograph(tmp_path / "radiograph.png")
    stored = spread(255 - hand if photometric == "MONOCHROME1" else hand, bits)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    for header in ({}, window):
        image = read(stored, bits, PhotometricInterpretation=photometric, **header)
        assert image.dtype == (np.uint16 if bits > 8 or header else np.uint8)
        steps = steps_apart(image if image.dtype == np.uint16 else image * np.uint16(257), png)
        assert steps <= 0.5 * 255 / (2**bits - 1) + 0.01


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_values_start_below_zero(read: Read, hand: npt.NDArray[np.uint8], bits: int) -> None:
    signed = spread(hand, bits).astype(np.int32) - 2 ** (bits - 1)
    kept = signed.astype(np.int8 if bits == 8 else np.int16)
    image = read(kept, bits)
    assert steps_apart(image.astype(float) * (257 if bits == 8 else 1), hand) <= 0.04
    windowed = read(kept, bits, WindowCenter=0, WindowWidth=2**bits)
    assert steps_apart(windowed, hand) <= 0.04


@pytest.mark.parametrize(
    ("function", "centre", "width"),
    [
        ("LINEAR", 1500.5, 1001),
        ("LINEAR_EXACT", 1500, 1000),
        (None, [1500.5, 3], [1001, 7]),  # the first of several
        ("SIGMOID", 1500, 1000),
    ],
)
def test_a_window_is_spread_over_the_whole_range(
    read: Read, hand: npt.NDArray[np.uint8], function: str | None, centre: Any, width: Any
) -> None:
    stored = spread(hand, 12)
    header = {"VOILUTFunction": function} if function else {}
    image = read(stored, 12, WindowCenter=centre, WindowWidth=width, **header)
    expected = np.clip((stored.astype(float) - 1000) / 1000, 0, 1) * 65_535
    if function == "SIGMOID":
        expected = 65_535 / (1 + np.exp(-4 * (stored.astype(float) - 1500) / 1000))
    assert np.abs(image - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("function", "centre", "width", "what"),
    [
        ("LINEAR", 2000, 0, "WindowWidth is 0"),
        ("LINEAR", 2000, 0.5, "WindowWidth is 0.5"),
        ("LINEAR", 2000, 1, "WindowWidth is 1"),
        ("SIGMOID", 2000, -5, "WindowWidth is -5"),
        ("LINEAR_EXACT", 2000, 0.5, "window .* shows 0.0% of the pixels"),
        ("LINEAR", 90_000, 100, "window .* shows 0.0% of the pixels"),
        ("LINEAR", "", 100, "WindowCenter or WindowWidth is missing"),
    ],
)
def test_a_window_that_shows_nothing_is_refused(
    read: Read, hand: npt.NDArray[np.uint8], function: str, centre: Any, width: Any, what: str
) -> None:
    header = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    with pytest.raises(InputError, match=what):
        read(spread(hand, 12), 12, **header)


def test_a_window_of_a_small_range_is_applied(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    stored = spread(hand, 12)
    window = {"WindowCenter": 0.5, "WindowWidth": 1, "VOILUTFunction": "LINEAR_EXACT"}
    image = read(stored, 12, RescaleSlope=1 / 4096, **window)
    assert np.abs(image - stored / 4096 * 65_535).max() <= 0.5


def test_empty_elements_and_sequences_do_no_harm(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    stored = spread(hand, 12)
    empty = {"WindowCenter": "", "WindowWidth": "", "RescaleSlope": "", "VOILUTSequence": []}
    assert np.array_equal(read(stored, 12, **empty), read(stored, 12))


def test_rescaling_comes_before_the_window(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    stored = spread(hand, 12)
    rescale = {"RescaleSlope": "0.5", "RescaleIntercept": "-1000"}
    image = read(stored, 12, WindowCenter=-500 + 0.5, WindowWidth=1001, **rescale)
    expected = np.clip(stored * 0.5 / 1000, 0, 1) * 65_535
    assert np.abs(image - expected).max() <= 0.5


def test_a_lookup_table_of_interest_is_applied_before_a_window(
    read: Read, hand: npt.NDArray[np.uint8]
) -> None:
    stored = spread(hand, 12)
    table = np.rint(np.linspace(0, 1, 4096) ** 2 * 65_535)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    image = read(stored, 12, VOILUTSequence=sequence(0, 16, table), **window)
    assert np.array_equal(image, table[stored])
    step = np.where(np.arange(4096) > 4090, 65_535, 0)
    with pytest.raises(InputError, match=r"VOILUTSequence shows 0\.\d% of the pixels"):
        read(stored, 12, VOILUTSequence=sequence(0, 16, step), **window)


# The same falling curve, stored in the unusual ways of real files (shared/cases/voi-lut).
CURVE = 1 / (1 + np.exp((np.arange(4096) - 1800) / 350))
TABLES = {
    "12 bits": (0, 12, 4095, "US"),
    "12 bits said to be 16": (0, 16, 4095, "US"),
    "8 bits": (0, 8, 255, "US"),
    "8 bits, two in a word": (0, 8, 255, "packed"),
    "16 bits as bytes": (0, 16, 65_535, "UN"),
    "16 bits in the other byte order": (0, 16, 65_535, "swapped"),
    "12 bits in the other byte order": (0, 12, 4095, "swapped"),
    "a negative first value": (-1024, 12, 4095, "US"),
    "a negative first value as unsigned": (65_536 - 1024, 12, 4095, "US"),
}


@pytest.mark.parametrize(("first", "bits", "top", "form"), TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_are_applied_however_they_are_stored(
    read: Read,
    hand: npt.NDArray[np.uint8],
    keyword: str,
    first: int,
    bits: int,
    top: int,
    form: str,
) -> None:
    from pydicom.dataset import Dataset

    entries = np.rint(CURVE * top).astype(int)
    item, stored = Dataset(), spread(hand, 12)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [4096, first, bits])
    kind = {"packed": "u1", "UN": "<u2", "swapped": ">u2"}.get(form)
    data = entries.astype(kind).tobytes() if kind else entries.tolist()
    item.add_new("LUTData", {"packed": "OW", "UN": "UN", "swapped": "OW"}.get(form, "US"), data)
    item.add_new("ModalityLUTType", "LO", "US")
    header: dict[str, Any] = {keyword: [item]}
    if first and keyword == "VOILUTSequence":
        header |= {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    elif first:  # of a modality's table the stored values are signed themselves
        stored = (stored.astype(np.int32) - 1024).astype(np.int16)
    image = read(stored, 16 if stored.dtype == np.int16 else 12, **header)
    expected = CURVE[spread(hand, 12)]
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.9995
    assert image.dtype == (np.uint8 if top == 255 else np.uint16)
    assert np.abs(image / np.iinfo(image.dtype).max - expected).max() < 0.003


@pytest.mark.slow
def test_the_predicted_age_is_that_of_the_undamaged_image(
    make_dicom: MakeDicom, tmp_path: Path
) -> None:
    from boneage.prediction.predict import Request, load

    drawn = draw_hand(140, "F", rng=np.random.default_rng(3), size=200)
    stored = np.rint(600 + drawn / 255.0 * 2400).astype(np.uint16)
    falling = 1 - CURVE  # of the values that are subtracted from 4095
    deep, coarse = (np.rint(falling[::-1] * top) for top in (65_535, 255))
    cv2.imwrite(str(tmp_path / "deep.png"), deep.astype(np.uint16)[4095 - stored])
    cv2.imwrite(str(tmp_path / "coarse.png"), coarse.astype(np.uint8)[4095 - stored])
    for name, bits, table in (("deep", 16, deep), ("coarse", 8, coarse)):
        for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
            data = make_dicom(4095 - stored, 12, **{keyword: sequence(0, bits, table)})
            (tmp_path / f"{name}-{keyword}.dcm").write_bytes(data)
    files = sorted(tmp_path.iterdir())
    answers = load("rsna-best").predict_many(Request(file, "F") for file in files)
    months = {Path(answer.image).stem: answer.months for answer in answers}
    assert len(months) == 6
    for name, age in months.items():
        assert age == pytest.approx(months[name.partition("-")[0]], abs=0.01)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ({"VOILUTSequence": "short"}, "VOILUTSequence has 7 values of 16 bits.*says 4096"),
        ({"ModalityLUTSequence": "empty"}, "ModalityLUTSequence can't be read"),
        ({"RescaleSlope": "0"}, "all pixels one grey level"),
        ({"RescaleSlope": "1e308"}, "all pixels one grey level"),
        ({"RescaleSlope": ["1", "-1"]}, "RescaleSlope has several values"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "PixelPaddingValue covers all"),
        ({"PresentationLUTShape": "INVERSE"}, "contradicts PhotometricInterpretation"),
        ({"PresentationLUTShape": "LIN OD"}, "PresentationLUTShape .* is unknown"),
        ({"LUTDescriptor": [4096, 0, 12]}, "LUTDescriptor is not supported here"),
        ({"SharedFunctionalGroupsSequence": "window"}, "FrameVOILUTSequence is not supported"),
        ({"VOILUTSequence": "flat"}, "VOILUTSequence has one grey level"),
        ({"VOILUTSequence": "elsewhere"}, "VOILUTSequence is of other values"),
        ({"VOILUTSequence": "long"}, "has 4100 values of 16 bits.*says 4096"),
        ({"WindowCenter": "nan", "WindowWidth": "7"}, "WindowCenter is not a number"),
        ({"RescaleIntercept": "1,5"}, "RescaleIntercept is not a number"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "OTHER"}, "VOILUTFunction"),
    ],
)
def test_a_transformation_that_cannot_be_applied_is_refused(
    make_dicom: MakeDicom,
    hand: npt.NDArray[np.uint8],
    tmp_path: Path,
    header: dict[str, Any],
    what: str,
) -> None:
    from pydicom.dataset import Dataset

    window = Dataset()
    window.FrameVOILUTSequence = [Dataset()]
    values = {
        "short": sequence(0, 16, np.arange(7)),
        "long": sequence(0, 16, np.arange(4100)),
        "flat": sequence(0, 16, np.full(4096, 7)),
        "elsewhere": sequence(9000, 16, np.arange(4096)),
        "empty": [Dataset()],
        "window": [window],
    }
    header = {
        key: values.get(value, value) if isinstance(value, str) else value
        for key, value in header.items()
    }
    text = {key: value for key, value in header.items() if value in ("nan", "1,5")}
    data = make_dicom(spread(hand, 12), 12, **{**header, **dict.fromkeys(text, "3.0")})
    for value in text.values():  # pydicom would not write them
        data = data.replace(b"3.0 ", value.encode().ljust(4))
    for count in (7, 4100):
        data = data.replace(struct.pack("<3H", count, 0, 16), struct.pack("<3H", 4096, 0, 16))
    path = tmp_path / "radiograph.dcm"
    path.write_bytes(data)
    with pytest.raises(InputError, match=what):
        read_radiograph(path)


def test_padding_is_black_and_does_not_count(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    stored = spread(hand, 12).astype(np.int16)
    stored[:, :20] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        window = {"WindowCenter": 2048, "WindowWidth": 4096}
        image = read(
            stored, 16, PixelPaddingValue=-2000, PhotometricInterpretation=photometric, **window
        )
        assert not image[:, :20].any()
        seen = hand[:, 20:] if photometric == "MONOCHROME2" else 255 - hand[:, 20:]
        assert steps_apart(image[:, 20:], seen) <= 0.04


def test_padding_is_found_however_its_sign_is_written(
    read: Read, hand: npt.NDArray[np.uint8]
) -> None:
    stored = spread(hand, 12)
    stored[:, :20] = 65_535  # beyond the 12 bits
    image = read(stored, 12, PixelPaddingValue=65_535)
    assert not image[:, :20].any()
    assert steps_apart(image[:, 20:], hand[:, 20:]) <= 0.04


def test_bits_above_the_highest_are_an_overlay_or_refused(
    read: Read, hand: npt.NDArray[np.uint8]
) -> None:
    from pydicom.dataset import Dataset

    stored = spread(hand, 12)
    overlay = Dataset()
    overlay.add_new(0x60000102, "US", 15)
    with pytest.raises(InputError, match="more than the 12 bits"):
        read(stored | 0x8000, 12)
    with pytest.raises(InputError, match="more than the 10 bits"):
        read(stored, 10)
    declared = read(stored | 0x8000, 12, overlay=overlay)
    assert np.array_equal(declared, read(stored, 12))


@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_bits_that_end_higher_up_are_moved_down(
    make_dicom: MakeDicom, tmp_path: Path, high: int, kind: str
) -> None:
    values = np.arange(4096).reshape(64, 64)
    expected = np.rint(values * (65_535 / 4095))
    raw = values - (2048 if kind == "<i2" else 0)
    noise = np.random.default_rng(3).integers(2 ** (high - 11), size=values.shape)
    words = ((raw << (high - 11)) | noise).astype(np.int64) & 0xFFFF
    pixels = words.astype("<u2").view(kind)
    path = tmp_path / "radiograph"
    for syntax in ("", LOSSLESS["RLE"]):
        path.write_bytes(with_high_bit(make_dicom(pixels, 16, syntax=syntax), high))
        assert np.array_equal(read_radiograph(path), expected)
    if high == 15:
        path.write_bytes(with_high_bit(make_dicom(pixels, 16), high, big=True))
        assert np.array_equal(read_radiograph(path), expected)
    for syntax in (LOSSLESS["JPEG lossless SV1"], LOSSLESS["JPEG 2000 lossless"]):
        path.write_bytes(with_high_bit(make_dicom(pixels, 16, syntax=syntax), high))
        if high > 11:
            with pytest.raises(InputError, match=f"12 bits end at bit {high} of 16"):
                read_radiograph(path)


def with_high_bit(data: bytes, high: int, *, big: bool = False) -> bytes:
    """The same file, said to hold 12 bits that end at `high`."""
    import io

    from pydicom import Dataset, dcmread
    from pydicom.uid import ExplicitVRBigEndian

    dataset: Dataset = dcmread(io.BytesIO(data))
    dataset.BitsStored, dataset.HighBit = 12, high
    if big:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        meta, dataset = dataset.file_meta, Dataset(dataset)
        dataset.file_meta, meta.TransferSyntaxUID = meta, ExplicitVRBigEndian
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_inverse_presentation_does_not_invert_twice(
    read: Read, hand: npt.NDArray[np.uint8]
) -> None:
    for photometric, shape in (("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")):
        header = {"PresentationLUTShape": shape, "PhotometricInterpretation": photometric}
        expected = 255 - hand if shape == "INVERSE" else hand
        assert np.array_equal(read(hand, 8, **header), expected)


def test_colour_captures_become_grey(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(read(np.dstack([hand] * 3), 8), hand)
    luma = np.dstack([hand, np.full_like(hand, 128), np.full_like(hand, 128)])
    grey = read(luma, 8, PhotometricInterpretation="YBR_FULL")
    assert np.abs(grey.astype(int) - hand).max() <= 1
    palette = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (
            ("Descriptor", [256, 0, 16]),
            ("Data", (np.arange(255, -1, -1) * 257).astype("<u2").tobytes()),
        )
    }
    mapped = read(hand, 8, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert steps_apart(mapped, 255 - hand) <= 0.01
    with pytest.raises(InputError, match="grey pixels have a colour table"):
        read(hand, 8, **palette)
    del palette["BluePaletteColorLookupTableData"]
    with pytest.raises(InputError, match="BluePaletteColorLookupTable can't be read"):
        read(hand, 8, PhotometricInterpretation="PALETTE COLOR", **palette)


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_what_pacs_send_is_read_exactly(
    read: Read, hand: npt.NDArray[np.uint8], name: str, bits: int
) -> None:
    stored = hand if bits == 8 else spread(hand, bits)
    assert np.array_equal(read(stored, bits, syntax=LOSSLESS[name]), read(stored, bits))
    if name != "JPEG-LS near lossless":
        signed = (stored.astype(np.int32) - 2 ** (bits - 1)).astype(f"i{stored.itemsize}")
        assert np.array_equal(read(signed, bits, syntax=LOSSLESS[name]), read(stored, bits))


WITHOUT_FILES = """
import resource, sys
from boneage.radiographs.reader import read_radiograph

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(*read_radiograph(sys.argv[1]).shape)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize("name", LOSSLESS)
def test_it_is_read_where_no_file_can_be_written(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "radiograph.dcm"
    path.write_bytes(make_dicom(hand, 8, syntax=LOSSLESS[name]))
    command = [sys.executable, "-B", "-c", WITHOUT_FILES, str(path)]
    shape = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shape.split() == [str(size) for size in hand.shape]


def test_baseline_jpeg_is_read_and_twelve_bit_jpeg_refused(
    read: Read, hand: npt.NDArray[np.uint8]
) -> None:
    assert np.abs(read(hand, 8, syntax=JPEG).astype(int) - hand).max() <= 12
    with pytest.raises(InputError, match="JPEG of 1[26] bits"):
        read(spread(hand, 12), 12, syntax=JPEG_12)


@pytest.mark.parametrize(
    ("syntax", "bits"), [(JPEG, 8), *((LOSSLESS["JPEG lossless"], b) for b in (8, 12, 16))]
)
def test_half_a_frame_with_an_end_marker_is_refused(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path, syntax: str, bits: int
) -> None:
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, get_frame

    stored = hand if bits == 8 else spread(hand, bits)
    dataset = dcmread(io.BytesIO(make_dicom(stored, bits, syntax=syntax)))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    half = frame[: len(frame) // 4 * 2] + b"\xff\xd9"
    dataset.PixelData = encapsulate([half])
    dataset.save_as(tmp_path / "radiograph.dcm")
    with pytest.raises(InputError, match="truncated"):
        read_radiograph(tmp_path / "radiograph.dcm")


def with_frame(data: bytes, change: Callable[[bytes], list[bytes]], *, table: bool = True) -> bytes:
    """The same file with other fragments of its compressed pixels."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, get_frame, itemize_fragment

    dataset = dcmread(io.BytesIO(data))
    fragments = change(get_frame(dataset.PixelData, 0, number_of_frames=1))
    items = b"".join(itemize_fragment(part + bytes(len(part) % 2)) for part in fragments)
    empty_table = b"\xfe\xff\x00\xe0\0\0\0\0"
    dataset.PixelData = encapsulate(fragments) if table else empty_table + items
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("syntax", [JPEG, LOSSLESS["JPEG lossless"], LOSSLESS["JPEG 2000"]])
def test_a_frame_may_have_fragments_but_the_file_one_frame(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path, syntax: str
) -> None:
    path = tmp_path / "radiograph.dcm"
    data = make_dicom(hand, 8, syntax=syntax)
    path.write_bytes(data)
    whole = read_radiograph(path)
    path.write_bytes(with_frame(data, lambda frame: [frame[:200], frame[200:]], table=False))
    assert np.array_equal(read_radiograph(path), whole)
    for table in (True, False):
        path.write_bytes(with_frame(data, lambda frame: [frame, frame], table=table))
        with pytest.raises(InputError, match="holds 2 frames, and the header says 1"):
            read_radiograph(path)


@pytest.mark.parametrize("name", ["JPEG 2000 lossless", "JPEG 2000"])
@pytest.mark.parametrize("filling", ["zeros", "random"])
def test_lost_blocks_of_jpeg_2000_are_refused(
    make_dicom: MakeDicom, tmp_path: Path, name: str, filling: str
) -> None:
    radiograph = draw_hand(120, "F", rng=np.random.default_rng(0), size=256)
    data = make_dicom(radiograph, 8, syntax=LOSSLESS[name])
    path = tmp_path / "radiograph.dcm"
    lost = bytes(3000) if filling == "zeros" else np.random.default_rng(0).bytes(3000)
    for share in (4, 3, 2):

        def without(frame: bytes, share: int = share) -> list[bytes]:
            start = len(frame) // share
            return [frame[:start] + lost + frame[start + len(lost) :]]

        path.write_bytes(with_frame(data, without))
        with pytest.raises(InputError, match="truncated or damaged"):
            read_radiograph(path)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("name", ["JPEG lossless", "JPEG-LS", "JPEG 2000 lossless", "RLE"])
def test_a_hole_in_a_compressed_frame_is_refused(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path, bits: int, name: str
) -> None:
    stored = hand if bits == 8 else spread(hand, bits)
    data = make_dicom(stored, bits, syntax=LOSSLESS[name])
    path = tmp_path / "radiograph.dcm"
    for share in (3, 2):

        def without(frame: bytes, share: int = share) -> list[bytes]:
            start = len(frame) // share
            return [frame[:start] + frame[start + len(frame) // 4 :]]

        path.write_bytes(with_frame(data, without))
        with pytest.raises(InputError, match="truncated|damaged|can't be decoded"):
            read_radiograph(path)


@pytest.mark.parametrize("bit", [1, 8, 64])
def test_a_changed_run_of_rle_is_refused(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path, bit: int
) -> None:
    def changed(frame: bytes) -> list[bytes]:
        return [frame[:64] + bytes([frame[64] ^ bit]) + frame[65:]]

    path = tmp_path / "radiograph.dcm"
    path.write_bytes(with_frame(make_dicom(hand, 8, syntax=LOSSLESS["RLE"]), changed))
    with pytest.raises(InputError, match="run-length coded pixels"):
        read_radiograph(path)


def test_missing_tiles_of_jpeg_2000_are_counted(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    def smaller_tiles(frame: bytes) -> list[bytes]:
        at = frame.index(b"\xff\x51") + 22  # the size of a tile
        return [frame[:at] + struct.pack(">II", 64, 64) + frame[at + 8 :]]

    path = tmp_path / "radiograph.dcm"
    data = make_dicom(hand, 8, syntax=LOSSLESS["JPEG 2000 lossless"])
    path.write_bytes(with_frame(data, smaller_tiles))
    with pytest.raises(InputError, match="have 1 of 4 tiles"):
        read_radiograph(path)


def test_compressed_colour_is_read(read: Read, hand: npt.NDArray[np.uint8]) -> None:
    colour = np.dstack([hand] * 3)
    for syntax in (LOSSLESS["RLE"], LOSSLESS["JPEG 2000 lossless"], LOSSLESS["JPEG lossless SV1"]):
        assert np.array_equal(read(colour, 8, syntax=syntax), hand)


def test_a_missing_decoder_is_named(
    read: Read, hand: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom.importlib.util, "find_spec", lambda name: None)
    for name in ("JPEG lossless", "JPEG-LS"):
        with pytest.raises(InputError, match=r'not installed.*pip install "boneage\[dicom\]"'):
            read(hand, 8, syntax=LOSSLESS[name])
    for name in ("JPEG 2000", "RLE"):
        assert np.array_equal(read(hand, 8, syntax=LOSSLESS[name]), hand)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ({"NumberOfFrames": 3}, r"3 frames \(a multi-frame object\)"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000 pixels"),
        ({"Rows": 500}, "number of pixels is not that in the header"),
        ({"Rows": 40}, "number of pixels is not that in the header"),
        ({"Rows": 60}, "number of pixels is not that in the header"),
        ({"Columns": 95}, "number of pixels is not that in the header"),
        ({"BitsStored": 30}, "30 of 8 bits"),
        ({"BitsStored": 0}, "0 of 8 bits"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"PhotometricInterpretation": "Doe^Jane"}, "of a kind that is not supported"),
    ],
)
def test_hostile_headers_are_refused_without_naming_a_person(
    make_dicom: MakeDicom,
    hand: npt.NDArray[np.uint8],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    header: dict[str, Any],
    what: str,
) -> None:
    path = tmp_path / "radiograph.dcm"
    path.write_bytes(make_dicom(hand, 8, **header))
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError, match=what) as caught:
        read_radiograph(path)
    for text in (str(caught.value), caplog.text):
        assert "Doe" not in text
        assert "20150401" not in text


def test_headers_alone_are_opened_and_pixels_left(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "radiograph.dcm"
    data = make_dicom(hand, 8)
    path.write_bytes(data)
    with quiet_pydicom():
        assert "PixelData" not in open_dicom(path, pixels=False)
        assert open_dicom(path).PixelData == hand.tobytes()
    for length in (140, len(data) // 8, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="radiograph.dcm: .*(truncated|header|damaged)"):
            open_dicom(path)
    path.write_text("no DICOM" * 100)
    with pytest.raises(InputError, match="is not DICOM"):
        open_dicom(path, pixels=False)


def test_files_without_a_preamble_are_recognised_by_name_and_content(
    make_dicom: MakeDicom, hand: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    from pydicom import dcmread

    whole = tmp_path / "whole.dcm"
    whole.write_bytes(make_dicom(hand, 8))
    bare = tmp_path / "IM0001"
    dcmread(whole).save_as(bare, enforce_file_format=False)
    data = whole.read_bytes()[132:]  # the group of the file itself stays
    for path in (tmp_path / "bare.dcm", tmp_path / "1.2.840.113.9", bare):
        path.write_bytes(data)
        assert np.array_equal(read_radiograph(path), hand)
    assert not is_dicom(data, Path("radiograph.png"))
    assert not is_dicom(b"no DICOM" * 40, Path("radiograph.dcm"))


@pytest.mark.parametrize("is_implicit", [True, False])
@pytest.mark.parametrize("is_little", [True, False])
def test_a_file_need_not_name_its_transfer_syntax(
    make_dicom: MakeDicom,
    hand: npt.NDArray[np.uint8],
    tmp_path: Path,
    is_implicit: bool,
    is_little: bool,
) -> None:
    from pydicom import Dataset, dcmread
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    if is_implicit and not is_little:
        pytest.skip("DICOM has no such syntax")
    stored = spread(hand, 16)
    dataset = dcmread(io.BytesIO(make_dicom(stored, 16)))
    dataset.PixelData = stored.astype("<u2" if is_little else ">u2").tobytes()
    content = DicomBytesIO()
    content.is_implicit_VR, content.is_little_endian = is_implicit, is_little
    write_dataset(content, Dataset(dataset))
    path = tmp_path / "radiograph.dcm"
    path.write_bytes(bytes(128) + b"DICM" + content.getvalue())
    assert np.array_equal(read_radiograph(path), stored)


def test_a_deflated_bomb_is_not_unfolded(
    make_dicom: MakeDicom,
    hand: npt.NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    path = tmp_path / "radiograph.dcm"
    path.write_bytes(make_dicom(hand, 8))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert np.array_equal(read_radiograph(path), hand)
    monkeypatch.setattr("boneage.radiographs.dicom.LARGEST_FILE", 1000)
    with pytest.raises(InputError, match="radiograph.dcm"):
        read_radiograph(path)


@pytest.mark.skipif(
    not REAL.exists(), reason="needs the real radiograph, which is not in the repository"
)
def test_the_real_radiograph_shows_bright_bone() -> None:
    radiograph = read_radiograph(REAL)
    assert radiograph.dtype == np.uint16
    assert radiograph.shape == (1760, 1760)
    assert read_dimensions(REAL) == (1760, 1760)
    air, bone = radiograph[1000:1200, 500:650].mean(), radiograph[1500:1600, 750:900].mean()
    assert bone > 3 * air
