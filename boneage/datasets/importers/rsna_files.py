"""The radiographs of the RSNA 2017 challenge: one file for every id, wherever it was put or is packed."""

from __future__ import annotations

import filecmp
import os
import zipfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.columns import few
from boneage.datasets.importers.folder import (
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    by_stem,
    is_litter,
    with_suffix,
)
from boneage.datasets.importers.rsna_labels import SPLIT_WORDS, Labels, split_by_name
from boneage.datasets.tables.cells import Finding
from boneage.errors import Fault

_KAGGLE_TEST_TABLE = "boneage-test-dataset.csv"


class Radiographs:
    """Every image file below a folder, by the id that it is named by.

    Args:
        files: All files below `root`.
        root: The folder.
    """

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        self.root = root
        self.archives = with_suffix(files, (".zip",))
        self._files = files
        self._paths = by_stem(with_suffix(files, IMAGE_SUFFIXES))
        self._differ: set[str] = set()
        self._copied: list[str] = []

    def compare_copies(self, ids: Collection[str], *, progress: bool = True) -> None:
        """Looks, for every id with several files, whether they are the same byte for byte."""
        several = [name for name in ids if len(self._paths.get(name, ())) > 1]
        for name in track(
            several,
            "Comparing copies",
            console=Console(stderr=True),
            disable=not (progress and several),
        ):
            first, *rest = self._paths[name]
            if all(_is_same(first, other) for other in rest):
                self._copied.append(name)
            else:
                self._differ.add(name)

    def path(self, name: str, near: Path) -> Path:
        """The file of an id; of copies that are all the same, the one nearest to `near`."""

        def steps(path: Path) -> tuple[int, Path]:
            return len(Path(os.path.relpath(path, near.parent)).parts), path

        return min(self._paths[name], key=steps)

    def without_row(self, labelled: Collection[str]) -> list[str]:
        """Ids of images that no table labels."""
        return [name for name in self._paths if name not in labelled]

    def findings(self, labels: Labels) -> list[Finding]:
        """Rows of a table that have no image, or several that differ."""
        ids = labels.ids()
        absent = [row for row, name in enumerate(ids) if name and name not in self._paths]
        unclear = [row for row, name in enumerate(ids) if name in self._differ]
        return labels.cells.row_findings(
            "missing-file",
            absent,
            lambda row: f"there is no image {ids[row]}.png",
            f"one below {self.root}",
            self._how_to_unpack({ids[row] for row in absent})
            or "Is the download complete and unpacked? If the radiograph does not exist, remove the row.",
        ) + labels.cells.row_findings(
            "ambiguous-image",
            unclear,
            lambda row: (
                "several files have its name and they differ: "
                + ", ".join(self._short(path) for path in self._paths[ids[row]])
            ),
            f"one image of each id below {self.root}",
            "Name the folder that holds one copy, or move the others away.",
        )

    def packed_tables(self, absent: Collection[str]) -> list[Fault]:
        """Archives that still hold the table of a split that would be made up for otherwise."""
        here = {path.name for path in self._files}
        faults: list[Fault] = []
        for archive in self.archives:
            for name in _members(archive):
                split = split_by_name(name.name)
                if (
                    split is not None
                    and split in absent
                    and name.suffix.lower() in TABLE_SUFFIXES
                    and name.name not in here
                    and name.name != _KAGGLE_TEST_TABLE
                ):
                    faults.append(
                        Fault(
                            str(archive),
                            f"{name.name} is still packed in it",
                            "Unpack it first; or, to go without, move it out of the folder.",
                            expected=f"the table of the {SPLIT_WORDS[split]} set beside the others",
                        )
                    )
        return faults

    def copies_note(self) -> Iterable[str]:
        """Says how many ids have several files that are all the same."""
        if self._copied:
            yield (
                f"{len(self._copied):,} images are there more than once, the same byte for byte; "
                f"one file of each is used ({few(self._copied)})."
            )

    def _how_to_unpack(self, ids: set[str]) -> str:
        if not ids or not self.archives:
            return ""
        holding = [
            archive
            for archive in self.archives
            if any(name.stem in ids or name.suffix == ".zip" for name in _members(archive))
        ]
        names = [self._short(archive) for archive in holding or self.archives]
        return f"Unpack {few(names)} first."

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.root))


def _is_same(first: Path, other: Path) -> bool:
    try:
        return first.samefile(other) or filecmp.cmp(first, other, shallow=False)
    except OSError:
        return False  # which of them is to be used can't be told either


def _members(archive: Path) -> list[PurePosixPath]:
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [PurePosixPath(name) for name in opened.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return []  # it is named all the same, when nothing else holds the radiographs
    return [name for name in names if not any(map(is_litter, name.parts))]
