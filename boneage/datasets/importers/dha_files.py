"""The radiographs of the Digital Hand Atlas, and what their folders say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boneage.datasets.importers.columns import few, radiograph_number
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, with_suffix
from boneage.errors import Fault, InputError

RACES = ("ASI", "BLK", "CAU", "HIS")
OLDEST_YEAR = 18
LAYOUT = "ASIF/ASIF02/5131.jpg and such: race (ASI, BLK, CAU, HIS) and sex, with years, number"

_GROUP = re.compile(rf"({'|'.join(RACES)})[ _-]?([FM])", re.IGNORECASE)
_YEAR = re.compile(rf"{_GROUP.pattern}[ _-]?([0-9]{{2}})", re.IGNORECASE)
_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One radiograph.

    Attributes:
        path: Absolute.
        number: As the atlas numbers it, without zeros in front.
        race: As the atlas names it: ASI, BLK, CAU or HIS.
        sex: F or M.
        year: Whole years of age.
    """

    path: Path
    number: str
    race: str
    sex: str
    year: int

    @property
    def group(self) -> str:
        """The name of its folder, such as ASIF02."""
        return f"{self.race}{self.sex}{self.year:02d}"


def group_of(name: str) -> str | None:
    """ASIF02 of a folder called so, however it is written."""
    match = _YEAR.fullmatch(name)
    if match is None or int(match[3]) > OLDEST_YEAR:
        return None
    return f"{match[1]}{match[2]}{match[3]}".upper()


def find_radiographs(
    files: Sequence[Path], root: Path
) -> tuple[list[Radiograph], list[str], list[Fault]]:
    """The radiographs among these files, images that are none, and what is wrong with the tree.

    Args:
        files: All files below the folder.
        root: The folder, absolute.

    Raises:
        InputError: There is not one radiograph.
    """
    radiographs: list[Radiograph] = []
    others: list[str] = []
    faults: list[Fault] = []
    for path in with_suffix(files, IMAGE_SUFFIXES):
        group = group_of(path.parent.name)
        if group is None:
            others.append(str(path.relative_to(root)))
            continue
        outer = path.parent.parent.name
        if _GROUP.fullmatch(outer) and re.sub(r"[ _-]", "", outer).upper() != group[:4]:
            faults.append(
                Fault(
                    str(path.relative_to(root)),
                    f"the folder {path.parent.name} is in {outer}",
                    "Find out which of the two is right, and move it.",
                    expected=f"{group} in {group[:4]}",
                )
            )
        number = radiograph_number(path.name)
        radiographs.append(Radiograph(path, number, group[:3], group[3], int(group[4:])))
    if not radiographs:
        raise InputError(
            Fault(
                str(root),
                f"none of its {len(others):,} images is in a folder of race, sex and age",
                "Is it the folder that holds ASIF, ASIM, BLKF and so on?",
                expected=LAYOUT,
            )
        )
    return radiographs, others, [*faults, *_twice(radiographs, root)]


def _twice(radiographs: Sequence[Radiograph], root: Path) -> list[Fault]:
    """Numbers that several radiographs have: which one a reading is of could not be told."""
    paths: dict[str, list[str]] = {}
    for radiograph in radiographs:
        paths.setdefault(radiograph.number, []).append(str(radiograph.path.relative_to(root)))
    twice = {number: found for number, found in paths.items() if len(found) > 1}
    expected = "each number once in the atlas"
    fix = "Name the folder of one copy of the atlas, or move the wrong radiographs away."
    if len(twice) > _MOST_FAULTS:
        first = few(found for places in twice.values() for found in places)
        what = f"{len(twice):,} numbers are those of several radiographs ({first})"
        return [Fault(str(root), what, fix, expected=expected)]
    return [
        Fault(
            str(root),
            f"{len(found)} radiographs have number {number}: {few(found)}",
            fix,
            expected=expected,
        )
        for number, found in twice.items()
    ]
