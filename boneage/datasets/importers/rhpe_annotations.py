"""Where the left hand is on an RHPE radiograph of both hands: its COCO annotation, or the left half.

Format: COCO keypoints, https://cocodataset.org/#format-data; seventeen points, the centres of the
anatomical regions of interest, and the box of the annotated hand, which is the left one. Cutting
the left half of the width is what the authors' own loader does without a box.
Source: Escobar et al., MICCAI 2019, doi:10.1007/978-3-030-32226-7_59.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boneage.datasets.importers.columns import few, radiograph_number
from boneage.datasets.validation import Region
from boneage.errors import Fault

POINTS = 17
MOST_BYTES = 64 << 20
"""Of an annotation file; the atlas's own are some megabytes."""
MOST_VALUES = 2_000_000
"""In an annotation file; the atlas's own have half a million at most."""
MARGIN = 0.05
"""Of the annotated hand's longer side, added on every side: the box is drawn tight."""
BARE_MARGIN = 0.15
"""The same where there is no box: the points are joints, and fingertips lie beyond them."""

_FEWEST_POINTS = 9  # of seventeen; fewer don't span a hand
_SLACK = 0.02  # of the radiograph's side, for boxes rounded or drawn over its edge
_SMALLEST_SHARE = 0.1  # of the radiograph's longer side; no hand is smaller on its radiograph
_WIDE_SHARE = 0.75  # of the width, on a radiograph of two hands
_MISFITS_BORNE = (3, 0.05)  # so many, or this share of the annotations, are cut by halves instead

Box = tuple[float, float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Hand:
    """One annotation.

    Attributes:
        box: Left, top, right, bottom in pixels; None where it has none that encloses anything.
        points: The labelled keypoints, x and y in pixels.
        size: Width and height of the picture it was drawn on, where the file says them.
    """

    box: Box | None
    points: tuple[tuple[float, float], ...]
    size: tuple[float, float] | None = None

    def extent(self) -> Box | None:
        """The union of box and points; None where there is too little of both."""
        if self.box is None and len(self.points) < _FEWEST_POINTS:
            return None
        corners = [*self.points]
        if self.box is not None:
            corners += [self.box[:2], self.box[2:]]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass
class RegionTally:
    """How the regions of one split were found, for the notes.

    Attributes:
        annotated: Radiographs cut by their annotation.
        halved: Reasons why others were cut in halves, with the radiographs.
        misfits: Radiographs whose annotation doesn't fit the picture, and how.
        tall: Radiographs cut in halves though they are taller than wide.
        wide: Radiographs whose region takes most of the width.
        boxless: Radiographs cut by their keypoints alone.
        pointless: Radiographs cut by their box alone.
        scaled: Radiographs that are not of the size that their annotation was drawn on.
    """

    annotated: int = 0
    halved: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    misfits: dict[str, str] = field(default_factory=dict)
    tall: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    boxless: list[str] = field(default_factory=list)
    pointless: list[str] = field(default_factory=list)
    scaled: list[str] = field(default_factory=list)

    def too_many_misfits(self) -> bool:
        """Whether the annotations are for other pictures altogether."""
        most, share = _MISFITS_BORNE
        return len(self.misfits) > max(most, share * (self.annotated + len(self.misfits)))

    def notes(self, split: str) -> Iterator[str]:
        """What there is to say that is not a fault."""
        if self.annotated:
            yield f"{split}: {self.annotated:,} left hands are cut out by their annotations."
        for reason, radiographs in self.halved.items():
            yield (
                f"{split}: {len(radiographs):,} radiographs are cut to the left half of their width, because "
                f"{reason} ({few(radiographs)})."
            )
        for radiographs, what in (
            (self.boxless, "have no box: their keypoints alone say where the hand is"),
            (self.pointless, "have no labelled keypoints: the box alone says where the hand is"),
            (self.scaled, "are not of the size they were annotated at: the boxes are scaled"),
            (
                self.tall,
                "are cut in halves though taller than wide: look whether they show 2 hands",
            ),
            (self.wide, "have a region of most of their width: look whether both hands are in it"),
        ):
            if radiographs:
                yield f"{split}: {len(radiographs):,} radiographs {what} ({few(radiographs)})."


def read_annotations(path: Path) -> tuple[dict[str, list[Hand]], list[Fault]] | None:
    """The annotated hands of every radiograph of a COCO file, by radiograph number.

    Returns:
        The hands and what is wrong with the file; None when it is JSON of another kind.
    """
    try:
        content = _parsed(path)
    except (OSError, ValueError, RecursionError) as error:
        return {}, [
            Fault(
                str(path),
                f"it can't be read as JSON ({error})",
                "Fetch it again; or move it away, and the left half of each radiograph is taken.",
                expected="the keypoint annotations of RHPE, whole",
            )
        ]
    if isinstance(content, Fault):
        return {}, [content]
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        return None
    radiographs, faults = _radiographs(path, content["images"])
    hands: dict[str, dict[Hand, None]] = {number: {} for number, _ in radiographs.values()}
    strangers = []
    entries = content["annotations"] if isinstance(content["annotations"], list) else [None]
    for place, entry in enumerate(entries):
        image = _identity(entry.get("image_id")) if isinstance(entry, dict) else None
        if image is None or image not in radiographs:
            strangers.append(f"entry {place}" if image is None else image)
            continue
        number, size = radiographs[image]
        hands[number][_hand(entry, size)] = None  # the same hand twice is one hand
    if strangers:
        faults.append(
            Fault(
                str(path),
                f"{len(strangers):,} annotations are of images it doesn't list ({few(strangers)})",
                "Fetch the file again; or move it away, and the left half of each radiograph is taken.",
                expected="an image_id that is an id in its images",
            )
        )
    return {number: list(of_radiograph) for number, of_radiograph in hands.items()}, faults


def _parsed(path: Path) -> Any:
    """What a JSON file holds, or the fault that it is too large to be an annotation file.

    The bytes alone don't bound it: `[[],[],…]` takes some thirty times its size when parsed, so
    what begins or parts values is counted first.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")  # a pipe may never end
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        what = f"it has more than {MOST_BYTES:,} bytes"
    elif (values := sum(content.count(mark) for mark in (b"[", b"{", b","))) > MOST_VALUES:
        what = f"it holds some {values:,} values"
    else:
        return json.loads(content.decode("utf-8-sig"))
    return Fault(
        str(path),
        what,
        "It is not the atlas's own: move it out of the folder.",
        expected=f"annotations of at most {MOST_BYTES:,} bytes and {MOST_VALUES:,} values",
    )


def cut(number: str, hands: Sequence[Hand] | None, size: Size, tally: RegionTally) -> Region:
    """The region of the left hand on one radiograph, and why, into the tally.

    Args:
        number: The radiograph's, for the tally.
        hands: Its annotations; None when its split has no annotation file.
        size: Width and height of the radiograph, pixels.
        tally: Of its split.
    """
    width, height = size
    half: Region = (0, 0, max(1, width // 2), height)

    def halve(reason: str) -> Region:
        tally.halved[reason].append(number)
        if height > width:
            tally.tall.append(number)
        return half

    if hands is None:
        return halve("there is no annotation file for them")
    if not hands:
        return halve("they have no annotation")
    if len(hands) > 1:
        return halve("they have several different annotations, and which is the left is not said")
    hand = hands[0]
    extent = hand.extent()
    if extent is None:
        return halve("their annotation is blank")
    scale = _scale(hand, size)
    if scale is None:
        tally.misfits[number] = "the annotation was drawn on a picture of another shape"
        return half
    extent = (extent[0] * scale, extent[1] * scale, extent[2] * scale, extent[3] * scale)
    if (misfit := _misfit(extent, size)) is not None:
        tally.misfits[number] = misfit
        return half
    if scale != 1:
        tally.scaled.append(number)
    tally.annotated += 1
    if hand.box is None:
        tally.boxless.append(number)
    elif not hand.points:
        tally.pointless.append(number)
    region = _region(extent, size, BARE_MARGIN if hand.box is None else MARGIN)
    if width > height and region[2] - region[0] > _WIDE_SHARE * width:
        tally.wide.append(number)
    return region


def misfit_fault(where: str, tally: RegionTally, sizes: Mapping[str, Size]) -> Fault:
    """The fault that a file's annotations are for other pictures than these."""
    first, what = next(iter(tally.misfits.items()))
    width, height = sizes[first]
    return Fault(
        where,
        f"{len(tally.misfits):,} of {tally.annotated + len(tally.misfits):,} annotations don't fit "
        f"their radiographs ({few(tally.misfits)}); of radiograph {first}, {width} x {height} pixels, {what}",
        "Were the radiographs resized? Put the original ones there; or move this file away, and the left "
        "half of each radiograph is taken.",
        expected="boxes inside the pictures",
    )


def settle_misfits(tally: RegionTally) -> None:
    """Counts the few radiographs whose annotation doesn't fit among those cut in halves."""
    if tally.misfits:
        reason = "their annotation is not within the picture or has not the shape of a hand"
        tally.halved[reason].extend(tally.misfits)


def _radiographs(path: Path, images: object) -> tuple[dict[str, tuple[str, Any]], list[Fault]]:
    """Film number and annotated size by the image's id."""
    radiographs: dict[str, tuple[str, Any]] = {}
    bad, twice = [], []
    numbers: Counter[str] = Counter()
    for place, entry in enumerate(images if isinstance(images, list) else [None]):
        identity = _identity(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if identity is None or not isinstance(name, str) or not name:
            bad.append(f"entry {place}")
            continue
        if identity in radiographs:
            twice.append(f"id {identity}")
        number = radiograph_number(name)
        numbers[number] += 1
        size = _floats([entry.get("width"), entry.get("height")], 2)
        radiographs[identity] = (number, (size[0], size[1]) if size and min(size) > 0 else None)
    twice += [f"film {number}" for number, times in numbers.items() if times > 1]
    faults = [
        Fault(
            str(path),
            f"{len(wrong):,} images {what} ({few(wrong)})",
            "Fetch the file again; or move it away, and the left half of each radiograph is taken.",
            expected="an id and a file_name for each image, each once",
        )
        for wrong, what in ((bad, "have no id or file_name"), (twice, "are listed twice"))
        if wrong
    ]
    return radiographs, faults


def _identity(value: object) -> str | None:
    """An image's id, the same for 7, 7.0 and "7"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value)


def _hand(entry: Mapping[str, Any], size: tuple[float, float] | None) -> Hand:
    box = None
    sides = _floats(entry.get("bbox"), 4)
    if sides is not None and sides[2] > 0 and sides[3] > 0:
        box = (sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3])
    flat = _floats(_flat(entry.get("keypoints")), 3 * POINTS) or []
    triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    # 0 is "not labelled", and such a point stands at the origin; 1 is hidden, 2 is visible.
    points = tuple((x, y) for x, y, seen in triples if seen > 0 and (x, y) != (0, 0))
    return Hand(box, points, size)


def _flat(values: object) -> object:
    """Seventeen triples in lists of their own are the same as 51 numbers."""
    if isinstance(values, list) and all(isinstance(value, list) for value in values):
        return [number for triple in values for number in triple]
    return values


def _floats(values: object, count: int) -> list[float] | None:
    """The numbers of a JSON list of that length; None when it isn't one."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    try:
        numbers = [float(value) for value in values]
    except OverflowError:  # a whole number of 400 digits
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _scale(hand: Hand, size: Size) -> float | None:
    """From the annotated picture to this radiograph; None when they differ in shape."""
    if hand.size is None:
        return 1.0
    across, down = size[0] / hand.size[0], size[1] / hand.size[1]
    if across == down == 1:
        return 1.0
    return across if abs(across / down - 1) <= _SLACK else None


def _misfit(extent: Box, size: Size) -> str | None:
    """Why an annotation can't be of this radiograph, if so."""
    left, top, right, bottom = extent
    width, height = size
    slack = _SLACK * max(size)
    if left < -slack or top < -slack or right > width + slack or bottom > height + slack:
        return f"it reaches outside the picture ({left:.0f} {top:.0f} {right:.0f} {bottom:.0f})"
    across = min(right, width) - max(left, 0)
    down = min(bottom, height) - max(top, 0)
    if max(across, down) < _SMALLEST_SHARE * max(size) or 3 * min(across, down) < max(across, down):
        return f"it has not the size and shape of a hand ({across:.0f} x {down:.0f} pixels)"
    return None


def _region(extent: Box, size: Size, margin: float) -> Region:
    left, top, right, bottom = extent
    more = margin * max(right - left, bottom - top)
    return (
        max(0, math.floor(left - more)),
        max(0, math.floor(top - more)),
        min(size[0], math.ceil(right + more)),
        min(size[1], math.ceil(bottom + more)),
    )
