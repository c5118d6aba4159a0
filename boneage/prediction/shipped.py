"""Trained models that ship with the project: by which name, where, whole, and left as they are.

A released model is a run folder without tables, in which nothing changes any more. `release.json`
marks it, `SHA256SUMS` says what its files must be. It is in the folder `shipped_models/NAME`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from boneage.errors import Fault, InputError
from boneage.runtime.files import is_part, read_json, write_bytes
from boneage.runtime.provenance import file_digest

RELEASE_NAME = "release.json"
SUMS_NAME = "SHA256SUMS"
COPIED = ("recipe.json", "run.json", "best.keras")  # what makes a run folder, the model last


def shipped_models() -> dict[str, Path]:
    """The folders of the models that ship with the project, by name; read from the disk."""
    shelf = Path(__file__).parent / "shipped_models"
    return {found.parent.name: found.parent for found in sorted(shelf.glob(f"*/{RELEASE_NAME}"))}


def find_run(run: Path) -> Path:
    """The folder that is meant: the run of that path, else the shipped model of that name.

    Raises:
        InputError: There is neither.
    """
    shipped = shipped_models()
    named = str(run) in shipped
    if run.is_dir() and not (named and not (run / COPIED[0]).exists()):
        return run
    if named:
        return shipped[str(run)]
    if not shipped or len(run.parts) > 1 or run.is_absolute():
        what, expected, fix = "there is no such folder", "a run folder", "Check the path."
    else:
        close = difflib.get_close_matches(str(run), shipped, n=1)
        what = "there is no such folder, and no model of that name ships with boneage"
        expected = f"a run folder, or one of {', '.join(shipped)}"
        fix = f"Did you mean {close[0]!r}?" if close else "Check the path."
    raise InputError(Fault(str(run), what, fix, expected=expected))


def is_release(folder: Path) -> bool:
    """Whether a folder holds a released model, in which nothing is to be written."""
    return (folder / RELEASE_NAME).exists()


def check_release(folder: Path) -> None:
    """Holds the files of a released model against its `SHA256SUMS`; other folders pass.

    Raises:
        InputError: The sums are missing, or a file is missing or another than was released.
    """
    if not is_release(folder):
        return
    fix = "Fetch the model again: git checkout, or install boneage anew."
    try:
        lines = (folder / SUMS_NAME).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        expected = {}
    # A list that leaves the model out would vouch for any.
    faults = [
        Fault(
            str(folder / SUMS_NAME), f"it has no sum for {name}", fix, expected="one for each file"
        )
        for name in COPIED
        if name not in expected
    ]
    for name, digest in expected.items():
        path = folder / name
        found = file_digest(path) if path.is_file() else None
        if found != digest:
            what = f"its sha256 is {found}" if found else "the file is missing"
            faults.append(Fault(str(path), what, fix, expected=f"{digest}, as {SUMS_NAME} says"))
    if faults:
        raise InputError(faults)


def sums(folder: Path) -> str:
    """The text of a `SHA256SUMS` for a release: what `sha256sum -c` reads, the card left out."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in _UNSUMMED)
    return "".join(f"{file_digest(folder / name)}  {name}\n" for name in names)


_UNSUMMED = (SUMS_NAME, "README.md")  # a word mended in the card breaks nothing


def own_folder(folder: Path) -> Path:
    """Where the files of an evaluation go: a run's own folder, for a release a copy of it.

    The copy of a release called NAME is the run folder `$BONEAGE_RUNS/NAME`, or `runs/NAME`; it is
    made where it is not there yet.

    Raises:
        InputError: The release is damaged, or there is another model of that name in the runs.
    """
    if not is_release(folder):
        return folder
    copy = _place_of_copy(folder)
    model = copy / COPIED[-1]
    if not model.exists():
        check_release(folder)
        if copy.exists() and any(not _is_copied(path, folder) for path in copy.iterdir()):
            raise InputError(_not_a_copy(copy, "there is something else in the folder"))
        for name in COPIED:  # the model last: without it, this is no run yet
            write_bytes(copy / name, (folder / name).read_bytes())
    elif file_digest(model) != file_digest(folder / model.name):
        raise InputError(_not_a_copy(copy, "it holds another model"))
    return copy


def evaluated_folder(folder: Path) -> Path:
    """As `own_folder`, for what reads evaluations: a copy must be there already.

    Raises:
        InputError: It is a release that was not evaluated here.
    """
    if is_release(folder) and not _place_of_copy(folder).exists():
        name = _name(folder)
        raise InputError(
            Fault(
                name,
                "this model ships without the radiographs it was tested on, and no evaluation of it is "
                f"in {_place_of_copy(folder)}",
                f"Run: boneage evaluate {name} --data MANIFEST.",
                expected="one made here",
            )
        )
    return own_folder(folder)


def _name(folder: Path) -> str:
    return str(read_json(folder / RELEASE_NAME)["name"])


def _place_of_copy(folder: Path) -> Path:
    return Path(os.environ.get("BONEAGE_RUNS") or "runs") / _name(folder)


def _is_copied(path: Path, folder: Path) -> bool:
    """Whether that is of a copy of a release that was cut off."""
    original = folder / path.name
    same = path.name in COPIED and path.is_file() and path.read_bytes() == original.read_bytes()
    return same or is_part(path)


def _not_a_copy(copy: Path, what: str) -> Fault:
    return Fault(
        str(copy),
        what,
        "Move it elsewhere, or name another folder for runs with the variable BONEAGE_RUNS.",
        expected="a copy of the released model of that name, or nothing",
    )
