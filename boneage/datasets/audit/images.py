"""Decode and inspect every image of a manifest, and find images that are bad or the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boneage.datasets.audit.near_duplicates import Fingerprint, Pair, find_pairs, fingerprint
from boneage.datasets.cells import Cells, Finding
from boneage.datasets.label_rules import SEXES, Region, image_path, parse_region
from boneage.datasets.validation import is_file
from boneage.errors import Fault, InputError
from boneage.radiographs.dicom_headers import DicomHeader, find_dicom_header, header_findings
from boneage.radiographs.image_quality import (
    ImageFinding,
    Quality,
    assess_quality,
    find_blank,
    quality_findings,
)
from boneage.radiographs.orientation import shrunk
from boneage.radiographs.reader import SMALLEST_SIDE, Radiograph, read_radiograph
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

Part = tuple[Path, Region | None]
"""A radiograph, and the part of it that is used; None for all of it."""
Judge = Callable[[Radiograph], ImageFinding | None]
"""Says why a model would refuse an image. It is called from several threads at once."""


@dataclass(frozen=True, eq=False, slots=True)
class ImageInspection:
    """What decoding and inspecting one image has shown.

    Attributes:
        code: Kind of fault; empty when there is none.
        fault: Why the image can't be used, or that it is blank.
        height: Height of the part that is used, in pixels; 0 when the image was not read.
        width: Its width.
        bits: Bits of a pixel.
        quality: What the image shows; None when it was not read or is blank.
        fingerprint: For finding the same image again; None likewise.
        header: Its header; None likewise, and for files that are no DICOM.
        refusal: Why a model would refuse it; None if it would not, or without a model.
    """

    code: str = ""
    fault: Fault | None = None
    height: int = 0
    width: int = 0
    bits: int = 0
    quality: Quality | None = None
    fingerprint: Fingerprint | None = None
    header: DicomHeader | None = None
    refusal: ImageFinding | None = None


def image_parts(cells: Cells, manifest: Path) -> list[Part | None]:
    """Return the image of each row; None where it is missing, which is a finding of the table."""
    if "image" not in cells.table:
        return [None] * len(cells.table)
    folder = manifest.parent.resolve()
    regions = cells.table["region"] if "region" in cells.table else [""] * len(cells.table)
    paths = [image_path(folder, name) if name else None for name in cells.table["image"]]
    return [
        (path, parse_region(region)) if path is not None and is_file(path) else None
        for path, region in zip(paths, regions, strict=True)
    ]


def inspect_images(
    parts: Sequence[Part | None], *, progress: bool, judge: Judge | None = None
) -> dict[Part, ImageInspection]:
    """Decode and inspect every image once; an image that can't be read is no exception."""
    unique = list(dict.fromkeys(part for part in parts if part is not None))
    # Decoding releases the interpreter lock; more threads than cores hide a slow disk.
    with threads(min(16, 2 * usable_cores())) as pool:
        inspections: Iterable[ImageInspection] = pool.map(partial(_inspect, judge=judge), unique)
        if progress:
            console = Console(stderr=True)
            inspections = track(inspections, "Checking images", total=len(unique), console=console)
        return dict(zip(unique, inspections, strict=True))


def _inspect(part: Part, judge: Judge | None) -> ImageInspection:
    path, region = part
    try:
        image = read_radiograph(path)
        header = find_dicom_header(path)
    except InputError as error:
        is_empty = is_file(path) and path.stat().st_size == 0
        return ImageInspection("empty-file" if is_empty else "unreadable-image", error.faults[0])
    if region is not None:
        left, top, right, bottom = region
        height, width = image.shape
        named = f"its region {' '.join(map(str, region))}"
        fix = "Correct the column region, or leave it empty for the whole radiograph."
        if right > width or bottom > height:
            what = f"{named} extends beyond the image of {width} x {height} pixels"
            return ImageInspection("region-outside", Fault(str(path), what, fix))
        if min(right - left, bottom - top) < SMALLEST_SIDE:
            what = f"{named} has a side of less than {SMALLEST_SIDE} pixels"
            return ImageInspection("region-too-small", Fault(str(path), what, fix))
        image = image[top:bottom, left:right]
    height, width = image.shape
    bits = 8 * image.itemsize
    if (blank := find_blank(image)) is not None:
        fault = Fault(str(path), blank.what, f"{blank.fix} {blank.row_fix}")
        return ImageInspection(blank.code, fault, height, width, bits)
    print_ = fingerprint(shrunk(image))
    quality, refusal = assess_quality(image), None if judge is None else judge(image)
    return ImageInspection("", None, height, width, bits, quality, print_, header, refusal)


def inspection_findings(
    cells: Cells, parts: Sequence[Part | None], inspections: Mapping[Part, ImageInspection]
) -> list[Finding]:
    """Return what is wrong with single images: first the unusable, then the suspicious ones."""
    wrong: dict[tuple[str, str, str], dict[int, str]] = {}
    shown = [(row, inspections[part]) for row, part in enumerate(parts) if part is not None]
    for row, inspection in shown:
        if (fault := inspection.fault) is not None:
            wrong.setdefault((inspection.code, fault.expected, fault.fix), {})[row] = fault.what
    for row, inspection in shown:
        sex = cells.table["sex"][row] if "sex" in cells.table else ""
        for found in _suspicions(inspection, sex):
            fix = f"{found.fix} {found.row_fix}"
            wrong.setdefault((found.code, "", fix), {})[row] = found.what
    findings: list[Finding] = []
    for (code, expected, fix), rows in wrong.items():
        what = {row: f"image {cells.table['image'][row]}: {text}" for row, text in rows.items()}
        findings += cells.row_findings(code, what, what.__getitem__, expected, fix)
    return findings


def _suspicions(inspection: ImageInspection, sex: str) -> Iterator[ImageFinding]:
    if inspection.header is not None and sex in SEXES:
        yield from header_findings(inspection.header, sex)
    if inspection.quality is not None:
        found = quality_findings(inspection.quality)
        yield from found
        refusal = inspection.refusal
        if refusal is not None and refusal.code not in {finding.code for finding in found}:
            yield refusal


def duplicate_findings(
    cells: Cells, parts: Sequence[Part | None], inspections: Mapping[Part, ImageInspection]
) -> list[Finding]:
    """Return the radiographs that are the same in two files, within a split and across splits."""
    first_row: dict[Part, int] = {}
    prints = []
    for row, part in enumerate(parts):
        if part is not None and part not in first_row:
            print_ = inspections[part].fingerprint
            if print_ is not None:
                first_row[part] = row
                prints.append(print_)
    paths, rows = [path for path, _ in first_row], list(first_row.values())
    splits = cells.table["split"] if "split" in cells.table else [""] * len(cells.table)
    across: dict[int, str] = {}
    within: dict[int, str] = {}
    for pair in find_pairs(prints):
        if paths[pair.second] == paths[pair.first]:
            continue  # two parts of one radiograph may overlap
        row, other = rows[pair.second], rows[pair.first]
        found = within if splits[row] == splits[other] else across
        found.setdefault(row, _describe_pair(cells, row, other, pair))
    fix = "Check both images, and keep one of the rows."
    return [
        *cells.row_findings(
            "near-duplicate-in-two-splits",
            sorted(across),
            across.__getitem__,
            "",
            "Check both images. Move both to one split, or keep one of them.",
        ),
        *cells.row_findings("near-duplicate", sorted(within), within.__getitem__, "", fix),
    ]


def _describe_pair(cells: Cells, row: int, other: int, pair: Pair) -> str:
    images = cells.table["image"]
    mirrored = ", mirrored" if pair.mirrored else ""
    likeness = int(100 * pair.likeness) / 100  # never rounded up to 1.00
    return (
        f"image {images[row]} is the same radiograph as {images[other]} in row "
        f"{cells.rows[other]} (correlation {likeness:.2f}{mirrored})"
    )
