"""Open a finished run, or a model that ships with the project, and check its files.

A shipped model is the run folder `shipped_models/NAME` without predictions and scores per split.
Its file `release.json` marks it, and `SHA256SUMS` lists the checksums of its files.
Nothing is written into it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from boneage.errors import Fault, InputError
from boneage.prediction.answers import ModelIdentity
from boneage.run import Run
from boneage.runtime.files import read_text
from boneage.runtime.names import check_name
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import FileSchema, Text, read_checked

RELEASE_NAME = "release.json"
SUMS_NAME = "SHA256SUMS"
CARD_NAME = "README.md"

_NEEDED = ("recipe.json", "run.json")
_NETWORKS = ("best.keras", "model.onnx")  # one of them is enough
_NOT_SUMMED = (SUMS_NAME, CARD_NAME)  # correcting the card must not break the release


def shipped_models() -> dict[str, Path]:
    """Return the folders of the models that ship with the project, by name."""
    folder = Path(__file__).parent / "shipped_models"
    return {found.parent.name: found.parent for found in sorted(folder.glob(f"*/{RELEASE_NAME}"))}


def find_run(run: Path) -> Path:
    """Return the run folder of this path, or else the shipped model of this name.

    Raises:
        InputError: There is neither.
    """
    shipped = shipped_models()
    is_name = str(run) in shipped
    # `experiments/rsna-best` is a folder with the name of a model, but no run.
    if run.is_dir() and not (is_name and not (run / _NEEDED[0]).exists()):
        return run
    if is_name:
        return shipped[str(run)]
    if run.is_file():
        fix = f"Name the folder that holds {_NEEDED[0]}, or a shipped model."
        raise InputError(Fault(str(run), "it is a file, and no run folder", fix))
    if not shipped or len(run.parts) > 1 or run.is_absolute():
        raise InputError(Fault(str(run), "there is no such folder", "Check the path."))
    close = difflib.get_close_matches(str(run), shipped, n=1)
    raise InputError(
        Fault(
            str(run),
            "there is no such folder, and no model of that name ships with boneage",
            f"Did you mean {close[0]!r}?" if close else "Check the path.",
            expected=f"a run folder, or one of {', '.join(shipped)}",
        )
    )


def open_run(run: Path) -> Run:
    """Open a finished run by its folder, or a shipped model by its name.

    Raises:
        InputError: There is no such run, it has no trained model, its recipe or its `run.json` is
            damaged, or the files of a shipped model differ from its checksums.
    """
    opened = Run(find_run(run))
    needed = (opened.network_path, opened.recipe_path, opened.info_path)
    missing = [path.name for path in needed if not path.exists()]
    if is_release(opened.folder):
        _refuse_other_formats(opened.folder)
    elif missing:
        raise InputError(
            Fault(
                str(opened.folder),
                f"this is not a finished run: {', '.join(missing)} missing",
                "Name another folder, or train one: boneage train RECIPE.toml --out RUN.",
            )
        )
    check_release(opened.folder)
    opened.read_recipe()
    opened.read_info(("name",))
    return opened


def _refuse_other_formats(folder: Path) -> None:
    """Refuse a folder that `boneage export` wrote for other programs."""
    exported = read_checked(folder / RELEASE_NAME, Release).get("export") or {}
    if exported.get("format", "onnx") != "onnx":
        what = f"boneage does not read the format of this network, {exported['format']}"
        fix = "Name the run, or export it once more with --format onnx."
        raise InputError(Fault(str(folder), what, fix))


def is_release(folder: Path) -> bool:
    """Return whether a folder holds a released or an exported model."""
    return (folder / RELEASE_NAME).exists()


class RecordedExport(FileSchema):
    """The key `export` of `release.json`."""

    format: Text = "onnx"


class Release(FileSchema):
    """The keys of `release.json` that are read again."""

    name: Text
    released: Text = ""
    export: RecordedExport | None = None


def release_name(folder: Path) -> str:
    """Return the name of a released model, which becomes the name of a folder of results.

    Raises:
        InputError: `release.json` is damaged, or the name leads to another folder.
    """
    path = folder / RELEASE_NAME
    fix = "This model may be forged. Use a copy from its authors."
    return check_name(read_checked(path, Release)["name"], f"{path}: name", fix)


def identify_model(run: Run) -> ModelIdentity:
    """Return the name, the version and the digest of a run's network.

    Raises:
        InputError: `run.json` or `release.json` is damaged.
    """
    path = run.onnx_path if run.onnx_path.exists() else run.best_path
    version, name = "", run.read_info().get("name") or run.folder.name
    if is_release(run.folder):
        released = read_checked(run.folder / RELEASE_NAME, Release)
        version, name = released.get("released", ""), release_name(run.folder)
    return ModelIdentity(name, version, file_digest(path))


def is_trained_on_greulich_pyle(models: Iterable[ModelIdentity]) -> bool:
    """Return whether all models are shipped ones, which learned from Greulich-Pyle readings.

    The method of other models' labels is not recorded.
    """
    sums = "".join(read_text(folder / SUMS_NAME) for folder in shipped_models().values())
    return all(model.digest in sums for model in models)


def check_release(folder: Path) -> None:
    """Compare the files of a released model with its `SHA256SUMS`; pass any other folder.

    Raises:
        InputError: Checksums are missing, or a file is missing or changed.
    """
    if not is_release(folder):
        return
    fix = "Install boneage again, or use a copy from the authors of the model."
    try:
        lines = read_text(folder / SUMS_NAME).splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (InputError, ValueError):
        expected = {}
    # Without its own line, a changed model would pass.
    networks = [name for name in _NETWORKS if name in expected or (folder / name).exists()]
    faults = [
        Fault(str(folder / SUMS_NAME), f"the checksum of {name} is missing", fix)
        for name in (*_NEEDED, *(networks or _NETWORKS[:1]))
        if name not in expected
    ]
    for name, digest in expected.items():
        check_name(name, str(folder / SUMS_NAME), fix)
        path = folder / name
        found = file_digest(path) if path.is_file() else None
        if found is None:
            faults.append(Fault(str(path), "the file is missing", fix))
        elif found != digest:
            faults.append(
                Fault(
                    str(path),
                    f"the file has changed since the release: its sha256 is {found}",
                    fix,
                    expected=f"{digest}, as in {SUMS_NAME}",
                )
            )
    if faults:
        raise InputError(faults)


def checksums(folder: Path) -> str:
    """Return the text of `SHA256SUMS` for a release: every file but the card."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = sorted(name for name in files if name not in _NOT_SUMMED)
    return "".join(f"{file_digest(folder / name)}  {name}\n" for name in names)
