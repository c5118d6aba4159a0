"""Every image of a manifest decoded once and looked at, and what is wrong with each or with two."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from boneage.datasets.audit.near_duplicates import Fingerprint, Pair, find_pairs, fingerprint
from boneage.datasets.manifest import Region, image_path, parse_region
from boneage.datasets.tables import Cells, Finding
from boneage.datasets.validation import is_file
from boneage.errors import Fault, InputError
from boneage.radiographs.image_quality import (
    EMPTY_SHARE,
    FLAT_LEVELS,
    SATURATED_SHARE,
    Quality,
    assess_quality,
)
from boneage.radiographs.orientation import shrunk
from boneage.radiographs.reader import SMALLEST_SIDE, Radiograph, read_radiograph
from boneage.runtime.threads import threads

_REGION_FIX = "Correct the column region, or leave it empty for the whole radiograph."

Part = tuple[Path, Region | None]
"""An image, and the part of it that is meant."""


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """What decoding and looking at one image told.

    Attributes:
        code: Kind of fault when there is one.
        fault: What is wrong, when it can't be looked at or there is nothing on it.
        height: Of the part that is meant, in pixels; 0 when it was not read.
        width: Likewise.
        bits: Of a pixel.
        quality: What the radiograph looks like; None when there is nothing to look at.
        print: To know it again; likewise.
    """

    code: str = ""
    fault: Fault | None = None
    height: int = 0
    width: int = 0
    bits: int = 0
    quality: Quality | None = None
    print: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of fault that looking at a radiograph tells."""

    code: str
    is_so: Callable[[Quality], bool]
    what: Callable[[Quality], str]
    expected: str
    fix: str


_KINDS = (
    _Kind(
        "turned-hand",
        lambda q: q.is_turned,
        lambda q: f"it looks {'upside down' if q.orientation.turn == 180 else 'sideways'}",
        "an upright hand",
        "Look at it; turn the file, or leave its row out.",
    ),
    _Kind(
        "two-hands",
        lambda q: q.has_two_hands,
        lambda q: "it looks like a radiograph of two hands",
        "one hand",
        "Look at it; name the part of the left hand in the column region.",
    ),
    _Kind(
        "inverted",
        lambda q: q.is_inverted,
        lambda q: "it looks inverted, bone dark on light",
        "bone bright on dark",
        "Look at it; export it again, or invert the file.",
    ),
    _Kind(
        "flat-image",
        lambda q: q.spread < FLAT_LEVELS,
        lambda q: "next to nothing is on it: its levels hardly differ",
        f"levels that differ by {FLAT_LEVELS:g} of 255 or more",
        "Look at it; export it again with its full range, or leave its row out.",
    ),
    _Kind(
        "saturated-image",
        lambda q: q.lightest > SATURATED_SHARE,
        lambda q: "most of it is at its lightest level",
        f"at most {SATURATED_SHARE:.0%} of a radiograph burnt out",
        "Look at it; export it again with another window, or leave its row out.",
    ),
    _Kind(
        "nearly-empty-image",
        lambda q: q.dark > EMPTY_SHARE and q.spread >= FLAT_LEVELS,  # else it is flat
        lambda q: "it is nearly empty: next to all of it is as dark as its background",
        f"a hand on more than {1 - EMPTY_SHARE:.0%} of the film",
        "Look at it; export it again, or leave its row out.",
    ),
)


def image_parts(cells: Cells, manifest: Path) -> list[Part | None]:
    """Each row's image; None where there is none, which the table's findings say already."""
    if "image" not in cells.table:
        return [None] * len(cells.table)
    folder = manifest.parent.resolve()
    regions = cells.table["region"] if "region" in cells.table else [""] * len(cells.table)
    paths = [image_path(folder, name) if name else None for name in cells.table["image"]]
    return [
        (path, parse_region(region)) if path is not None and is_file(path) else None
        for path, region in zip(paths, regions, strict=True)
    ]


def look_at_all(parts: Sequence[Part | None], *, progress: bool) -> dict[Part, Look]:
    """Decodes every image once and looks at it; what is broken is told by its look."""
    unique = list(dict.fromkeys(part for part in parts if part is not None))
    # Decoding lets go of the interpreter lock; more threads than cores hide a slow disk.
    with threads(min(16, 2 * (os.cpu_count() or 1))) as pool:
        looks: Iterable[Look] = pool.map(_look, unique)
        if progress:
            console = Console(stderr=True)
            looks = track(looks, "Checking images", total=len(unique), console=console)
        return dict(zip(unique, looks, strict=True))


def _look(part: Part) -> Look:
    path, region = part
    try:
        radiograph = read_radiograph(path)
    except InputError as error:
        empty = is_file(path) and path.stat().st_size == 0
        return Look("empty-file" if empty else "unreadable-image", error.faults[0])
    bits = 8 * radiograph.itemsize
    if region is not None:
        height, width = radiograph.shape
        left, top, right, bottom = region
        if right > width or bottom > height:
            return Look("region-outside", _outside(path, region, width, height))
        if min(right - left, bottom - top) < SMALLEST_SIDE:
            return Look("region-too-small", _too_small(path, region))
        radiograph = radiograph[top:bottom, left:right]
    height, width = radiograph.shape
    if radiograph.min() == radiograph.max():
        return Look("blank-image", _blank(path, radiograph), height, width, bits)
    quality, print_ = assess_quality(radiograph), fingerprint(shrunk(radiograph))
    return Look("", None, height, width, bits, quality, print_)


def _outside(path: Path, region: Region, width: int, height: int) -> Fault:
    return Fault(
        str(path),
        f"its region {' '.join(map(str, region))} reaches out of the picture",
        _REGION_FIX,
        expected=f"a part of {width} x {height} pixels",
    )


def _too_small(path: Path, region: Region) -> Fault:
    return Fault(
        str(path),
        f"its region {' '.join(map(str, region))} is too small",
        _REGION_FIX,
        expected=f"sides of at least {SMALLEST_SIDE} pixels",
    )


def _blank(path: Path, radiograph: Radiograph) -> Fault:
    return Fault(
        str(path),
        f"every pixel is {radiograph.flat[0]}",
        "Look at it; leave its row out if there is no hand.",
        expected="a picture",
    )


def look_findings(
    cells: Cells, parts: Sequence[Part | None], looks: Mapping[Part, Look]
) -> list[Finding]:
    """What is wrong with single images: those that can't be used, then those to look at."""
    wrong: dict[tuple[str, str, str], dict[int, str]] = {}
    for row, part in enumerate(parts):
        look = looks[part] if part is not None else Look()
        if look.fault is not None:
            kind = (look.code, look.fault.expected, look.fault.fix)
            wrong.setdefault(kind, {})[row] = look.fault.what
    for kind_ in _KINDS:
        for row, part in enumerate(parts):
            quality = looks[part].quality if part is not None else None
            if quality is not None and kind_.is_so(quality):
                kind = (kind_.code, kind_.expected, kind_.fix)
                wrong.setdefault(kind, {})[row] = kind_.what(quality)
    images = cells.table["image"] if wrong else ()
    findings: list[Finding] = []
    for (code, expected, fix), rows in wrong.items():
        what = {row: f"image {images[row]}: {text}" for row, text in rows.items()}
        findings += cells.row_findings(code, what, what.__getitem__, expected, fix)
    return findings


def duplicate_findings(
    cells: Cells, parts: Sequence[Part | None], looks: Mapping[Part, Look]
) -> list[Finding]:
    """Films that are the same though their files are not, within a split and across."""
    first_row: dict[Part, int] = {}
    for row, part in enumerate(parts):
        if part is not None and looks[part].print is not None:
            first_row.setdefault(part, row)
    radiographs, rows = [path for path, _ in first_row], list(first_row.values())
    prints = [look.print for part in first_row if (look := looks[part]).print is not None]
    splits = cells.table["split"] if "split" in cells.table else [""] * len(cells.table)
    across: dict[int, str] = {}
    within: dict[int, str] = {}
    for pair in find_pairs(prints):
        if (
            radiographs[pair.second] == radiographs[pair.first]
        ):  # two parts of one radiograph may overlap
            continue
        row, other = rows[pair.second], rows[pair.first]
        where = within if splits[row] == splits[other] else across
        where.setdefault(row, _same(cells, row, other, pair))
    expected, fix = "each radiograph once", "Look at both; keep one of the rows."
    return [
        *cells.row_findings(
            "near-duplicate-in-two-splits",
            sorted(across),
            across.__getitem__,
            "each radiograph in one split",
            "Look at both. Move both to one split, or keep one of them.",
        ),
        *cells.row_findings("near-duplicate", sorted(within), within.__getitem__, expected, fix),
    ]


def _same(cells: Cells, row: int, other: int, pair: Pair) -> str:
    images = cells.table["image"]
    mirrored = " mirrored" if pair.mirrored else ""
    return (
        f"image {images[row]} looks the same{mirrored} as {images[other]} of row "
        f"{cells.rows[other]} (likeness {np.floor(100 * pair.likeness) / 100:.2f})"
    )
