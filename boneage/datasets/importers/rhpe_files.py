"""The radiographs of RHPE: which file belongs to which row, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.columns import few, radiograph_number
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, with_suffix
from boneage.datasets.importers.rhpe_labels import Labels, split_of
from boneage.datasets.tables.cells import Finding
from boneage.datasets.validation import SPLITS
from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_dimensions
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

_PACKED = (".zip", ".rar", ".7z", ".tar", ".gz")


class Radiographs:
    """The image files, by radiograph number and by the split that their folders say.

    Args:
        files: All files below the folder.
        root: The folder, absolute.
    """

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        self.root = root
        self.archives = [str(path.relative_to(root)) for path in with_suffix(files, _PACKED)]
        self.found: dict[str, list[tuple[str | None, Path]]] = {}
        for path in with_suffix(files, IMAGE_SUFFIXES):
            entry = (split_of(path, root), path)
            self.found.setdefault(radiograph_number(path.name), []).append(entry)

    def candidates(self, number: str, split: str) -> list[Path]:
        """Files that could be this radiograph: of its split, or else of none. Another's never is."""
        entries = self.found.get(number, [])
        return [path for where, path in entries if where == split] or [
            path for where, path in entries if where is None
        ]

    def choose(self, labels: Labels) -> list[Path | None]:
        """The file of each row; None where there is none, or more than one."""
        candidates = [self.candidates(number, labels.split) for number in labels.numbers()]
        return [paths[0] if len(paths) == 1 else None for paths in candidates]

    def findings(self, labels: Labels, paths: Sequence[Path | None]) -> list[Finding]:
        """Rows without a radiograph, or with several."""
        ids, split = labels.numbers(), labels.split
        unclear = [row for row, path in enumerate(paths) if path is None and ids[row]]
        several = [row for row in unclear if self.candidates(ids[row], split)]
        absent = sorted(set(unclear) - set(several))

        def missing(row: int) -> str:
            elsewhere = [path for _, path in self.found.get(ids[row], [])]
            what = f"there is no radiograph {ids[row].zfill(5)}.png of {split}"
            return what + (f", only {self._listed(elsewhere)}" if elsewhere else "")

        return labels.cells.row_findings(
            "missing-file",
            absent,
            missing,
            f"one below {self.root}",
            f"Unpack {few(self.archives)} first."
            if self.archives
            else "Is the download complete? If the radiograph does not exist, remove the row.",
        ) + labels.cells.row_findings(
            "ambiguous-image",
            several,
            lambda row: (
                "several files have its number: " + self._listed(self.candidates(ids[row], split))
            ),
            f"one radiograph of each id below {self.root}",
            "Name the folder that holds one copy, or move the others away.",
        )

    def left_out(self, used: set[Path | None], splits: set[str]) -> Iterator[str]:
        """Notes on radiographs that no row names."""
        rest: dict[str | None, list[str]] = {}
        for entries in self.found.values():
            for split, path in entries:
                if path not in used:
                    rest.setdefault(split, []).append(str(path.relative_to(self.root)))
        for split in (*SPLITS, None):
            if names := sorted(rest.get(split, [])):
                why = (
                    "have no labels (those of the test set are hidden) and are left out"
                    if split == "test" and "test" not in splits
                    else "have no row in a table and are left out"
                )
                of_split = "" if split is None else f"{split} "
                yield f"{len(names):,} {of_split}radiographs {why} ({few(names)})."

    def _listed(self, paths: Iterable[Path]) -> str:
        return ", ".join(str(path.relative_to(self.root)) for path in paths)


def claimed_twice(
    tables: Sequence[Labels], chosen: Sequence[Sequence[Path | None]]
) -> list[Finding]:
    """Films without a split of their own that the tables of two splits claim."""
    claims: dict[Path, str] = {}
    findings: list[Finding] = []
    for labels, paths in zip(tables, chosen, strict=True):
        claimed = {row: path for row, path in enumerate(paths) if path is not None}
        first = {row: claims[path] for row, path in claimed.items() if path in claims}

        def twice(
            row: int, claimed: dict[int, Path] = claimed, first: dict[int, str] = first
        ) -> str:
            return f"film {claimed[row].name} is labelled in {first[row]} too"

        findings += labels.cells.row_findings(
            "image-in-two-splits",
            first,
            twice,
            "each radiograph in one split",
            "Put the radiographs of each split in a folder with train, val or test in its name.",
        )
        claims |= dict.fromkeys(claimed.values(), labels.cells.where)
    return findings


def read_sizes(
    paths: Sequence[Path], *, progress: bool
) -> tuple[dict[Path, tuple[int, int]], list[Fault]]:
    """Width and height of every radiograph, from its header alone."""

    def size(path: Path) -> tuple[int, int] | InputError:
        try:
            return read_dimensions(path)
        except InputError as error:
            return error

    with threads(usable_cores()) as pool:
        answers = track(
            pool.map(size, paths),
            "Reading the sizes of films",
            total=len(paths),
            console=Console(stderr=True),
            disable=not (progress and paths),
        )
        found = dict(zip(paths, answers, strict=True))
    sizes = {path: answer for path, answer in found.items() if not isinstance(answer, InputError)}
    errors = [answer for answer in found.values() if isinstance(answer, InputError)]
    return sizes, [fault for error in errors for fault in error.faults]
