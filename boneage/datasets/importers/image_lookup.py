"""Find the file that a table names by a path, a bare id or a pattern."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boneage.datasets.cell_text import number_key
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, is_litter
from boneage.datasets.label_rules import image_path
from boneage.datasets.validation import is_file
from boneage.errors import Fault, InputError

SUFFIXES = (*IMAGE_SUFFIXES, ".dcm", ".dicom")
"""Suffixes that a table may leave out, in capitals too."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PADDED = re.compile(r"(.+):0([1-9][0-9]?)", re.DOTALL)
_MAX_VISITED = 5_000
_LETTERS = 4


class ImageFiles:
    """The images below one folder, found by the names that a table has for them.

    Attributes:
        root: The folder that names start from: absolute, with links resolved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def named(self, name: str) -> list[Path]:
        """Return every file that a path may mean.

        If there is a file of exactly that path, only this file is meant. Otherwise the suffix may
        be missing or in capitals, folders may be separated by backslashes, and accents may be
        composed differently (as on macOS). If nothing fits, a number is compared as a number: 1 and
        1.0, as spreadsheets write it, are 001.png.
        """
        path = image_path(self.root, name)
        if is_file(path):
            return [path]
        path = image_path(self.root, name.replace("\\", "/"))
        listing = self._listing(path.parent)
        found = listing.get(_folded(path.name))
        if not found:
            stem, suffix = _split_suffix(path.name)
            numbered = listing.get(_number_key(stem), [])
            found = [entry for entry in numbered if entry.lower().endswith(suffix)]
        return [path.parent / entry for entry in found]

    def find_folder(self, name: str) -> Path | None:
        """Return the folder below the root that has an image of that name, if found quickly."""
        wanted = _folded(name.replace("\\", "/"))
        visited = 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if Path(folder) != self.root and self.named(str(Path(folder, wanted))):
                return Path(folder)
            visited += len(names) + len(folders)
            if visited > _MAX_VISITED:
                return None
        return None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Return the files of a folder by folded name, images without suffix and by number too."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            for name in filter(_is_text, _file_names(folder)):
                listing.setdefault(_folded(name), []).append(name)
                stem, suffix = os.path.splitext(name)  # noqa: PTH122  (a Path a file is slow)
                if suffix.lower() in SUFFIXES:
                    listing.setdefault(_folded(stem), []).append(name)
                    listing.setdefault(_number_key(stem), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def _folded(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    if suffix.lower() in SUFFIXES:
        name = stem + suffix.lower()
    return unicodedata.normalize("NFC", name)


def is_same_number(name: str, path: Path) -> bool:
    """Return whether a table calls an image by its number, but writes it in another way."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, _ = _split_suffix(last)
    return stem != path.stem and _number_key(stem) == _number_key(path.stem)


def _split_suffix(name: str) -> tuple[str, str]:
    """Return a name without its suffix, and the suffix in lower case if it is an image's."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return (stem, suffix.lower()) if suffix.lower() in SUFFIXES else (name, "")


def _number_key(name: str) -> str:
    """Return the key of a name that is a whole number: the same for 1, 001 and 1.0.

    The key is no file name, so that it never hides one.
    """
    number = number_key(name)
    return f"/{number}" if number.isascii() and number.isdigit() else f"//{name}"


def _file_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_file() and not is_litter(e.name))
    except (OSError, ValueError):  # no such folder, or a name that no file system would take
        return []


def _is_text(name: str) -> bool:
    """Return whether a file's name can be written in UTF-8, and so into a manifest."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


@dataclass(frozen=True)
class Pattern:
    """A path with `{column}` for a row's cell, `{column:05}` zero-padded, and `*`.

    Attributes:
        text: The pattern, its folders separated by `/`.
        pieces: Each a plain text, then a column and the width to which its cell is padded; the last
            piece has no column.
    """

    text: str
    pieces: tuple[tuple[str, str | None, int], ...]

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Pattern:
        """Parse a pattern; a name in braces is a column, whether the table has it or not.

        Args:
            text: Such as `images/{id}_*.tif`.
            columns: The columns of the table; one may itself be called `id:05`.
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
        """The columns that the pattern names, each once."""
        return list(dict.fromkeys(name for _, name, _ in self.pieces if name is not None))

    @property
    def folder(self) -> str:
        """The folder that is the same for all rows."""
        fixed = re.split(r"[*{]", self.text, maxsplit=1)[0]
        return fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "")

    def filled(self, row: Mapping[str, str]) -> str:
        """Return the path of one row; a `*` of the pattern stays in it."""
        return "".join(text + _padded(row, name, width) for text, name, width in self.pieces)

    def plain_parts(self, row: Mapping[str, str]) -> list[str]:
        """Return the texts between a row's wildcards; a `*` of the table is no wildcard."""
        parts = [""]
        for text, name, width in self.pieces:
            first, *further = text.replace("**/", "*").split("*")
            parts[-1] += first
            parts += further
            parts[-1] += _padded(row, name, width)
        return parts

    def expression(self, row: Mapping[str, str]) -> re.Pattern[str]:
        """Return the expression of a row's path; `*` stays in one folder, `**/` is any folders."""
        parts = []
        for text, name, width in self.pieces:
            plain = re.escape(text).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            parts += [plain, re.escape(_padded(row, name, width))]
        return re.compile("".join(parts), re.DOTALL)


def _padded(row: Mapping[str, str], name: str | None, width: int) -> str:
    return "" if name is None else row[name].zfill(width)


class PatternFiles:
    """The images that fit a pattern with `*`; the folder is listed once."""

    def __init__(self, root: Path, pattern: Pattern) -> None:
        """List the folder.

        Args:
            root: The folder that the pattern starts from: absolute, with links resolved.
            pattern: Has a `*`.

        Raises:
            InputError: The folder does not exist, or a folder in it can't be listed.
        """
        self.pattern = pattern
        base = image_path(root, pattern.folder or ".")
        if not base.is_dir():
            what = f"there is no folder {base}"
            fix = "Correct the pattern, or name the folder it starts from with --image-root."
            raise InputError(Fault(f"--image {pattern.text}", what, fix))
        base = base.resolve()
        if any(sign in pattern.text.rpartition("/")[0] for sign in "*{"):  # several folders
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
        # A row is compared only with the names that hold the rarest four letters of its path.
        self._by_letters: dict[str, list[str]] = {}
        for name in self._paths:
            for letters in set(_windows(name)):
                self._by_letters.setdefault(letters, []).append(name)

    def fitting(self, row: Mapping[str, str]) -> list[Path]:
        """Return every image that fits a row; other kinds of files only if no image does."""
        row = {name: unicodedata.normalize("NFC", text) for name, text in row.items()}
        parts, expression = self.pattern.plain_parts(row), self.pattern.expression(row)
        lists = [self._by_letters.get(s, []) for part in parts for s in _windows(part)]
        fitting = [
            name
            for name in min(lists, key=len, default=list(self._paths))
            if all(part in name for part in parts) and expression.fullmatch(name)
        ]
        images = [name for name in fitting if name.lower().endswith(SUFFIXES)]
        return [path for name in sorted(images or fitting) for path in self._paths[name]]


def _windows(text: str) -> list[str]:
    return [text[i : i + _LETTERS] for i in range(len(text) - _LETTERS + 1)]
