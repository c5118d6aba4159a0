"""Which file is meant by what a table says of an image: a path, a bare id, or a pattern."""

from __future__ import annotations

import os
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, is_litter
from boneage.datasets.manifest import image_path
from boneage.datasets.validation import is_file
from boneage.errors import Fault, InputError

SUFFIXES = (*IMAGE_SUFFIXES, ".dcm", ".dicom")
"""What may be left out behind an image's name, in capitals too."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PADDED = re.compile(r"(.+):0([1-9][0-9]?)", re.DOTALL)
_MOST_LOOKED_AT = 5_000
_LETTERS, _FEW = 3, 8
_AFTER = "\U0010ffff"  # behind every text that goes on from the same start


class ImageFiles:
    """The images below one folder, looked up by the names that a table has for them."""

    def __init__(self, root: Path) -> None:
        """Looks at nothing yet.

        Args:
            root: Absolute, with links resolved; what the names start from.
        """
        self.root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def named(self, name: str) -> list[Path]:
        """Every file that may be meant by a path; one is clear, none or several are not.

        A file of exactly that path is the only one meant. Else a suffix may be left out or differ
        in capitals, Windows' backslashes may divide folders, and letters with accents may be
        composed otherwise (as macOS does).
        """
        path = image_path(self.root, name)
        if is_file(path):
            return [path]
        path = image_path(self.root, name.replace("\\", "/"))
        found = self._listing(path.parent).get(_folded(path.name), [])
        return [path.parent / entry for entry in found]

    def below(self, name: str) -> Path | None:
        """The folder further down in which an image of that name is, if it is found soon."""
        wanted = _folded(name.replace("\\", "/"))
        looked = 0
        for here, folders, names in os.walk(self.root):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            if Path(here) != self.root and self.named(str(Path(here, wanted))):
                return Path(here)
            looked += len(names) + len(folders)
            if looked > _MOST_LOOKED_AT:
                return None
        return None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """The files of a folder by their folded name, images by that without suffix as well."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            for name in filter(_is_text, _file_names(folder)):
                listing.setdefault(_folded(name), []).append(name)
                stem, suffix = os.path.splitext(name)  # noqa: PTH122  (a Path a file is slow)
                if suffix.lower() in SUFFIXES:
                    listing.setdefault(_folded(stem), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def _folded(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    if suffix.lower() in SUFFIXES:
        name = stem + suffix.lower()
    return unicodedata.normalize("NFC", name)


def _file_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_file() and not is_litter(e.name))
    except (OSError, ValueError):  # no such folder, or a name that no file system would take
        return []


def _is_text(name: str) -> bool:
    """Whether a file's name can be written in UTF-8, and so into a manifest."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@dataclass(frozen=True)
class Pattern:
    """A path with `{column}` for what a row has there, `{column:05}` zero-padded, and `*`.

    Attributes:
        text: As it was given, folders divided by `/`.
        pieces: Plain text, then the column and the width to which what it has is padded; the last
            one has no column.
    """

    text: str
    pieces: tuple[tuple[str, str | None, int], ...]

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Pattern:
        """Reads a pattern; a name in braces is taken for a column, whether there is one or not.

        Args:
            text: Such as `films/{id}_*.tif`.
            columns: Those of the table, of which one may itself be called `id:05`.
        """
        text = text.replace("\\", "/")
        pieces: list[tuple[str, str | None, int]] = []
        end = 0
        for found in _PLACEHOLDER.finditer(text):
            name, width = found[1], 0
            if name not in columns and (padded := _PADDED.fullmatch(name)):
                name, width = padded[1], int(padded[2])
            pieces.append((text[end : found.start()], name, width))
            end = found.end()
        return cls(text, (*pieces, (text[end:], None, 0)))

    @property
    def columns(self) -> list[str]:
        """The columns it names, each once."""
        return list(dict.fromkeys(name for _, name, _ in self.pieces if name is not None))

    @property
    def has_wildcards(self) -> bool:
        """Whether there is a `*` in it."""
        return any("*" in text for text, _, _ in self.pieces)

    @property
    def folder(self) -> str:
        """The folder that all of its paths are below, as far as it is the same for all rows."""
        fixed = re.split(r"[*{]", self.text, maxsplit=1)[0]
        return fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "")

    @property
    def is_deep(self) -> bool:
        """Whether its images may be in several folders."""
        return any(sign in self.text.rpartition("/")[0] for sign in "*{")

    @property
    def tail(self) -> Pattern:
        """The last part of it, which has no `/` of its own."""
        for i in reversed(range(len(self.pieces))):
            text, name, width = self.pieces[i]
            if "/" in text:
                after = text.rpartition("/")[2]
                return Pattern(self.text, ((after, name, width), *self.pieces[i + 1 :]))
        return self

    def filled(self, row: Mapping[str, str]) -> str:
        """The path for one row, its own `*` still in it."""
        return "".join(text + _padded(row, name, width) for text, name, width in self.pieces)

    def plain_parts(self, row: Mapping[str, str]) -> list[str]:
        """What is between a row's wildcards: the path's start first, its end last.

        A `*` that stands in the table is no wildcard.
        """
        parts = [""]
        for text, name, width in self.pieces:
            first, *further = text.replace("**/", "*").split("*")
            parts[-1] += first
            parts += further
            parts[-1] += _padded(row, name, width)
        return parts

    def expression(self, row: Mapping[str, str]) -> re.Pattern[str]:
        """A row's whole path; `*` stays within one folder, `**/` is any folders or none."""
        parts = []
        for text, name, width in self.pieces:
            plain = re.escape(text).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            parts += [plain, re.escape(_padded(row, name, width))]
        return re.compile("".join(parts), re.DOTALL)


def _padded(row: Mapping[str, str], name: str | None, width: int) -> str:
    return "" if name is None else row[name].zfill(width)


class PatternFiles:
    """The images that fit a pattern with `*`; the folder is looked through once."""

    def __init__(self, root: Path, pattern: Pattern) -> None:
        """Looks through the folder.

        Args:
            root: Absolute, with links resolved; what the pattern starts from.
            pattern: Has a `*`.

        Raises:
            InputError: It isn't there, or a folder in it can't be looked into.
        """
        self.pattern = pattern
        base = image_path(root, pattern.folder or ".")
        if not base.is_dir():
            what = f"there is no folder {base}"
            fix = "Correct the pattern, or name the folder it starts from with --image-root."
            raise InputError(
                Fault(f"--image {pattern.text}", what, fix, expected="the images' folder")
            )
        base = base.resolve()
        if pattern.is_deep:
            found = files_below(base, progress=False)
        else:
            found = [base / name for name in _file_names(base)]
        start = f"{pattern.folder.rstrip('/')}/" if pattern.folder else ""
        self._paths: dict[str, list[Path]] = {}
        for path in found:
            below = path.relative_to(base).as_posix()
            if _is_text(below):
                name = unicodedata.normalize("NFC", start + below)
                self._paths.setdefault(name, []).append(path)
        # Three ways to a few that are worth a closer look, wherever the `*` stands.
        self._by_path = sorted((name, name) for name in self._paths)
        self._by_name = sorted((name.rpartition("/")[2], name) for name in self._paths)
        self._by_letters: dict[str, list[str]] = {}
        for name in self._paths:
            for letters in {name[i : i + _LETTERS] for i in range(len(name) - _LETTERS + 1)}:
                self._by_letters.setdefault(letters, []).append(name)

    def fitting(self, row: Mapping[str, str]) -> list[Path]:
        """Every image that fits what a row says; other kinds of files only if no image does."""
        row = {name: unicodedata.normalize("NFC", text) for name, text in row.items()}
        parts, expression = self.pattern.plain_parts(row), self.pattern.expression(row)
        fitting = [
            name
            for name in self._likely(parts, row)
            if all(part in name for part in parts) and expression.fullmatch(name)
        ]
        images = [name for name in fitting if name.lower().endswith(SUFFIXES)]
        return [path for name in sorted(images or fitting) for path in self._paths[name]]

    def _likely(self, parts: Sequence[str], row: Mapping[str, str]) -> list[str]:
        orders = [(self._by_path, parts[0])]
        if not any("/" in text for text in row.values()):
            orders.append((self._by_name, self.pattern.tail.plain_parts(row)[0]))
        ranges = [
            (bisect_left(order, (start, "")), bisect_left(order, (start + _AFTER, "")), order)
            for order, start in orders
        ]
        begin, end, order = min(ranges, key=lambda found: found[1] - found[0])
        if end - begin > _FEW:
            lists = [
                self._by_letters.get(part[i : i + _LETTERS], [])
                for part in parts
                for i in range(len(part) - _LETTERS + 1)
            ]
            rarest = min(lists, key=len, default=None)
            if rarest is not None and len(rarest) < end - begin:
                return rarest
        return [name for _, name in order[begin:end]]
